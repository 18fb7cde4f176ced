"""jobs/sync_tracking.py against a real tracking server that comes, goes and dies, as its callers do."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from mlflow_server import MlflowServer
from own_process import start_job

from vavl.tracking.journal import Journal
from vavl.tracking.records import read_state, state_path
from vavl.tracking.replayer import following

STEPS = 1500
METRICS = ("train/loss/total", "train/learning_rate", "train/gradient_norm")


@pytest.fixture(scope="module")
def module_server(tmp_path_factory, tracking_database):
    folder = tmp_path_factory.mktemp("server")
    server = MlflowServer(folder, Path(shutil.copy(tracking_database, folder / "mlflow.db")))
    server.start()
    yield server
    server.kill()


@pytest.fixture
def server(module_server, monkeypatch):
    """The server, there and with no other store named in the environment."""
    for name in ("MLFLOW_TRACKING_URI", "VAVL_ROOT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    monkeypatch.setenv("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    module_server.start()
    return module_server


def make_run(folder: Path, uri: str | None, steps: int = 3, *, is_ended: bool = True) -> Journal:
    """Write what a training leaves that never reached its server."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump({"tracking": {"uri": uri, "system_metrics": False}}))
    journal = Journal(folder / "journal.jsonl")
    journal.append("run_start", run_id=str(folder), experiment="sync")
    journal.append_all([("step", step(number)) for number in range(steps)])
    if is_ended:
        (folder / "report.html").write_text("<p>report</p>")
        journal.append("artifact", path="report.html")
        journal.append("run_end", status="FINISHED", metrics={"test/audio/accuracy": 0.5})
    return journal


def step(number: int, shift: float = 0.0) -> dict[str, Any]:
    metrics = {name: number + place / 10 + shift for place, name in enumerate(METRICS)}
    return {"step": number, "metrics": metrics}


def make_long_run(folder: Path, server: MlflowServer) -> Journal:
    """A run whose worker died three times: steps are there again, equal or a little different."""
    journal = make_run(folder, server.address, 600, is_ended=False)
    equal = [record.payload for record in journal.read() if record.kind == "step"][520:]
    journal.append_all([("step", {**payload, "time": 1.0}) for payload in equal])
    journal.append_all([("step", step(number, 0.01)) for number in range(560, 1000)])
    journal.append("run_start", run_id=str(folder), experiment="sync")
    journal.append_all([("step", step(number, 0.02)) for number in range(990, STEPS)])
    journal.append("run_end", status="FINISHED", metrics={})
    return journal


def assert_whole(server: MlflowServer, journal: Journal) -> None:
    """Every step of every metric arrived exactly once, in order, with its first value."""
    first: dict[str, dict[int, float]] = {name: {} for name in METRICS}
    for record in journal.read():
        for name, value in record.payload.get("metrics", {}).items():
            first[name].setdefault(record.payload["step"], value)
    run_id = read_state(journal.path, server.address).mlflow_run_id
    assert run_id is not None
    for name in METRICS:
        points = server.points(run_id, name)
        assert [number for number, _ in points] == list(range(STEPS)), name
        assert dict(points) == first[name]


def is_in_the_middle(journal: Journal) -> bool:
    state = state_path(journal.path)
    return state.exists() and '"seq": 1,' not in state.read_text()


def test_runs_that_never_reached_their_server_arrive(server, tmp_path, run_job):
    runs = tmp_path / "runs"
    first, second = (make_run(runs / "one", server.address), make_run(runs / "two" / "earlier", server.address, 5))
    listed = run_job("sync_tracking", runs, "--dry-run")
    assert f"one          0             6        {server.address}" in listed.stdout
    assert not state_path(first.path).exists()

    done = run_job("sync_tracking", runs)
    summary = json.loads((runs / "summary.json").read_text())
    assert (summary["complete"], summary["sent"], summary["missing"]) == (True, 6 + 8, 0)
    assert [(run["run"], run["state"]) for run in summary["runs"]] == [
        ("one", "arrived"), ("two/earlier", "arrived")
    ]  # fmt: skip
    for journal, run in zip((first, second), summary["runs"], strict=True):
        assert run["mlflow_run_id"] == read_state(journal.path, server.address).mlflow_run_id
        assert run["mlflow_run_id"] in done.stdout
    assert server.points(summary["runs"][1]["mlflow_run_id"], METRICS[0]) == [(n, float(n)) for n in range(5)]
    again = run_job("sync_tracking", runs)
    assert "every run has arrived already" in again.stdout


def test_the_folder_of_one_run_keeps_its_own_summary(server, tmp_path, run_job):
    make_run(tmp_path / "run", server.address)
    (tmp_path / "run" / "summary.json").write_text("{}")
    run_job("sync_tracking", tmp_path / "run")
    assert (tmp_path / "run" / "summary.json").read_text() == "{}"
    assert json.loads((tmp_path / "run" / "sync" / "summary.json").read_text())["sent"] == 6


def test_a_file_and_another_store_may_be_named(server, tmp_path, run_job):
    make_run(tmp_path / "runs" / "one", "http://127.0.0.1:9")
    config = tmp_path / "sync.yaml"
    config.write_text(yaml.safe_dump({"folder": str(tmp_path / "runs"), "output_dir": str(tmp_path / "out")}))
    away = run_job("sync_tracking", config, code=1)
    assert "refused" in away.stdout
    assert "start the same command again" in away.stderr
    (run,) = json.loads((tmp_path / "out" / "summary.json").read_text())["runs"]
    assert (run["state"], run["sent"], run["missing"]) == ("not arrived", 0, 6)
    run_job("sync_tracking", config, f"tracking.uri={server.address}")
    (run,) = json.loads((tmp_path / "out" / "summary.json").read_text())["runs"]
    assert (run["state"], run["store"]) == ("arrived", server.address)


def test_a_run_without_an_end_is_sent_and_left_open(server, tmp_path, run_job, monkeypatch):
    journal = make_run(tmp_path / "runs" / "dead", server.address, is_ended=False)
    living = following(make_run(tmp_path / "runs" / "living", server.address).path)
    living.acquire(0)
    done = run_job("sync_tracking", tmp_path / "runs")
    living.release()
    assert "unfinished: start the job again to continue" in done.stdout
    assert "left to the run, which is at work" in done.stdout
    states = {run["run"]: run["state"] for run in json.loads((tmp_path / "runs/summary.json").read_text())["runs"]}
    assert states == {"dead": "unfinished", "living": "left to its run"}

    from mlflow.tracking import MlflowClient

    run_id = read_state(journal.path, server.address).mlflow_run_id
    assert MlflowClient(server.address).get_run(run_id).info.status == "RUNNING"
    # The job goes on in the same MLflow run.
    journal.append("run_start", run_id=str(journal.path.parent), experiment="sync")
    journal.append("step", **step(3))
    journal.append("run_end", status="FINISHED", metrics={})
    run_job("sync_tracking", tmp_path / "runs")
    run = MlflowClient(server.address).get_run(run_id)
    assert run.info.status == "FINISHED"
    assert server.points(run_id, METRICS[0]) == [(number, float(number)) for number in range(4)]


def test_a_folder_without_any_run_is_bad_input(tmp_path, run_job):
    done = run_job("sync_tracking", tmp_path, code=2)
    assert "holds no run" in done.stderr
    run_job("sync_tracking", tmp_path / "nowhere", code=2)


@pytest.mark.parametrize("killed", ["server", "job"])
def test_who_is_killed_in_the_middle_is_continued_with(server, tmp_path, killed, run_job):
    journal = make_long_run(tmp_path / "runs" / "long", server)
    job = start_job("sync_tracking", tmp_path / "runs", log=tmp_path / "log")
    job.wait_until(lambda: is_in_the_middle(journal))
    if killed == "server":
        server.kill()
        assert job.end() == 1, job.said
        assert "not arrived" in job.said
    else:
        job.kill()
    assert 1 < read_state(journal.path, server.address).seq < sum(1 for _ in journal.read())
    server.start()
    run_job("sync_tracking", tmp_path / "runs")
    assert_whole(server, journal)


@pytest.mark.slow
def test_two_processes_at_once_send_everything_once(server, tmp_path):
    journal = make_long_run(tmp_path / "runs" / "long", server)
    jobs = [start_job("sync_tracking", tmp_path / "runs", log=tmp_path / f"log{number}") for number in range(2)]
    assert [job.end() for job in jobs] == [0, 0], [job.said for job in jobs]
    assert_whole(server, journal)

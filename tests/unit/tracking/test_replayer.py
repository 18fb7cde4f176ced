"""The replay loses nothing, repeats nothing and never raises, whatever the tracking store does."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from vavl.serving.registry import register_model
from vavl.tracking.journal import Journal
from vavl.tracking.mlflow_writer import MlflowWriter
from vavl.tracking.records import state_path
from vavl.tracking.replayer import Replayer, following, is_followed, only_one, unfinished_journals
from vavl.tracking.settings import TrackingSettings

ClientOf = Callable[[TrackingSettings], Any]


@pytest.fixture
def journal(tmp_path):
    return Journal(tmp_path / "run" / "journal.jsonl")


def _start(journal: Journal, settings: TrackingSettings, **changes: Any) -> None:
    payload = {
        "run_id": "demo-1",
        "run_name": "demo",
        "experiment": settings.experiment,
        "params": {"training.seed": 1, "data.card": "datasets/demo.yaml", "training.max_steps": None},
        "tags": {"mlflow.source.git.commit": "abc"},
        "dataset": {
            "name": "demo", "store_hash": "f" * 64, "path": "/stores/demo", "card": "demo", "counts": {"train": 9}
        },
        "config_yaml": "training:\n  seed: 1\n",
    }  # fmt: skip
    journal.append("run_start", **{**payload, **changes})


def _steps(journal: Journal, first: int, last: int) -> None:
    for step in range(first, last + 1):
        journal.append("step", step=step, metrics={"train/loss": 1 / step})


def _history(client: Any, run_id: str, name: str = "train/loss") -> list[tuple[int, float]]:
    return [(point.step, point.value) for point in client.get_metric_history(run_id, name)]


def test_a_whole_run_arrives(journal, tracking, client_of):
    picture = journal.path.parent / "picture.svg"
    picture.parent.mkdir()
    picture.write_text("<svg/>")
    _start(journal, tracking)
    _steps(journal, 1, 3)
    journal.append("epoch", epoch=1, step=3, metrics={"validation/audio/accuracy": 0.5, "broken": float("nan")})
    journal.append("system", metrics={"system/cpu_utilization_percentage": 7.0})
    journal.append("artifact", path=picture, artifact_path="pictures")
    journal.append("artifact", path="picture.svg")
    (journal.path.parent / "more").mkdir()
    (journal.path.parent / "more" / "page.html").write_text("")
    journal.append("artifact", path="more")
    journal.append("run_end", status="FINISHED", metrics={"test/audio/accuracy": 0.25})
    replay = Replayer([journal], tracking, register_model)
    assert replay.finish(60)

    client = client_of(tracking)
    run = client.get_run(replay.state.mlflow_run_id)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "demo"
    assert run.info.end_time == int(list(journal.read())[-1].time * 1000)
    assert run.data.params == {
        "training.seed": "1", "data.card": "datasets/demo.yaml", "training.max_steps": "null"
    }  # fmt: skip
    assert run.data.tags["mlflow.source.git.commit"] == "abc"
    assert run.data.metrics["test/audio/accuracy"] == 0.25
    assert "broken" not in run.data.metrics
    assert _history(client, run.info.run_id) == [(1, 1.0), (2, 0.5), (3, 1 / 3)]
    assert _history(client, run.info.run_id, "epoch") == [(3, 1.0)]
    assert "system/cpu_utilization_percentage" in run.data.metrics
    (dataset,) = run.inputs.dataset_inputs
    assert dataset.dataset.name == "demo"
    assert json.loads(dataset.dataset.profile)["store_hash"] == "f" * 64
    assert json.loads(dataset.dataset.source) == {"uri": "/stores/demo"}
    assert {file.path for file in client.list_artifacts(run.info.run_id)} == {
        "config.yaml", "pictures", "picture.svg", "more"
    }  # fmt: skip
    assert client.list_artifacts(run.info.run_id, "pictures")[0].path == "pictures/picture.svg"


def test_many_points_travel_in_few_requests(journal, tracking, client_of, monkeypatch):
    requests = []
    log_points = MlflowWriter.log_points
    monkeypatch.setattr(
        MlflowWriter, "log_points", lambda self, run, points: (requests.append(1), log_points(self, run, points))
    )
    _start(journal, tracking)
    journal.append_all([("step", {"step": step, "metrics": {"a": step, "b": step}}) for step in range(1500)])
    replay = Replayer([journal], tracking, register_model)
    assert replay.run_once()
    assert len(requests) == 5
    assert len(client_of(tracking).get_metric_history(replay.state.mlflow_run_id, "b")) == 1500


def test_replaying_twice_changes_nothing(journal, tracking, client_of):
    _start(journal, tracking)
    _steps(journal, 1, 4)
    replay = Replayer([journal], tracking, register_model)
    assert replay.run_once()
    run_id = replay.state.mlflow_run_id
    assert Replayer([journal], tracking, register_model).finish(60)
    # Even without the memory of the first replay the same run and the same points are found.
    state_path(journal.path).unlink()
    again = Replayer([journal], tracking, register_model)
    assert again.finish(60)
    assert again.state.mlflow_run_id == run_id
    client = client_of(tracking)
    assert [step for step, _ in _history(client, run_id)] == [1, 2, 3, 4]
    experiment = client.get_experiment_by_name(tracking.experiment)
    assert len(client.search_runs([experiment.experiment_id])) == 1


def test_a_new_process_goes_on_in_the_same_run(journal, tracking, client_of):
    _start(journal, tracking)
    _steps(journal, 1, 5)
    first = Replayer([journal], tracking, register_model)
    assert first.finish(60)
    # The run was killed and resumed from step 3 with another setting; steps 4 and 5 come again.
    _start(journal, tracking, params={"training.seed": 1, "training.workers": 2, "data.card": "other"})
    _steps(journal, 4, 7)
    second = Replayer([journal], tracking, register_model)
    assert second.finish(60)
    assert second.state.mlflow_run_id == first.state.mlflow_run_id
    client = client_of(tracking)
    run = client.get_run(second.state.mlflow_run_id)
    assert run.data.params["data.card"] == "datasets/demo.yaml"
    assert run.data.params["training.workers"] == "2"
    assert run.data.tags["resumed.data.card"] == "other"
    assert [step for step, _ in _history(client, run.info.run_id)] == [1, 2, 3, 4, 5, 6, 7]


def test_a_server_that_is_down_loses_nothing(journal, tracking, client_of, caplog):
    down = tracking.model_copy(update={"uri": "http://127.0.0.1:9"})
    replay = Replayer([journal], down, register_model)
    replay.start()
    _start(journal, tracking)
    _steps(journal, 1, 3)
    _wait_for(lambda: "cannot be written now" in caplog.text)
    _steps(journal, 4, 6)
    started = time.monotonic()
    assert replay.finish(1) is False
    assert time.monotonic() - started < 30
    assert str(journal.path) in caplog.text
    assert "next start in this directory replays the rest" in caplog.text
    assert caplog.text.count("cannot be written now") == 1

    later = Replayer([journal], tracking, register_model)
    assert later.finish(60)
    points = _history(client_of(tracking), later.state.mlflow_run_id)
    assert [step for step, _ in points] == [1, 2, 3, 4, 5, 6]


@contextlib.contextmanager
def _locked(database: Path) -> Iterator[None]:
    with contextlib.closing(sqlite3.connect(database, isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        yield
        connection.execute("ROLLBACK")


def test_a_locked_sqlite_file_delays_and_loses_nothing(journal, private_tracking, client_of, monkeypatch):
    monkeypatch.setattr("vavl.tracking.replayer._PROBE_SECONDS", 0.1)
    database = Path(str(private_tracking.uri).removeprefix("sqlite:///"))
    replay = Replayer([journal], private_tracking, register_model)
    replay.start()
    _start(journal, private_tracking)
    _steps(journal, 1, 2)
    _wait_for(lambda: replay.state.seq == 3)
    with _locked(database):
        _steps(journal, 3, 5)
        assert replay.finish(0.5) is False
        assert replay.state.seq == 3
    again = Replayer([journal], private_tracking, register_model)
    assert again.finish(60)
    points = _history(client_of(private_tracking), again.state.mlflow_run_id)
    assert [step for step, _ in points] == [1, 2, 3, 4, 5]


def test_whatever_mlflow_raises_stays_inside(journal, tracking, monkeypatch):
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("surprise")

    _start(journal, tracking)
    _steps(journal, 1, 2)
    with monkeypatch.context() as patch:
        patch.setattr("vavl.tracking.mlflow_writer.MlflowWriter.open_run", fail)
        replay = Replayer([journal], tracking, register_model)
        assert replay.run_once() is False
        assert replay.run_once() is False
    assert replay.run_once() is True
    assert replay.state.seq == 3


def test_a_failure_in_the_middle_repeats_no_point(journal, tracking, client_of, monkeypatch):
    _start(journal, tracking)
    _steps(journal, 1, 3)
    replay = Replayer([journal], tracking, register_model)
    with monkeypatch.context() as patch:
        # The points arrive, but the process dies before it can remember that.
        patch.setattr("vavl.tracking.replayer.write_state", _raise_after_points())
        assert replay.run_once() is False
    assert replay.state.seq == 1
    assert Replayer([journal], tracking, register_model).finish(60)
    assert [step for step, _ in _history(client_of(tracking), replay.state.mlflow_run_id)] == [1, 2, 3]


def _raise_after_points() -> Callable[..., None]:
    from vavl.tracking.records import write_state

    def write(path: Path, uri: str, state: Any) -> None:
        if state.seq > 1:
            raise OSError("disk full")
        write_state(path, uri, state)

    return write


def test_only_one_replay_at_a_time(journal, tracking):
    _start(journal, tracking)
    with only_one(journal.path) as alone:
        assert alone
        assert Replayer([journal], tracking, register_model).run_once() is False
    assert Replayer([journal], tracking, register_model).run_once() is True


def _wait_for(condition: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the condition never came true"
        time.sleep(0.02)


def _ended_run(folder: Path, tracking: TrackingSettings) -> Journal:
    journal = Journal(folder / "journal.jsonl")
    journal.append("run_start", run_id=folder.name, experiment=tracking.experiment)
    (folder / "report.html").write_text("")
    journal.append("artifact", path="report.html")
    journal.append("run_end", status="FINISHED", metrics={"test/audio/accuracy": 0.5})
    return journal


def test_a_run_put_aside_before_it_was_replayed_arrives(tmp_path, tracking, tracking_client):
    down = tracking.model_copy(update={"uri": "http://127.0.0.1:9"})
    journal = _ended_run(tmp_path / "run", tracking)
    assert Replayer([journal], down, register_model).finish(0.1) is False
    earlier = tmp_path / "again" / "earlier"
    earlier.mkdir(parents=True)
    shutil.move(tmp_path / "run", earlier / "run")

    assert list(unfinished_journals(earlier, tracking)) == [earlier / "run" / "journal.jsonl"]
    own = Journal(tmp_path / "again" / "journal.jsonl")
    own.append("run_start", run_id="again", experiment=f"{tracking.experiment}-again")
    replay = Replayer([own], tracking, register_model)
    replay.add_leftovers(earlier)
    replay.start()
    _wait_for(lambda: not list(unfinished_journals(earlier, tracking)))
    assert replay.finish(60)
    experiment = tracking_client.get_experiment_by_name(tracking.experiment)
    (run,) = tracking_client.search_runs([experiment.experiment_id])
    assert run.data.metrics["test/audio/accuracy"] == 0.5
    assert tracking_client.list_artifacts(run.info.run_id)[0].path == "report.html"


def test_a_run_that_another_store_holds_stays_there(tmp_path, tracking):
    journal = _ended_run(tmp_path / "run", tracking)
    assert Replayer([journal], tracking, register_model).finish(60)
    other = tracking.model_copy(update={"uri": f"sqlite:///{tmp_path}/other.db"})
    assert list(unfinished_journals(tmp_path, other)) == []


def test_a_followed_journal_and_those_below_it_are_left_alone(tmp_path):
    own = tmp_path / "comparison" / "journal.jsonl"
    child, other = own.parent / "runs" / "one" / own.name, tmp_path / "other" / own.name
    follower = following(own)
    assert not is_followed(own)
    own.parent.mkdir()
    follower.acquire(0)
    assert is_followed(own)
    assert is_followed(child)
    assert not is_followed(other)
    follower.release()
    follower.release()
    assert not is_followed(child)


def _follow_for_ever(journal: Path) -> None:
    with following(journal):
        time.sleep(600)


def test_a_killed_run_leaves_its_journal(tmp_path):
    journal = tmp_path / "journal.jsonl"
    process = multiprocessing.get_context("fork").Process(target=_follow_for_ever, args=(journal,))
    process.start()
    deadline = time.monotonic() + 30
    while not is_followed(journal):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.join()
    assert not is_followed(journal)

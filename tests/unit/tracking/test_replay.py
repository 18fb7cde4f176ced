"""What a store refuses for a while waits, in order; only a malformed record is set aside; a lost run is rebuilt."""

from __future__ import annotations

import contextlib
import json
import resource
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from vavl.serving.registry import register_model
from vavl.tracking.journal import Journal
from vavl.tracking.mlflow_writer import MlflowWriter, logged_model_of
from vavl.tracking.records import read_states, set_aside_path
from vavl.tracking.replayer import Replayer
from vavl.tracking.settings import TrackingSettings

pytestmark = pytest.mark.promise

LOOKS = 5  # more than any count of tries after which a record might be given up
MEGABYTE = 2**20


@pytest.fixture
def run(tmp_path):
    """The directory of a run."""
    (tmp_path / "run").mkdir()
    return tmp_path / "run"


def start(run: Path, tracking: TrackingSettings) -> Journal:
    journal = Journal(run / "journal.jsonl")
    journal.append("run_start", run_id="run", experiment=tracking.experiment, config_yaml="a: 1\n")
    journal.append("step", step=1, metrics={"loss": 1.0})
    return journal


def finish(journal: Journal, model_folder: Path | None, size: int = 100) -> None:
    (journal.path.parent / "report.html").write_bytes(b"r" * size)
    journal.append("artifact", path="report.html", artifact_path=None)
    journal.append("event", what="stopped", step=2, message="asked to")
    journal.append("step", step=2, metrics={"loss": 0.5})
    if model_folder is not None:
        journal.append("model", folder=str(model_folder), name="waiting", tags={})
    journal.append("run_end", status="FINISHED", metrics={"test/accuracy": 0.5})


def assert_whole(journal: Journal, settings: TrackingSettings, client: Any) -> None:
    """The store holds every record of a finished run."""
    (state,) = read_states(journal.path).values()
    assert state.refused == {}
    assert not set_aside_path(journal.path).exists()
    run = client.get_run(state.mlflow_run_id)
    assert run.info.status == "FINISHED"
    assert [point.value for point in client.get_metric_history(run.info.run_id, "loss")] == [1.0, 0.5]
    report = journal.path.parent / "report.html"
    held = {file.path: file.file_size for file in client.list_artifacts(run.info.run_id)}
    assert held.keys() == {"config.yaml", "events.json", "report.html"}
    assert held["report.html"] == report.stat().st_size
    if state.model_version is None:
        return
    (version,) = client.search_model_versions(f"name = 'waiting' and run_id = '{run.info.run_id}'")
    assert str(version.version) == state.model_version
    assert client.list_logged_model_artifacts(logged_model_of(version), "artifacts/model")


def assert_waits(replay: Replayer, seq: int) -> None:
    for _ in range(LOOKS):
        assert not replay.run_once()
    assert (replay.state.seq, replay.state.refused) == (seq, {})


def test_an_artifact_directory_that_is_away_delays_and_loses_nothing(run, private_tracking, client_of, model_folder):
    artifacts = Path(str(private_tracking.artifact_location))
    journal = start(run, private_tracking)
    replay = Replayer([journal], private_tracking, register_model)
    assert replay.run_once()
    finish(journal, model_folder)
    shutil.rmtree(artifacts)
    artifacts.write_text("a mount point without its share")
    assert_waits(replay, 2)
    artifacts.unlink()
    assert replay.finish(60)
    client = client_of(private_tracking)
    # What the removed directory held is not known to be gone until somebody compares.
    journal.append("system", metrics={})
    assert Replayer([journal], private_tracking, register_model, compares=True).finish(60)
    assert_whole(journal, private_tracking, client)


@contextlib.contextmanager
def full_disk(size: int) -> Iterator[None]:
    """No file of this process may grow beyond ``size`` bytes: writing ends as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_artifact_store_delays_and_loses_nothing(run, private_tracking, client_of, model_folder):
    journal = start(run, private_tracking)
    finish(journal, model_folder, size=12 * MEGABYTE)
    replay = Replayer([journal], private_tracking, register_model)
    with full_disk(10 * MEGABYTE):
        assert_waits(replay, 2)
    assert replay.finish(60)
    assert_whole(journal, private_tracking, client_of(private_tracking))


def test_a_full_database_delays_and_loses_nothing(run, private_tracking, client_of, model_folder):
    journal = start(run, private_tracking)
    replay = Replayer([journal], private_tracking, register_model)
    assert replay.run_once()
    finish(journal, model_folder)
    with full_disk(4096):
        assert_waits(replay, 3)
    assert replay.finish(60)
    assert_whole(journal, private_tracking, client_of(private_tracking))


@pytest.mark.parametrize(
    ("method", "code", "reached"),
    [
        ("log_points", "TEMPORARILY_UNAVAILABLE", 1),
        ("log_artifact", "PERMISSION_DENIED", 2),
        ("log_events", "INTERNAL_ERROR", 3),
        ("end_run", "RESOURCE_EXHAUSTED", 5),
    ],
)
def test_an_error_of_the_server_is_no_refusal_of_the_record(
    run: Path, tracking: TrackingSettings, tracking_client: Any, method: str, code: str, reached: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    from mlflow.exceptions import MlflowException
    from mlflow.protos import databricks_pb2

    def refuse(*_: Any) -> None:
        raise MlflowException("not now", error_code=getattr(databricks_pb2, code))

    journal = start(run, tracking)
    finish(journal, None)
    replay = Replayer([journal], tracking)
    with monkeypatch.context() as patch:
        patch.setattr(MlflowWriter, method, refuse)
        assert_waits(replay, reached)
    assert replay.finish(60)
    assert_whole(journal, tracking, tracking_client)


def _deleted(database: Path, tables: Path) -> None:
    database.unlink()


def _replaced(database: Path, tables: Path) -> None:
    shutil.copy(tables, database.with_suffix(".new"))
    database.with_suffix(".new").replace(database)


@pytest.mark.parametrize("loss", [_deleted, _replaced])
def test_a_database_that_was_deleted_or_replaced_gets_the_run_again(
    run: Path, private_tracking: TrackingSettings, tracking_database: Path, client_of: Any, model_folder: Path,
    loss: Callable[[Path, Path], None],
) -> None:  # fmt: skip
    journal = start(run, private_tracking)
    child = start(run / "child", private_tracking.model_copy(update={"experiment": "children"}))
    replay = Replayer([journal], private_tracking, register_model)
    replay.add(child.path)
    assert replay.run_once()
    first = replay.state.mlflow_run_id
    loss(Path(str(private_tracking.uri).removeprefix("sqlite:///")), tracking_database)
    finish(journal, model_folder)
    assert replay.finish(120)
    assert replay.state.mlflow_run_id != first
    client = client_of(private_tracking)
    assert_whole(journal, private_tracking, client)
    (other,) = client.search_runs([client.get_experiment_by_name("children").experiment_id])
    assert other.data.metrics == {"loss": 1.0}


def test_only_a_malformed_record_is_set_aside_by_name(run, tracking, tracking_client, caplog):
    journal = start(run, tracking)
    for payload in (
        {"step": "two", "metrics": {"loss": 1.0}},
        {"step": 2, "metrics": {"../outside": 1.0}},
        {"step": 2**70, "metrics": {"loss": 1.0}},
        {"step": 2, "metrics": ["loss"]},
        {"metrics": {"loss": 1.0}},
    ):
        journal.append("step", **payload)
    journal.append("artifact", path="gone.png")
    journal.append("artifact", path=7)
    journal.append("model", folder="nowhere", name="waiting")
    with journal.path.open("a") as file:
        file.write(json.dumps({"seq": 11, "kind": "step", "time": "noon", "step": 2, "metrics": {"loss": 7.0}}) + "\n")
    journal.append("step", step=3, metrics={"loss": 0.25, "odd name: 50 %!": 2.0, "half \ud83d": 1.0})
    journal.append("run_end", status="FINISHED")
    replay = Replayer([journal], tracking, register_model)
    assert not replay.finish(60)
    assert [*replay.state.refused] == [*range(3, 11)]
    listed = json.loads(set_aside_path(journal.path).read_text())[tracking.uri]
    assert [*listed] == [str(seq) for seq in range(3, 11)]
    assert "gone.png does not exist" in listed["8"]["reason"]
    assert listed["4"]["metrics"] == {"../outside": 1.0}
    assert str(set_aside_path(journal.path)) in caplog.text
    found = tracking_client.get_run(replay.state.mlflow_run_id)
    assert found.info.status == "FINISHED"
    assert found.data.metrics == {"loss": 0.25, "odd name: 50 __": 2.0, "half _": 1.0}
    # Its file is back: a comparison sends it, and the others stay named.
    (run / "gone.png").write_text("here")
    assert not Replayer([journal], tracking, register_model, compares=True).finish(60)
    assert {file.path for file in tracking_client.list_artifacts(found.info.run_id)} == {"config.yaml", "gone.png"}
    assert "8" not in json.loads(set_aside_path(journal.path).read_text())[tracking.uri]


def test_waiting_ends_when_the_patience_does(run, private_tracking, model_folder, monkeypatch, caplog):
    monkeypatch.setattr("vavl.tracking.replayer._PATIENCE_SECONDS", 1.0)
    artifacts = Path(str(private_tracking.artifact_location))
    artifacts.write_text("no directory")
    journal = start(run, private_tracking)
    began = time.monotonic()
    assert not Replayer([journal], private_tracking, register_model).finish(300)
    assert time.monotonic() - began < 60
    assert "nothing is lost" in caplog.text

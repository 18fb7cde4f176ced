"""A real tracking server that goes away in the middle of a run and comes back."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow_server import MlflowServer

from vavl.serving.model_address import resolve_model
from vavl.serving.registry import register_model
from vavl.tracking.journal import Journal
from vavl.tracking.records import state_path
from vavl.tracking.replayer import Replayer
from vavl.tracking.settings import TrackingPlace, unreachable_reason


@pytest.fixture
def server(tracking_database, tmp_path):
    """A server over a database of its own; the test starts and kills it."""
    database = shutil.copy(tracking_database, tmp_path / "server.db")
    server = MlflowServer(tmp_path / "server", Path(database))
    yield server
    server.kill()


def _wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the condition never came true"
        time.sleep(0.02)


def test_a_server_may_go_away_and_come_back(tracking, server, model_folder, tmp_path, client_of, monkeypatch, caplog):
    settings = tracking.model_copy(update={"uri": server.address, "artifact_location": None})
    journal = Journal(tmp_path / "journal.jsonl")
    replay = Replayer([journal], settings, register_model)
    server.start()
    replay.start()
    journal.append("run_start", run_id="run", experiment="server", config_yaml="a: 1\n", params={"a": 1})
    journal.append("step", step=1, metrics={"loss": 1.0})
    _wait_for(lambda: replay.state.seq == 2)
    server.kill()
    journal.append("step", step=2, metrics={"loss": 0.5})
    _wait_for(lambda: "cannot be written now" in caplog.text)
    server.start()
    journal.append("step", step=3, metrics={"loss": 0.25})
    journal.append("model", folder=model_folder, name="served")
    journal.append("run_end", status="FINISHED")
    assert replay.finish(60)
    assert replay.state.model_version == "1"
    # A process that died between the registration and its memory of it, and a run that was resumed there.
    state_path(journal.path).unlink()
    journal.append("run_start", run_id="run", experiment="server", config_yaml="a: 1\n", params={"a": 1})
    journal.append("artifact", path="journal.jsonl")
    journal.append("model", folder=model_folder, name="served")
    journal.append("run_end", status="FINISHED")
    again = Replayer([journal], settings, register_model)
    assert again.finish(60)
    client = client_of(settings)
    (version,) = client.search_model_versions("name = 'served'")
    assert version.version == "1"
    run_id = replay.state.mlflow_run_id
    assert again.state.mlflow_run_id == run_id
    assert server.points(run_id, "loss") == [(1, 1.0), (2, 0.5), (3, 0.25)]
    assert {file.path for file in client.list_artifacts(run_id)} == {"config.yaml", "journal.jsonl"}
    monkeypatch.setenv("VAVL_CACHE", str(tmp_path / "cache"))
    for _ in range(2):
        copied = resolve_model("models:/served/1", settings)
        assert copied.directory.is_relative_to(tmp_path / "cache" / "models")
        assert {file.name: file.read_bytes() for file in copied.directory.iterdir()} == {
            file.name: file.read_bytes() for file in model_folder.iterdir()
        }


def test_only_silence_and_server_errors_count_as_unreachable(tmp_path, server):
    assert "refused" in str(unreachable_reason(TrackingPlace(server.address, None), 1))
    assert unreachable_reason(TrackingPlace(f"sqlite:///{tmp_path}/not-there-yet.db", None), 1) is None
    assert unreachable_reason(TrackingPlace("postgresql://%2Frun%2Fpostgresql/data", None), 1) is None
    closed = TrackingPlace(server.address.replace("http://", "postgresql+psycopg://me:secret@") + "/data", None)
    assert "Connection refused" in str(unreachable_reason(closed, 1))
    assert "secret" not in str(unreachable_reason(closed, 1))

"""A real tracking server that goes away in the middle of a run and comes back."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from vavl.tracking.journal import Journal
from vavl.tracking.reachable import unreachable_reason
from vavl.tracking.replay import Replay
from vavl.tracking.settings import TrackingPlace, TrackingSettings


@pytest.fixture
def address() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


@contextlib.contextmanager
def _server(address: str, settings: TrackingSettings, folder: Path) -> Iterator[None]:
    command = [
        sys.executable, "-m", "mlflow", "server", "--backend-store-uri", str(settings.uri), "--workers", "1",
        "--artifacts-destination", str(folder), "--host", "127.0.0.1", "--port", address.rpartition(":")[2],
    ]  # fmt: skip
    with (folder / "server.log").open("ab") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, start_new_session=True,
            # Without its runner of background jobs the server is there in half the time.
            env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        )  # fmt: skip
    try:
        _wait_until_healthy(address, process, folder / "server.log")
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _wait_until_healthy(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + 90
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{address}/health", timeout=1):
            return
        time.sleep(0.2)
    pytest.fail(f"the server did not start:\n{log.read_text()[-2000:]}")


@pytest.mark.slow
def test_a_server_may_go_away_and_come_back(
    private_tracking: TrackingSettings, model_folder: Path, tmp_path: Path, address: str, client_of: Any
) -> None:
    settings = private_tracking.model_copy(update={"uri": address, "artifact_location": None})
    folder = tmp_path / "server"
    folder.mkdir()
    journal = Journal(tmp_path / "journal.jsonl")
    replay = Replay(journal, settings)
    with _server(address, private_tracking, folder):
        replay.start()
        journal.append("run_start", run_id="run", experiment="server", config_yaml="a: 1\n", params={"a": 1})
        journal.append("step", step=1, metrics={"loss": 1.0})
        end = time.monotonic() + 30
        while replay.state.seq < 2 and time.monotonic() < end:
            time.sleep(0.05)
        assert replay.state.seq == 2
    journal.append("step", step=2, metrics={"loss": 0.5})
    time.sleep(0.5)
    with _server(address, private_tracking, folder):
        journal.append("step", step=3, metrics={"loss": 0.25})
        journal.append("model", folder=model_folder, name="served")
        journal.append("run_end", status="FINISHED")
        assert replay.finish(60)
        assert replay.state.model_version == "1"
        client = client_of(settings)
        points = client.get_metric_history(replay.state.mlflow_run_id, "loss")
        assert [(point.step, point.value) for point in points] == [(1, 1.0), (2, 0.5), (3, 0.25)]
        assert client.list_artifacts(replay.state.mlflow_run_id)[0].path == "config.yaml"


def test_only_silence_and_server_errors_count_as_unreachable(tmp_path: Path, address: str) -> None:
    assert "refused" in str(unreachable_reason(TrackingPlace(address, None), 1))
    assert unreachable_reason(TrackingPlace(f"sqlite:///{tmp_path}/not-there-yet.db", None), 1) is None
    assert unreachable_reason(TrackingPlace("postgresql://host/data", None), 1) is None

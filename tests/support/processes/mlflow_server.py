"""A tracking server in a process of its own on loopback, that a test may kill and start again."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

from own_process import OwnProcess, answers, free_port


class MlflowServer:
    """One server over one database; its address stays the same over restarts.

    Args:
        folder: of the database, the artifacts and the log.
        database: SQLite file with MLflow's tables; by default the server makes one in the directory.
        store: address of another database in its place, with its password.
    """

    def __init__(self, folder: Path, database: Path | None = None, store: str | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.database = folder, database or folder / "mlflow.db"
        self.artifacts = folder / "artifacts"
        self._store = store or f"sqlite:///{self.database}"
        self._port = str(free_port())
        self.address = f"http://127.0.0.1:{self._port}"
        self._own: OwnProcess | None = None

    def start(self) -> None:
        """Start the server and wait until it answers; without effect while it is there."""
        if self._own is not None:
            return
        self._own = OwnProcess(
            "-m", "mlflow", "server", "--workers", "1", "--serve-artifacts",
            "--artifacts-destination", str(self.artifacts), "--host", "127.0.0.1", "--port", self._port,
            log=self.folder / "server.log",
            MLFLOW_BACKEND_STORE_URI=self._store,  # everybody reads the words of a command
            # Without its runner of background jobs the server is there in half the time.
            MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false",
        )  # fmt: skip
        self._own.wait_until(lambda: answers(f"{self.address}/health"), pause=0.2)

    def kill(self) -> None:
        """End the server and its workers with SIGKILL."""
        if self._own is not None:
            self._own.kill()
        self._own = None

    def tables(self) -> list[Path]:
        """Return the files of the database: SQLite may have a journal next to it."""
        return sorted(self.database.parent.glob(f"{self.database.name}*"))

    def points(self, run_id: str, metric: str) -> list[tuple[int, float]]:
        """Return step and value of every point of a metric in the order of their arrival."""
        with contextlib.closing(sqlite3.connect(self.database)) as connection:
            return connection.execute(
                "SELECT step, value FROM metrics WHERE run_uuid = ? AND key = ? ORDER BY rowid", (run_id, metric)
            ).fetchall()

"""A run whose driver is a process of its own: how it is started, killed and asked how it ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

_ROOT = Path(__file__).parents[2]


class ProcessRun:
    """Holds the process; who inherits says what it runs.

    Args:
        log: file that takes what the process says; grows over its starts.
    """

    def __init__(self, log: Path) -> None:
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def driver(self) -> int:
        """Return the process id."""
        assert self._process is not None
        return self._process.pid

    def exit_code(self) -> int | None:
        """Return how the process ended, None while it lives."""
        assert self._process is not None
        return self._process.poll()

    def kill(self) -> None:
        """Kill the process."""
        assert self._process is not None
        os.kill(self.driver, signal.SIGKILL)
        self._process.wait()

    def error_message(self) -> str:
        """Return the end of the log."""
        return self._log.read_text()[-2000:]

    def close(self) -> None:
        """End what is left."""
        if self._process is not None and self._process.poll() is None:
            self.kill()

    def _begin(self, words: list[str], environment: Mapping[str, str] | None = None) -> None:
        self._process = self._run(words, environment)

    def _run(self, words: list[str], environment: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
        """Start ``python words`` in the project's directory."""
        with self._log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-W", "ignore", *words],
                cwd=_ROOT, stdout=log, stderr=log, env=environment, start_new_session=True,
            )  # fmt: skip

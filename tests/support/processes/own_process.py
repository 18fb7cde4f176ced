"""What tests start in processes of their own, and the wait for what those do."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import psutil

ROOT = Path(__file__).parents[3]

Found = TypeVar("Found")


def free_port(host: str = "127.0.0.1") -> int:
    """Return a port on which nobody listens."""
    with socket.socket() as place:
        place.bind((host, 0))
        return int(place.getsockname()[1])


def answers(address: str) -> bool:
    """Return whether a server has a page there."""
    with contextlib.suppress(OSError), urllib.request.urlopen(address, timeout=10):
        return True
    return False


def wait_until(
    is_so: Callable[[], Found], seconds: float = 300.0, said: Callable[[], str] = str, pause: float = 0.02
) -> Found:
    """Wait for a value that counts as true, and return it; when the time is over, fail with what ``said`` returns."""
    deadline = time.monotonic() + seconds
    while not (found := is_so()):
        assert time.monotonic() < deadline, f"not so within {seconds:g} s: {said()}"
        time.sleep(pause)
    return found


class OwnProcess:
    """A program of this Python, in a session of its own; what it prints is added to a file.

    Args:
        words: of its command, after that of Python.
        log: file for what it prints.
        cwd: directory to start it in; by default that of the test.
        environment: variables over those of the test.
    """

    def __init__(self, *words: str | Path, log: Path, cwd: Path | None = None, **environment: str) -> None:
        self._log = log
        with log.open("ab") as stream:
            self.process = subprocess.Popen(
                [sys.executable, *words], cwd=cwd, stdout=stream, stderr=stream, start_new_session=True,
                env=_environment(environment),
            )  # fmt: skip

    @property
    def said(self) -> str:
        """What it has printed."""
        return self._log.read_text()

    def wait_until(self, is_so: Callable[[], Found], seconds: float = 300.0, pause: float = 0.01) -> Found:
        """Wait for a value that counts as true before the process ends, and return it; look again after a pause."""

        def found() -> Found:
            seen = is_so()
            assert seen or self.process.poll() is None, f"it ended with {self.process.returncode}: {self.said[-3000:]}"
            return seen

        return wait_until(found, seconds, lambda: self.said[-3000:], pause)

    def end(self, seconds: float = 600.0) -> int:
        """Wait for the end; return the exit code."""
        return self.process.wait(seconds)

    def kill(self) -> None:
        """End it and all that it started at once, as a machine ends."""
        started: list[psutil.Process] = []
        with contextlib.suppress(psutil.NoSuchProcess):
            started = psutil.Process(self.process.pid).children(recursive=True)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        for one in started:  # some have sessions of their own
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
        self.process.wait()


def start_job(name: str, *words: str | Path, log: Path, **settings: Any) -> OwnProcess:
    """Start ``jobs/<name>.py`` with these words."""
    return OwnProcess(ROOT / f"jobs/{name}.py", *words, log=log, **settings)


def run_program(*words: str | Path, cwd: Path | None = None, seconds: float = 600.0, **environment: str) -> str:
    """Run a program of this Python to its end, which has to be a good one; return what it printed to stdout."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", *words], cwd=cwd, env=_environment(environment), timeout=seconds,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    return done.stdout


def _environment(changes: Mapping[str, str]) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT / "platform"), **changes}

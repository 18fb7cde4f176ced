"""How a run is asked to stop, and how it says that it left before its end.

A file in the run's folder reaches every worker on shared storage, whatever started the run.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Literal

from vavl.config.files import read_json, write_json
from vavl.errors import TrainingError

STOP_FILE = "stop.json"
_LEFT_FILE = "left.json"
_LOOK_SECONDS = 0.2

Reason = Literal["stop", "resize", "preemption"]


class TrainingStopped(TrainingError):  # noqa: N818  a wish that was granted, though the work is not done
    """Somebody asked the run to stop; starting it again goes on from its checkpoint."""


def ask_to_stop(folder: Path, reason: Reason, message: str) -> None:
    """Ask the workers of a run to write a checkpoint after their step and to leave."""
    write_json(folder / STOP_FILE, {"reason": reason, "message": message, "time": time.time()})


def stop_reason(folder: Path) -> Reason | None:
    """Return why the run was asked to stop, None if it was not."""
    path = folder / STOP_FILE
    if not path.exists():
        return None
    reason: Reason = read_json(path)["reason"]
    return reason


def note_left(folder: Path, reason: Reason, step: int) -> None:
    """Record that the workers left with a checkpoint after ``step`` steps."""
    write_json(folder / _LEFT_FILE, {"reason": reason, "step": step})


def read_left(folder: Path) -> dict[str, Any] | None:
    """Return ``reason`` and ``step`` of workers that left before the end, None if none did."""
    path = folder / _LEFT_FILE
    if not path.exists():
        return None
    content: dict[str, Any] = read_json(path)
    return content


def clear_stop(folder: Path) -> None:
    """Forget earlier requests, before an attempt starts."""
    for name in (STOP_FILE, _LEFT_FILE):
        (folder / name).unlink(missing_ok=True)


class StopWatch:
    """Looks for the stop file, a few times a second at most.

    Args:
        folder: of the run.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / STOP_FILE
        self._next_look = 0.0
        self._is_asked = False

    def is_asked(self) -> bool:
        """Tell whether this process has seen the request."""
        now = time.monotonic()
        if not self._is_asked and now >= self._next_look:
            self._next_look = now + _LOOK_SECONDS
            self._is_asked = self._path.exists()
        return self._is_asked

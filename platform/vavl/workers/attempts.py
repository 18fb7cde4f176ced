"""What a process is working on, on disk: whoever takes the part over knows the clip that ended it."""

from __future__ import annotations

import contextlib
import faulthandler
import json
import signal
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from vavl.config.files import full_disk_named
from vavl.errors import ClipError, TrainingError

_TRIES = 2
"""A clip is given up when so many processes have ended in it: one may have been killed by chance."""


@dataclass(frozen=True)
class TimeLimit:
    """Longest time for one clip."""

    seconds: float  # of it
    # the process ends when the time is over, whatever it is doing, and another one continues without the clip;
    # otherwise the clip is interrupted where Python can interrupt it
    ends_process: bool


@dataclass(frozen=True)
class _State:
    """What a process is at."""

    clip_id: str = ""  # of the clip in work; empty before the first
    tries: int = 0  # processes that have begun this clip, one after the other
    lost: dict[str, str] = field(default_factory=dict)  # clip id -> why the clip is given up


class Attempts:
    """The attempts at one part, kept in a marker file until the part is finished.

    ``marker``: the file; what is left of an earlier process is taken over. ``limit``: longest time for one clip.

    Raises:
        TrainingError: processes end before they touch a clip.
    """

    def __init__(self, marker: Path, limit: TimeLimit) -> None:
        self._marker, self._limit = marker, limit
        self._stack = marker.with_suffix(".stack")
        self._left = left = _read(marker)
        if left.clip_id and self._stack.exists() and self._stack.stat().st_size:
            left.lost[left.clip_id] = _too_slow(limit)
        elif left.clip_id and left.tries >= _TRIES:
            left.lost[left.clip_id] = "the process that decoded it ended without a word (crash or out of memory)"
        elif not left.clip_id and left.tries >= _TRIES:
            fix = "look for the reason in the system's log (out of memory?), then start the same command again"
            raise TrainingError("extraction", marker.stem, "its process ends before it has read a clip", fix)
        self._stack.unlink(missing_ok=True)
        self._write(_State("", left.tries + 1 if not left.clip_id else 1, left.lost))

    @contextlib.contextmanager
    def at(self, clip_id: str, file: str, modality: str) -> Iterator[None]:
        """Note that work on a clip begins; the time limit holds inside.

        Raises:
            ClipError: the clip ended a process before, or takes too long.
            FullDiskError: the disk of the marker, or another that the work writes to, is full; never the clip's fault.
        """
        with full_disk_named(self._marker), self._watched(clip_id, file, modality):
            yield

    @contextlib.contextmanager
    def _watched(self, clip_id: str, file: str, modality: str) -> Iterator[None]:
        fix = "look at the file; make it again from its source, or leave the clip out"
        left = self._left
        if clip_id in left.lost:
            raise ClipError(file, modality, left.lost[clip_id], fix)
        self._write(_State(clip_id, left.tries + 1 if clip_id == left.clip_id else 1, left.lost))
        if self._limit.ends_process:
            with self._stack.open("w") as stack:
                # A thread in C: it needs no interpreter lock, which what hangs may hold.
                faulthandler.dump_traceback_later(self._limit.seconds, exit=True, file=stack)
                try:
                    yield
                finally:
                    faulthandler.cancel_dump_traceback_later()
            return
        with _interrupted_after(self._limit.seconds, ClipError(file, modality, _too_slow(self._limit), fix)):
            yield

    def finish(self) -> None:
        """Remove the marker: the part is finished."""
        self._marker.unlink(missing_ok=True)
        self._stack.unlink(missing_ok=True)

    def _write(self, state: _State) -> None:
        # Written next to it, then renamed: a process that ends here leaves the clip before, or this one.
        partial = self._marker.with_suffix(".next")
        with full_disk_named(self._marker):
            partial.write_text(json.dumps(asdict(state)), encoding="utf-8")
            partial.replace(self._marker)


def _too_slow(limit: TimeLimit) -> str:
    return f"takes longer than seconds_per_clip allows: {limit.seconds:g} s"


def _read(marker: Path) -> _State:
    try:
        return _State(**json.loads(marker.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return _State()


@contextlib.contextmanager
def _interrupted_after(seconds: float, error: ClipError) -> Iterator[None]:
    """Raise ``error`` in the block after ``seconds``; only the main thread has alarms."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(*_: object) -> None:
        raise error

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)

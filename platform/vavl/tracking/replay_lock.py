"""Who brings a journal into MLflow: one process at a time, and the living run before anybody else.

Both locks end with the process that holds them, however it ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

_TAKE_SECONDS = 1.0


@contextlib.contextmanager
def only_one(journal: Path) -> Iterator[bool]:
    """Yield whether this is the only replay of ``journal``, for as long as the block lasts."""
    if not journal.parent.exists():
        yield True
        return
    with journal.with_name(journal.name + ".replaying").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


class Follower:
    """Shows that a living process takes care of a journal, and of those in the folders below it.

    Args:
        journal: of the run.
    """

    def __init__(self, journal: Path) -> None:
        self._path = _followed(journal)
        self._file: int | None = None

    def take(self) -> bool:
        """Take the journal; False when another living process has it."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        deadline = time.monotonic() + _TAKE_SECONDS
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                # Somebody may just be asking `is_followed`.
                if time.monotonic() < deadline:
                    time.sleep(0.05)
                    continue
                os.close(file)
                return False
            self._file = file
            return True

    def release(self) -> None:
        """Leave the journal to others; without effect when it was not taken."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


def is_followed(journal: Path) -> bool:
    """Tell whether a living run takes care of ``journal``: its own, or one in a folder above it.

    A training replays what earlier runs in its folder left over, a comparison the journals of its trainings.
    """
    return any(_is_held(_followed(folder / journal.name)) for folder in journal.absolute().parents)


def _followed(journal: Path) -> Path:
    return journal.with_name(journal.name + ".followed")


def _is_held(path: Path) -> bool:
    try:
        file = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(file)
    return False

"""Ends a process whose step does not end, and leaves the stacks of its threads.

A deadlocked step still answers Ray's health checks. The time-out lives in C (``faulthandler``), so it
also fires while a collective or a kernel holds Python's lock.
"""

from __future__ import annotations

import faulthandler
import hashlib
import re
import shutil
import tempfile
from pathlib import Path
from typing import TextIO

STACKS_FOLDER = "stacks"
_HEADER = "Timeout ("
_TRAINING = "in train_on_worker"
_FRAMES = 30
_SILENT = "left no stack: it was stopped, dead, or came on"


class Watchdog:
    """Ends this process when ``beat`` is not called for too long.

    Args:
        stacks: directory of this machine; the stacks go to ``rank-<rank>.txt`` there.
        rank: of this process.
        timeout_seconds: longest time between two beats; None = never.
    """

    def __init__(self, stacks: Path, rank: int, timeout_seconds: float | None) -> None:
        self._timeout = timeout_seconds
        self._file: TextIO | None = None
        if timeout_seconds is not None:
            path = stacks / f"rank-{rank}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("w", encoding="utf-8")

    def beat(self, least_seconds: float | None = 0.0) -> None:
        """Note that something has ended; the time starts anew.

        Args:
            least_seconds: what the next thing may take at least, whatever the timeout of a step is; None: any time.
        """
        if least_seconds is None and self._file is not None:
            faulthandler.cancel_dump_traceback_later()
        elif self._timeout is not None and self._file is not None and least_seconds is not None:
            seconds = max(self._timeout, least_seconds)
            faulthandler.dump_traceback_later(seconds, exit=True, file=self._file)

    def stop(self) -> None:
        """Watch no more."""
        if self._file is not None:
            faulthandler.cancel_dump_traceback_later()
            self._file.close()
            self._file = None


def stacks_folder(output_dir: Path | str) -> Path:
    """Return where the stacks of a run go: into its directory, or to this machine's temporary files."""
    if isinstance(output_dir, Path):
        return output_dir / STACKS_FOLDER
    digest = hashlib.sha256(output_dir.encode()).hexdigest()[:12]
    return Path(tempfile.gettempdir()) / f"vavl-stacks-{digest}"


def clear_stacks(output_dir: Path | str) -> None:
    """Remove the stacks of an earlier attempt."""
    shutil.rmtree(stacks_folder(output_dir), ignore_errors=True)


def _in_short(text: str) -> str:
    """Keep the threads that train, where there are any: a process has many that only wait."""
    header, *threads = text.strip().split("\n\n")
    first, _, rest = header.partition("\n")
    threads = [rest, *threads]
    training = [thread for thread in threads if _TRAINING in thread] or threads
    cut = ["\n".join(thread.splitlines()[:_FRAMES]) for thread in training]
    return "\n".join([first, *cut])


def read_stacks(stacks: Path, ranks: int) -> str | None:
    """Return the stacks that the watchdogs of an attempt left, rank by rank; None if no one fired."""
    found = {
        int(match[1]): path.read_text(encoding="utf-8")
        for path in sorted(stacks.glob("rank-*.txt"))
        if (match := re.fullmatch(r"rank-(\d+)\.txt", path.name))
    }
    fired = {rank: text for rank, text in found.items() if _HEADER in text}
    if not fired:
        return None
    lines = [
        f"--- rank {rank} ---\n{_in_short(fired[rank]) if rank in fired else _SILENT}"
        for rank in range(max(ranks, max(fired) + 1))
    ]
    return "\n".join(lines)

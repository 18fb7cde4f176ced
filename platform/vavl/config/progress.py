"""What a person sees of a job at work: its log, and how far long work has come."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Self, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

Item = TypeVar("Item")

_OURS = ("vavl", "demo_corpus")
_LINE_SECONDS = 10.0
# What is left is unknown before so much was done; of very long work, five minutes tell enough.
_LEAST_SECONDS, _LEAST_SHARE, _ENOUGH_SECONDS = 20.0, 0.05, 300.0
_log = logging.getLogger(__name__)


def log_to_stderr() -> None:
    """Write what the platform says, and the warnings of others, to standard error; nothing where a log is set up.

    A line is its time and its message; a warning is marked as one and, where another package wrote it, names that
    package.
    """
    root = logging.getLogger()
    if root.handlers:
        return
    handler = _ToStderr()
    handler.setFormatter(_Lines("%(asctime)s", "%m-%d %H:%M:%S"))
    root.addHandler(handler)
    for name in _OURS:
        logging.getLogger(name).setLevel(logging.INFO)


class _ToStderr(logging.Handler):
    """Asks for ``sys.stderr`` with every line: a live bar takes its place, and keeps lines above itself."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            print(self.format(record), file=sys.stderr, flush=True)
        except Exception:  # noqa: BLE001  a log never ends the work
            self.handleError(record)


class _Lines(logging.Formatter):
    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  the name of the base class
        if record.levelno <= logging.INFO:
            return f"{record.asctime} {record.message}"
        origin = "" if record.name.partition(".")[0] in _OURS else f" from {record.name}"
        return f"{record.asctime} {record.levelname.lower()}{origin}: {record.message}"


class Progress:
    """Shows how far long work has come: a live bar on a terminal, now and then a line in a log; use as a context.

    Args:
        label: what is going on, e.g. ``rendering clips``.
        total: of what is counted; None until ``update`` knows it.
        done: how much of it was done before.
        unit: name of what is counted, to show so many a second; the time until the first are done is that of
            starting workers and reading models, and counts neither for the rate nor for the time left.
        counts: False where a log gets the lines of ``line`` alone, since they say how far the work has come.
        clock: seconds, from any zero.
    """

    def __init__(
        self,
        label: str,
        total: int | None,
        done: int = 0,
        unit: str = "",
        *,
        counts: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.total, self.done = total, done
        self._label, self._unit, self._counts, self._clock = label, unit, counts, clock
        self._start = self._last_line = self._rate_since = clock()
        self._before = self._rate_from = done
        self._note = ""
        console = Console(stderr=True)
        self._bar = Bar(*_columns(), console=console) if console.is_terminal and total != 0 else None
        self._task = self._bar.add_task(label, total=total, completed=done, note="", left="") if self._bar else None

    def __enter__(self) -> Self:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if self._bar:
            self._bar.stop()
        elif self._counts and error is None and self.done > self._before:
            self._say(f"in {in_words(self._clock() - self._start)}", self._rate_words)

    def advance(self, count: int = 1, note: str | None = None) -> None:
        """Count so many more as done; ``note`` is a text that a bar shows from then on."""
        self.update(self.done + count, note=note)

    def update(self, done: int, total: int | None = None, note: str | None = None) -> None:
        """Set how much is done, and how much there is where that was not known; any thread may call."""
        self.done, self.total = done, self.total if total is None else total
        if self._unit and self._rate_from == self._before and done > self._before:
            self._rate_from, self._rate_since = done, self._clock()
        left = self.left
        if self._bar is not None and self._task is not None:
            self._note = note if note is not None else self._rate_words or self._note
            self._bar.update(self._task, completed=done, total=self.total, left=left, note=self._note)
        elif self._counts and done != self.total and self._is_time_for_a_line():
            self._say(self._rate_words, left)

    def line(self, text: str) -> None:
        """Write a line of the log, above the bar where there is one."""
        _log.info("%s", text)

    @property
    def left(self) -> str:
        """The time left in words, e.g. ``about 12 min left``; "" at the end, and while it means nothing."""
        worked, seconds = self.done - self._rate_from, self._clock() - self._rate_since
        rest = (self.total or 0) - self.done
        share = worked / max(1, rest + worked)
        if worked <= 0 or rest <= 0 or seconds < _LEAST_SECONDS:
            return ""
        if share < _LEAST_SHARE and seconds < _ENOUGH_SECONDS:
            return ""
        return f"about {in_words(seconds / worked * rest)} left"

    @property
    def _rate_words(self) -> str:
        worked, seconds = self.done - self._rate_from, self._clock() - self._rate_since
        return f"{worked / seconds:.1f} {self._unit}/s" if self._unit and worked > 0 and seconds > 0 else ""

    def _is_time_for_a_line(self) -> bool:
        # The longer the work takes, the rarer its lines.
        now = self._clock()
        if now - self._last_line < max(_LINE_SECONDS, (now - self._start) / 10):
            return False
        self._last_line = now
        return True

    def _say(self, *notes: str) -> None:
        self.line(", ".join([f"{self._label}: {self.done} of {self.total}", *filter(None, notes)]))


def show_progress(
    items: Iterable[Item], total: int, label: str, clock: Callable[[], float] = time.monotonic
) -> Iterator[Item]:
    """Yield ``items`` and show how many of ``total`` have passed; one is done when the next is asked for."""
    with Progress(label, total, clock=clock) as progress:
        for item in items:
            yield item
            progress.advance()


def in_words(seconds: float) -> str:
    """Return a length of time as a person says it: seconds, minutes or hours."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def process_seconds() -> float:
    """Return the seconds since this process began, by a clock that nobody sets."""
    ticks = int(Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")


def _columns() -> list[ProgressColumn]:
    return [
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}", markup=False),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}", markup=False),
    ]

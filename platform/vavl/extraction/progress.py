"""Progress of a long piece of work: a bar on a terminal, plain lines in a log."""

from __future__ import annotations

import logging
import time
from types import TracebackType
from typing import Self

from rich.console import Console

from vavl.config.progress import progress_bar

logger = logging.getLogger(__name__)


class ClipProgress:
    """Counts clips done; use as a context.

    Args:
        what: shown before the numbers.
        total: clips in all.
        done: clips that were finished before.
        seconds_between_lines: of a log.
    """

    def __init__(self, what: str, total: int, done: int, seconds_between_lines: float = 10.0) -> None:
        self.what, self.total, self.done = what, total, done
        # Until the first clips are done, the time is that of starting workers and reading models.
        self._began_with, self._start = done, time.monotonic()
        self._is_first = True
        self._pause = seconds_between_lines
        self._last_line = self._start
        console = Console(stderr=True)
        self._bar = progress_bar(console, "rate") if console.is_terminal else None
        self._task = self._bar.add_task(what, total=total, completed=done, rate="") if self._bar else None

    def __enter__(self) -> Self:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()

    def advance(self, clips: int) -> None:
        """Count ``clips`` more as done and show it."""
        self.done += clips
        now = time.monotonic()
        rate = (self.done - self._began_with) / max(now - self._start, 1e-6)
        if self._is_first:
            self._began_with, self._start, self._is_first = self.done, now, False
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=self.done, rate=f"{rate:.1f} clips/s")
        elif now - self._last_line >= self._pause or self.done >= self.total:
            self._last_line = now
            left = (self.total - self.done) / max(rate, 1e-6)
            logger.info(
                "%s: %d of %d, %.1f clips/s, %.0f s left", self.what, self.done, self.total, rate, left
            )

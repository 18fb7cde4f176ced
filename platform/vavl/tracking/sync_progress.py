"""What a person sees while runs are brought into a tracking store."""

from __future__ import annotations

import logging
import time
from typing import Self

from rich.console import Console

from vavl.config.progress import progress_bar

_SECONDS_BETWEEN_LINES = 10.0
_log = logging.getLogger(__name__)


class SyncProgress:
    """A bar over all records on a terminal, lines in a log; use as a context.

    Args:
        total: records to send.
    """

    def __init__(self, total: int) -> None:
        self._total, self._done, self._last_line = total, 0, time.monotonic()
        console = Console(stderr=True)
        self._bar = progress_bar(console) if console.is_terminal and total else None
        self._task = self._bar.add_task("records", total=total) if self._bar else None

    def sent(self, records: int) -> None:
        """Show that this many records of the current run have arrived; any thread may call."""
        if self._bar and self._task is not None:
            self._bar.update(self._task, completed=self._done + max(0, records))
        elif time.monotonic() - self._last_line > _SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            _log.info("%d of %d records", self._done + max(0, records), self._total)

    def ended(self, records: int, line: str) -> None:
        """Show that a run with this many records has been dealt with."""
        self._done += records
        if self._bar and self._task is not None:
            self._bar.update(self._task, completed=min(self._done, self._total))
            self._bar.console.print(line, highlight=False, markup=False)
        else:
            _log.info(line)

    def __enter__(self) -> Self:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, *fault: object) -> None:
        if self._bar:
            self._bar.stop()

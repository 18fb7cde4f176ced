"""Takes what a training reports into its journal, and keeps it while the disk is full."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from vavl.errors import VavlError
from vavl.tracking.journal import Journal, Kind

_MOST_WAITING = 100_000
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class JournalSink:
    """Writes what the training loop reports; picklable, for Ray's controller process.

    A journal that cannot be written (full disk, share gone for a while) never stops the training:
    the records wait in memory and go first, with their own times, as soon as it can. Beyond
    100,000 waiting records the oldest are given up, and the log says so.

    Attributes:
        journal: of the run.
        waiting: records that could not be written yet, each with its time.
    """

    journal: Journal
    waiting: deque[tuple[Kind, dict[str, Any]]] = field(default_factory=deque, compare=False, repr=False)

    def __call__(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Append the records in order, behind those that wait."""
        was_waiting = len(self.waiting)
        now = self.journal.clock()
        for record in records:
            # A record that waits keeps the time at which it happened.
            payload = {"time": now, **{name: value for name, value in record.items() if name != "kind"}}
            self.waiting.append((cast("Kind", record["kind"]), payload))
        try:
            self.journal.append_all(list(self.waiting))
        except (VavlError, OSError) as fault:
            self._keep(fault, was_waiting)
            return
        self.waiting.clear()
        if was_waiting:
            _log.warning("%s: can be written again; %d records had waited", self.journal.path, was_waiting)

    def _keep(self, fault: Exception, was_waiting: int) -> None:
        lost = max(0, len(self.waiting) - _MOST_WAITING)
        for _ in range(lost):
            self.waiting.popleft()
        if lost:
            _log.error("%s: %d records are lost, too many wait for the disk", self.journal.path, lost)
        if not was_waiting:
            _log.error("the training goes on and keeps its records in memory, but: %s", fault)

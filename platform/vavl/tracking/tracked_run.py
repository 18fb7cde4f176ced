"""A run that is followed from its start to its end: what trainings and evaluations share."""

from __future__ import annotations

import logging
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

from vavl.errors import TrainingStopped, VavlError
from vavl.tracking.journal import Journal
from vavl.tracking.leftovers import JOURNAL_NAME
from vavl.tracking.model_note import Register
from vavl.tracking.replay import Replay
from vavl.tracking.settings import TrackingSettings

LAST_FLUSH_SECONDS = 180.0
_log = logging.getLogger(__name__)


class TrackedRun:
    """Records a run; use as a context around the work, whose failure becomes the end of the run.

    A failure of the tracking server never reaches the work.

    Args:
        folder: of the run; the journal lies there.
        settings: where to track.
        register: what registers a model that the work records.
    """

    workers_report_gpus: ClassVar[bool] = False
    """True where the work itself records the load of the GPUs that it uses, on whatever machine."""

    def __init__(self, folder: Path, settings: TrackingSettings, register: Register | None = None) -> None:
        self.folder, self._settings = folder, settings
        self.journal = Journal(folder / JOURNAL_NAME)
        self._replay = Replay(self.journal, settings, register, gpus=not self.workers_report_gpus)

    @property
    def show_command(self) -> str:
        """What a person types to look at the run."""
        return self._replay.place.show_command

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        if fault is None:
            return
        status = "KILLED" if isinstance(fault, (KeyboardInterrupt, TrainingStopped)) else "FAILED"
        try:
            self.journal.append("run_end", status=status, metrics={})
        except (VavlError, OSError) as second:  # a full disk may have ended the run: its reason comes first
            _log.error("the end of the run cannot be recorded: %s", second)
        self._replay.finish(LAST_FLUSH_SECONDS)

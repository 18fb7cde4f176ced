"""A training as the journal, the tracking server, the report and the registry see it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from vavl.config.base import FrozenConfig
from vavl.errors import VavlError
from vavl.tracking.journal import Journal
from vavl.tracking.journal_sink import JournalSink
from vavl.tracking.leftovers import JOURNAL_NAME, replay_leftovers
from vavl.tracking.replay import Replay
from vavl.tracking.run import DatasetNote, record_run_start
from vavl.tracking.settings import TrackingSettings
from vavl.tracking.training_result import artifacts_of, version_tags
from vavl.training.loop import BEST_FOLDER
from vavl.training.run_folder import EARLIER_FOLDER
from vavl.training.stop import TrainingStopped

_LAST_FLUSH_SECONDS = 180.0
_log = logging.getLogger(__name__)


class TrackedTraining:
    """Records a run from its start to its end; use as a context around the training.

    A failure of the tracking server never reaches the training. A failure of the training is
    recorded as the end of the run.

    Args:
        folder: of the run; the journal lies there.
        settings: where to track.
    """

    def __init__(self, folder: Path, settings: TrackingSettings) -> None:
        self.folder, self._settings = folder, settings
        self.journal = Journal(folder / JOURNAL_NAME)
        self._replay = Replay(self.journal, settings)

    @property
    def sink(self) -> JournalSink:
        """What the training reports to."""
        return JournalSink(self.journal)

    def start(self, config: FrozenConfig, config_hash: str, run_id: str, dataset: DatasetNote) -> None:
        """Record settings, code and data; from here on the tracking server follows."""
        record_run_start(self.journal, config, config_hash, self._settings, run_id, dataset)
        self._replay.start()
        replay_leftovers(self.folder / EARLIER_FOLDER, self._settings)

    def finish(self, outcome: Mapping[str, Any]) -> dict[str, Any]:
        """Record results, pictures and the model, and wait for the tracking server.

        Args:
            outcome: of the training; its metrics become those of the run. Report and model lie in the folder.

        Returns:
            ``mlflow_run_id``, ``model_name``, ``model_version`` (None where the server does not hold
            them yet) and ``tracking_complete``.
        """
        for path in artifacts_of(self.folder):
            # Relative, so that the journal stays true when the folder is moved or put aside.
            self.journal.append("artifact", path=path.relative_to(self.folder), artifact_path=None)
        name = self._settings.model_name
        if name is not None:
            self.journal.append("model", folder=BEST_FOLDER, name=name, tags=version_tags(outcome))
        self.journal.append("run_end", status="FINISHED", metrics=outcome["metrics"])
        is_complete = self._replay.finish(_LAST_FLUSH_SECONDS)
        state = self._replay.state
        return {
            "mlflow_run_id": state.mlflow_run_id,
            "model_name": name,
            "model_version": state.model_version,
            "tracking_complete": is_complete,
        }

    @property
    def show_command(self) -> str:
        """What a person types to look at the run."""
        return self._replay.place.show_command

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        if fault is not None:
            status = "KILLED" if isinstance(fault, (KeyboardInterrupt, TrainingStopped)) else "FAILED"
            try:
                self.journal.append("run_end", status=status, metrics={})
            except (
                VavlError,
                OSError,
            ) as second:  # a full disk may have ended the run: its reason comes first
                _log.error("the end of the run cannot be recorded: %s", second)
            self._replay.finish(_LAST_FLUSH_SECONDS)

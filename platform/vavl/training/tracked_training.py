"""A training as the journal, the tracking server, the report and the registry see it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vavl.config.base import FrozenConfig
from vavl.serving.registry import register_model
from vavl.tracking.journal import JournalSink
from vavl.tracking.run import DatasetNote, TrackedRun, record_run_start
from vavl.tracking.settings import TrackingSettings
from vavl.training.loop import BEST_FOLDER
from vavl.training.training_result import artifacts_of, version_tags
from vavl.training.working_copy import EARLIER_FOLDER


class TrackedTraining(TrackedRun):
    """Records a training, its report and its model."""

    workers_report_gpus = True

    def __init__(self, folder: Path, settings: TrackingSettings) -> None:
        super().__init__(folder, settings, register_model)

    @property
    def sink(self) -> JournalSink:
        """What the training reports to."""
        return JournalSink(self.journal)

    def start(self, config: FrozenConfig, config_hash: str, run_id: str, dataset: DatasetNote) -> None:
        """Record settings, code and data; from here on the tracking server follows."""
        record_run_start(self.journal, config, config_hash, self._settings, run_id, dataset)
        self._follow(self.folder / EARLIER_FOLDER)

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
        kept = self._end("FINISHED", outcome["metrics"])
        return {**kept, "model_name": name, "model_version": self._replayer.state.model_version}

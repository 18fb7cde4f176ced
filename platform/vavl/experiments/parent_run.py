"""A parent run with many children, as the journals and the tracking server see it: comparisons and sweeps."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from vavl.config.base import FrozenConfig
from vavl.config.files import make_folder
from vavl.experiments.child_log import ChildLogs
from vavl.serving.registry import register_model
from vavl.tracking.journal import Journal
from vavl.tracking.leftovers import JOURNAL_NAME, unfinished_journals
from vavl.tracking.replay import Replay
from vavl.tracking.replay_lock import Follower
from vavl.tracking.replay_queue import ReplayQueue
from vavl.tracking.run import DatasetNote, run_start, source_tags
from vavl.tracking.settings import TrackingSettings, tracking_place

_LAST_FLUSH_SECONDS = 600.0
_LAST_FLUSH_AFTER_A_FAULT_SECONDS = 30.0


class ParentRun:
    """Records a parent and its trainings; use as a context around the work.

    One folder is one MLflow run, however often it is started again. A failure of the tracking
    server never reaches the trainings.

    Args:
        folder: of the parent.
        children: the folders of the trainings lie below it.
        settings: where to track.
    """

    def __init__(self, folder: Path, children: str, settings: TrackingSettings) -> None:
        self.folder = make_folder(folder.absolute())
        self.children = self.folder / children
        # One look at the machine is enough, and a child is no candidate for the registry by itself.
        self._settings = settings.model_copy(update={"system_metrics": False, "model_name": None})
        self.journal = Journal(self.folder / JOURNAL_NAME)
        self._queue = ReplayQueue(self._settings, register_model)
        self._follower = Follower(self.journal.path)
        self._names: dict[str, str] = {}
        self._source: dict[str, str] = {}

    def start_parent(self, config: FrozenConfig, config_hash: str, run_id: str, dataset: DatasetNote) -> None:
        """Record what is done; from here on the tracking server follows.

        Args:
            config: all settings of the job.
            config_hash: of them.
            run_id: of the parent; its first word names it where the settings do not.
            dataset: what is trained on.
        """
        name = self._settings.run_name or f"{run_id.partition('-')[0]} {run_id}"
        self._names = {"run_id": run_id, "run_name": name}
        self._source = source_tags()
        tags = {**self._source, "vavl.config_hash": config_hash, **dataset.tags}
        settings = self._settings.model_copy(update={"run_name": name})
        self.journal.append("run_start", **run_start(config, settings, run_id, dataset, tags))
        self._queue.add(self.journal.path)
        for journal in unfinished_journals(self.children, self._settings):
            self._queue.add(journal)
        self._follower.take()
        self._queue.start()

    @property
    def child_logs(self) -> ChildLogs:
        """Gives the logs of the trainings, in any process."""
        return ChildLogs(self.children, self._settings, self._source, self._names)

    def child_ended(self, name: str) -> Replay:
        """Bring the journal of a training that has ended to the tracking server."""
        return self._queue.add(self.children / name / JOURNAL_NAME)

    def finish_parent(self, metrics: Mapping[str, float], artifacts: Iterable[Path]) -> dict[str, Any]:
        """Record the results and wait for the tracking server.

        Returns:
            ``mlflow_run_id`` (None where the server does not hold it yet) and ``tracking_complete``.
        """
        for path in artifacts:
            inside = path.absolute().relative_to(self.folder)
            self.journal.append("artifact", path=inside, artifact_path=None)
        return self._finish("FINISHED", metrics, _LAST_FLUSH_SECONDS)

    def _finish(self, status: str, metrics: Mapping[str, float], patience: float) -> dict[str, Any]:
        self.journal.append("run_end", status=status, metrics=metrics)
        parent = self._queue.add(self.journal.path)
        is_complete = self._queue.finish(patience)
        self._follower.release()
        return {"mlflow_run_id": parent.state.mlflow_run_id, "tracking_complete": is_complete}

    @property
    def show_command(self) -> str:
        """What a person types to look at the runs."""
        return tracking_place(self._settings, os.environ).show_command

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        if fault is not None and self._names:
            status = "KILLED" if isinstance(fault, KeyboardInterrupt) else "FAILED"
            self._finish(status, {}, _LAST_FLUSH_AFTER_A_FAULT_SECONDS)

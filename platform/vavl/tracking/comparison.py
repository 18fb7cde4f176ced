"""A comparison as the journals and the tracking server see it: one parent run with a child per training."""

from __future__ import annotations

import math
import os
import secrets
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from vavl.config.base import FrozenConfig
from vavl.config.files import make_folder, read_json, write_json
from vavl.tracking.journal import Journal
from vavl.tracking.journal_sink import JournalSink
from vavl.tracking.leftovers import JOURNAL_NAME, unfinished_journals
from vavl.tracking.replay_lock import Follower
from vavl.tracking.replay_queue import ReplayQueue
from vavl.tracking.run import run_start, source_tags
from vavl.tracking.settings import TrackingSettings, tracking_place
from vavl.tracking.training_result import dataset_note
from vavl.training.comparison_grid import RUNS_FOLDER, Cell, Grid
from vavl.training.loop import Record
from vavl.training.many import RunEnd
from vavl.training.run_folder import RunFolder
from vavl.training.settings import TrainingPlan
from vavl.training.worker import OUTCOME_FILE

COMPARISON_FILE = "comparison.json"
_LAST_FLUSH_SECONDS = 600.0
_LAST_FLUSH_AFTER_A_FAULT_SECONDS = 30.0


class ChildLog:
    """The journal of one training of a comparison, written by the process that trains; picklable.

    It keeps epochs, not steps: an epoch carries the means of its steps' losses.

    Args:
        folder: of the run.
        name: of the run.
        tracking: as the comparison.
        tags: of the run.
        parent: ``run_id`` and ``run_name`` of the comparison.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        tracking: TrackingSettings,
        tags: Mapping[str, Any],
        parent: Mapping[str, str],
    ) -> None:
        self.journal = Journal(folder / JOURNAL_NAME)
        self._tracking = tracking.model_copy(update={"run_name": name})
        self._tags, self._parent = dict(tags), dict(parent)
        self._sink = JournalSink(self.journal)
        self._steps: dict[int, Mapping[str, float | None]] = {}

    def start(self, plan: TrainingPlan, folder: RunFolder) -> None:
        """Record settings and data."""
        dataset = dataset_note(plan)
        tags = {**self._tags, "vavl.config_hash": plan.config_hash, **dataset.tags}
        payload = run_start(plan, self._tracking, folder.run_id, dataset, tags, self._parent)
        self.journal.append("run_start", **payload)

    def __call__(self, records: Sequence[Record]) -> None:
        """Record the epochs, each with the means of its steps."""
        kept = []
        for record in records:
            if record["kind"] == "step":
                self._steps[record["step"]] = record["metrics"]  # a repeated step counts once
            elif record["kind"] == "epoch":
                kept.append({**record, "metrics": {**_means(self._steps.values()), **record["metrics"]}})
                self._steps.clear()
            else:
                kept.append(record)
        if kept:
            self._sink(kept)

    def end(self, status: Literal["FINISHED", "FAILED"], metrics: Mapping[str, float]) -> None:
        """Record the end, with the outcome as an artifact."""
        if status == "FINISHED":
            self.journal.append("artifact", path=OUTCOME_FILE, artifact_path=None)
        self.journal.append("run_end", status=status, metrics=metrics)


class TrackedComparison:
    """Records a comparison and its trainings; use as a context around the work.

    One folder is one MLflow run, however often it is started again. A failure of the tracking
    server never reaches the trainings.

    Args:
        folder: of the comparison.
        settings: where to track.
    """

    def __init__(self, folder: Path, settings: TrackingSettings) -> None:
        self.folder = make_folder(folder.absolute())
        # One look at the machine is enough, and a child is no candidate for the registry.
        self._settings = settings.model_copy(update={"system_metrics": False, "model_name": None})
        self.journal = Journal(self.folder / JOURNAL_NAME)
        self._queue = ReplayQueue(self._settings)
        self._follower = Follower(self.journal.path)
        self._parent: dict[str, str] = {}
        self._source: dict[str, str] = {}
        self._tags: dict[str, dict[str, Any]] = {}

    def start(self, config: FrozenConfig, config_hash: str, grid: Grid) -> None:
        """Record what is compared; from here on the tracking server follows.

        Args:
            config: all settings of the job.
            config_hash: of them.
            grid: all runs.
        """
        run_id = _run_id(self.folder)
        name = self._settings.run_name or f"comparison {run_id}"
        self._parent = {"run_id": run_id, "run_name": name}
        self._source = source_tags()
        self._tags = {run.name: _child_tags(run.cells[0]) for run in grid.runs}
        dataset = dataset_note(grid.runs[0].plan)
        tags = {**self._source, "vavl.config_hash": config_hash, **dataset.tags}
        settings = self._settings.model_copy(update={"run_name": name})
        self.journal.append("run_start", **run_start(config, settings, run_id, dataset, tags))
        self._queue.add(self.journal.path)
        for journal in unfinished_journals(self.folder / RUNS_FOLDER, self._settings):
            self._queue.add(journal)
        self._follower.take()
        self._queue.start()

    def log_of(self, name: str) -> ChildLog:
        """Return the log of a run."""
        tags = {**self._source, **self._tags[name]}
        return ChildLog(self.folder / RUNS_FOLDER / name, name, self._settings, tags, self._parent)

    def ended(self, end: RunEnd) -> None:
        """Bring the journal of a run that has ended to the tracking server."""
        if end.state != "kept":
            self._queue.add(self.folder / RUNS_FOLDER / end.name / JOURNAL_NAME)

    def finish(self, metrics: Mapping[str, float], artifacts: Iterable[Path]) -> dict[str, Any]:
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
        if fault is not None and self._parent:
            status = "KILLED" if isinstance(fault, KeyboardInterrupt) else "FAILED"
            self._finish(status, {}, _LAST_FLUSH_AFTER_A_FAULT_SECONDS)


def _means(steps: Iterable[Mapping[str, float | None]]) -> dict[str, float]:
    """Return the mean of every metric over the steps that have it."""
    values: dict[str, list[float]] = defaultdict(list)
    for metrics in steps:
        for name, value in metrics.items():
            if value is not None and math.isfinite(value):
                values[name].append(value)
    return {name: sum(known) / len(known) for name, known in values.items()}


def _run_id(folder: Path) -> str:
    """Return the id of the folder's comparison, made once."""
    file = folder / COMPARISON_FILE
    if not file.exists():
        write_json(file, {"run_id": f"comparison-{secrets.token_hex(4)}"})
    return str(read_json(file)["run_id"])


def _child_tags(cell: Cell) -> dict[str, Any]:
    return {f"comparison.{name}": str(value) for name, value in asdict(cell).items()}

"""The journal of one training of many, written by the process that trains."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from vavl.tracking.journal import Journal, JournalReader
from vavl.tracking.journal_sink import JournalSink
from vavl.tracking.leftovers import JOURNAL_NAME
from vavl.tracking.run import run_start
from vavl.tracking.settings import TrackingSettings
from vavl.training.loop import Record
from vavl.training.run_folder import RunFolder
from vavl.training.settings import TrainingPlan
from vavl.training.training_result import dataset_note
from vavl.training.worker import OUTCOME_FILE


class ChildLog:
    """The journal of one training of a comparison or a sweep, written by the process that trains; picklable.

    It keeps epochs, not steps: an epoch carries the means of its steps' losses.

    Args:
        folder: of the run.
        name: of the run.
        tracking: as the parent.
        tags: of the run.
        parent: ``run_id`` and ``run_name`` of the comparison or the sweep.
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
        self._sink, self._reader = JournalSink(self.journal), JournalReader(self.journal)
        self._epochs: dict[int, dict[str, Any]] = {}
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

    def epochs(self) -> list[dict[str, Any]]:
        """Return the epochs that the journal holds, the last record of each, in order; from one thread only."""
        fresh = [record.payload for record in self._reader.read() if record.kind == "epoch"]
        if self._reader.began_anew:
            self._epochs.clear()
        self._epochs.update((int(payload["epoch"]), payload) for payload in fresh)
        return [self._epochs[epoch] for epoch in sorted(self._epochs)]

    def end(self, status: Literal["FINISHED", "FAILED", "KILLED"], metrics: Mapping[str, float]) -> None:
        """Record the end, with the outcome as an artifact; KILLED is a training that was stopped on purpose."""
        if status == "FINISHED":
            self.journal.append("artifact", path=OUTCOME_FILE, artifact_path=None)
        self.journal.append("run_end", status=status, metrics=metrics)


@dataclass(frozen=True)
class ChildLogs:
    """Gives the logs of the trainings of one parent, in any process; picklable.

    Attributes:
        folder: the folders of the trainings lie in it.
        tracking: as the parent.
        source: tags of all of them: who started which code.
        parent: ``run_id`` and ``run_name`` of the parent.
    """

    folder: Path
    tracking: TrackingSettings
    source: Mapping[str, str]
    parent: Mapping[str, str]

    def of(self, name: str, tags: Mapping[str, Any]) -> ChildLog:
        """Return the log of a training, in the folder of that name."""
        return ChildLog(self.folder / name, name, self.tracking, {**self.source, **tags}, self.parent)


def _means(steps: Iterable[Mapping[str, float | None]]) -> dict[str, float]:
    """Return the mean of every metric over the steps that have it."""
    values: dict[str, list[float]] = defaultdict(list)
    for metrics in steps:
        for name, value in metrics.items():
            if value is not None and math.isfinite(value):
                values[name].append(value)
    return {name: sum(known) / len(known) for name, known in values.items()}

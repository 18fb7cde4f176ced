"""One trial of a comparison or a sweep: what it is, its journal, and its end in ``summary.json``."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, NamedTuple

from vavl.config.files import make_folder, read_json, write_json
from vavl.tracking.journal import Journal, JournalReader
from vavl.tracking.journal_sink import JournalSink
from vavl.tracking.leftovers import JOURNAL_NAME
from vavl.tracking.run import run_start
from vavl.tracking.settings import TrackingSettings
from vavl.training.loop import Record
from vavl.training.process_memory import RUN_MEMORY, peak_memory_bytes
from vavl.training.run_folder import RunFolder
from vavl.training.settings import TrainingPlan
from vavl.training.training_result import dataset_note
from vavl.training.worker import OUTCOME_FILE, read_outcome

SUMMARY_FILE = "summary.json"
State = Literal["finished", "pruned", "failed"]
_STATUSES: dict[State, str] = {"finished": "FINISHED", "pruned": "KILLED", "failed": "FAILED"}


class Trial(NamedTuple):
    """A trial that may start."""

    number: int  # from 0
    name: str  # its directory, below that of all trials
    plan: TrainingPlan
    tags: Mapping[str, str]  # of its MLflow run


@dataclass(frozen=True)
class TrialEnd:
    """How a trial ended."""

    number: int
    state: State  # pruned: stopped on purpose before its end
    reason: str = ""  # why it was stopped or failed
    metrics: Mapping[str, float] = field(default_factory=dict)  # of the best epoch
    epochs_run: int = 0
    epochs_full: int = 0  # that it would have had
    seconds: float = 0.0  # of the last attempt
    memory_gb: float | None = None  # most of all its processes together; None where it ended before an epoch
    run_id: str = ""


def read_end(folder: Path) -> TrialEnd | None:
    """Return the end of the trial in ``folder``, None where it has none yet."""
    if not (folder / SUMMARY_FILE).exists():
        return None
    names = {entry.name for entry in fields(TrialEnd)}
    return TrialEnd(
        **{name: value for name, value in read_json(folder / SUMMARY_FILE).items() if name in names}
    )


def write_end(folder: Path, end: TrialEnd) -> None:
    """Write ``summary.json`` of a trial, with the outcome of a finished one; from then on it has ended."""
    has_outcome = end.state == "finished" and (folder / OUTCOME_FILE).exists()
    outcome = read_outcome(folder) if has_outcome else {}
    write_json(make_folder(folder) / SUMMARY_FILE, {**outcome, **asdict(end)})


def end_of(folder: Path, number: int, lost: str) -> TrialEnd:
    """Return the end of a trial whose process has ended, and write it where the process left none."""
    end = read_end(folder)
    if end is None:
        end = TrialEnd(
            number, "failed", lost or "its process left no end; does its machine share output_dir?"
        )
        write_end(folder, end)
    return end


class TrialLog:
    """The journal of one trial, written by the process that trains; picklable.

    It keeps epochs, not steps: an epoch carries the means of its steps' losses.

    Args:
        folder: of the trial.
        name: of its MLflow run.
        tracking: as the parent.
        tags: of its MLflow run.
        parent: ``run_id`` and ``run_name`` of the comparison or the sweep.
    """

    def __init__(
        self, folder: Path, name: str, tracking: TrackingSettings, tags: Mapping[str, Any], parent: Mapping[str, str],
    ) -> None:  # fmt: skip
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

    def end(self, state: State, metrics: Mapping[str, float]) -> None:
        """Record the end, with the outcome of a finished trial as an artifact."""
        if state == "finished":
            self.journal.append("artifact", path=OUTCOME_FILE, artifact_path=None)
        self.journal.append("run_end", status=_STATUSES[state], metrics=metrics)

    @property
    def has_ended(self) -> bool:
        """True when the journal holds the end of the trial."""
        return any(record.kind == "run_end" for record in self.journal.read())


@dataclass(frozen=True)
class TrialLogs:
    """Gives the logs of the trials of one parent, in any process; picklable.

    Attributes:
        folder: the directories of the trials lie in it.
        tracking: as the parent.
        source: tags of all of them: who started which code.
        parent: ``run_id`` and ``run_name`` of the parent.
    """

    folder: Path
    tracking: TrackingSettings
    source: Mapping[str, str]
    parent: Mapping[str, str]

    def of(self, name: str, tags: Mapping[str, Any]) -> TrialLog:
        """Return the log of a trial, in the directory of that name."""
        return TrialLog(self.folder / name, name, self.tracking, {**self.source, **tags}, self.parent)


def _means(steps: Iterable[Mapping[str, float | None]]) -> dict[str, float]:
    """Return the mean of every metric over the steps that have it."""
    values: dict[str, list[float]] = defaultdict(list)
    for metrics in steps:
        for name, value in metrics.items():
            if value is not None and math.isfinite(value):
                values[name].append(value)
    return {name: sum(known) / len(known) for name, known in values.items()}


def trial_memory_gb(epochs: Sequence[Mapping[str, Any]]) -> float | None:
    """Return the most memory of a trial by its epochs, with this process; None where none was measured."""
    known = [record["metrics"].get(RUN_MEMORY) for record in epochs]
    measured = [value for value in known if value is not None]
    return max(measured) + peak_memory_bytes() / 2**30 if measured else None

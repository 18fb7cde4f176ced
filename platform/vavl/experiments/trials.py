"""Trials of a comparison or a sweep as they are recorded: journal and end of each, and the parent run of all."""

from __future__ import annotations

import csv
import io
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, NamedTuple

from vavl.config.base import FrozenConfig
from vavl.config.files import make_directory, read_json, write_json, write_text
from vavl.config.load import value_at
from vavl.serving.registry import register_model
from vavl.tracking.journal import JOURNAL_NAME, Journal, JournalReader, JournalSink
from vavl.tracking.replayer import unfinished_journals
from vavl.tracking.run import DatasetNote, TrackedRun, best_scores, run_start, source_tags
from vavl.tracking.settings import TrackingSettings
from vavl.training.loop import BEST_DIRECTORY
from vavl.training.records import Record
from vavl.training.run_directory import OUTCOME_FILE, RunDirectory
from vavl.training.settings import TrainingPlan
from vavl.training.throughput import RUN_MEMORY, peak_memory_bytes
from vavl.training.training_result import training_start, version_tags
from vavl.training.worker import read_outcome

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


def read_end(directory: Path) -> TrialEnd | None:
    """Return the end of the trial in ``directory``, None where it has none yet."""
    if not (directory / SUMMARY_FILE).exists():
        return None
    names = {entry.name for entry in fields(TrialEnd)}
    return TrialEnd(**{name: value for name, value in read_json(directory / SUMMARY_FILE).items() if name in names})


def write_end(directory: Path, end: TrialEnd) -> None:
    """Write ``summary.json`` of a trial, with the outcome of a finished one; from then on it has ended."""
    has_outcome = end.state == "finished" and (directory / OUTCOME_FILE).exists()
    outcome = read_outcome(directory) if has_outcome else {}
    write_json(make_directory(directory) / SUMMARY_FILE, {**outcome, **asdict(end)})


def end_of(directory: Path, number: int, lost: str) -> TrialEnd:
    """Return the end of a trial whose process has ended, and write it where the process left none."""
    end = read_end(directory)
    if end is None:
        end = TrialEnd(number, "failed", lost or "its process left no end; does its machine share output_dir?")
        write_end(directory, end)
    return end


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> Path:
    """Write a table, whole or not at all; a value that a row lacks stays empty. Returns the path."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())
    return path


@dataclass(frozen=True)
class TrialLogs:
    """Gives the logs of the trials of one parent, in any process; picklable."""

    directory: Path  # the directories of the trials lie in it
    tracking: TrackingSettings  # as the parent
    source: Mapping[str, str]  # tags of all of them: who started which code
    parent: Mapping[str, str]  # `run_id` and `run_name` of the parent
    searched: tuple[str, ...] = ()  # dotted paths of settings that become parameters `search.<path>`

    def of(self, name: str, tags: Mapping[str, str]) -> TrialLog:
        """Return the log of a trial, in the directory of that name."""
        return TrialLog(self, name, tags)


class TrialLog:
    """The journal of one trial, written by the process that trains; picklable.

    It keeps epochs, not steps: an epoch carries the means of its steps' losses.
    """

    def __init__(self, logs: TrialLogs, name: str, tags: Mapping[str, str]) -> None:
        self.journal = Journal(logs.directory / name / JOURNAL_NAME)
        self._logs, self._name, self._tags = logs, name, tags
        self._sink, self._reader = JournalSink(self.journal), JournalReader(self.journal)
        self._epochs: dict[int, dict[str, Any]] = {}
        self._steps: dict[int, Mapping[str, float | None]] = {}

    def start(self, plan: TrainingPlan, claimed: RunDirectory) -> None:
        """Record settings and data."""
        tracking = self._logs.tracking.model_copy(update={"run_name": self._name})
        tags = {**self._logs.source, **self._tags}
        payload = training_start(plan, tracking, claimed.run_id, tags, self._logs.parent)
        settings = plan.model_dump(mode="json")
        payload["params"] |= {f"search.{path}": value_at(settings, path) for path in self._logs.searched}
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
        self.journal.append("run_end", status=_STATUSES[state], metrics=best_scores(metrics))


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


class ParentRun(TrackedRun):
    """Records a parent and its trials; use as a context around the work.

    One directory is one MLflow run, however often it is started again. A failure of the tracking server never reaches
    the trials. ``settings.model_name`` registers the checkpoint of the best trial.
    """

    flush_seconds = 600.0
    flush_after_error_seconds = 30.0

    def __init__(self, directory: Path, trials: str, settings: TrackingSettings, searched: Iterable[str] = ()) -> None:
        # One look at the machine is enough, and a trial is no candidate for the registry by itself.
        own = settings.model_copy(update={"system_metrics": False, "model_name": None})
        super().__init__(make_directory(directory.absolute()), own, register_model)
        self.trials = self.directory / trials
        self._searched, self._model_name = tuple(searched), settings.model_name
        self._names: dict[str, str] = {}
        self._source: dict[str, str] = {}

    def start(self, config: FrozenConfig, config_hash: str, run_id: str, dataset: DatasetNote) -> None:
        """Record what is done; from here on the tracking server follows."""
        name = self._settings.run_name or f"{run_id.partition('-')[0]} {run_id}"
        self._names, self._source = {"run_id": run_id, "run_name": name}, source_tags()
        tags = {**self._source, "vavl.config_hash": config_hash, **dataset.tags}
        settings = self._settings.model_copy(update={"run_name": name})
        self.journal.append("run_start", **run_start(config, settings, run_id, dataset, tags))
        for journal in unfinished_journals(self.trials, self._settings):
            self._replayer.add(journal)
        self._replayer.start()

    @property
    def logs(self) -> TrialLogs:
        """Gives the logs of the trials, in any process."""
        return TrialLogs(self.trials, self._settings, self._source, self._names, self._searched)

    def trial_ended(self, trial: Trial, end: TrialEnd) -> None:
        """Bring the journal of a trial that has ended to the tracking server."""
        log = self.logs.of(trial.name, {})
        if not log.journal.path.exists():
            return  # its process died before anything was written
        if end.state == "failed" and log.journal.end() is None:
            log.end("failed", {})  # its process died
        self._replayer.add(log.journal.path)

    def _register(self, name: str, tags: Mapping[str, str]) -> Journal | None:
        """Note the model in the journal of the best trial, where its settings and scores are; None without a name."""
        if self._model_name is None:
            return None
        directory = self.trials / name
        journal = Journal(directory / JOURNAL_NAME)
        records = [record for record in journal.read() if record.kind in ("model", "run_end")]
        if not any(record.payload.get("name") == self._model_name for record in records):
            outcome, ended = read_outcome(directory), records[-1].time if records else None
            # The scores that the run has already, at the time that they have there: each is kept once.
            scores, all_tags = best_scores(outcome["metrics"]), {**version_tags(outcome), **tags}
            note = {"folder": BEST_DIRECTORY, "name": self._model_name, "tags": all_tags, "metrics": scores}
            journal.append("model", at=ended, **note)
        return self._replayer.add(journal.path)

    def finish(self, metrics: Mapping[str, float], artifacts: Iterable[Path]) -> dict[str, Any]:
        """Record the results and wait for the tracking server.

        Returns:
            ``mlflow_run_id`` (None where the server does not hold it yet) and ``tracking_complete``.
        """
        for path in artifacts:
            inside = path.absolute().relative_to(self.directory)
            self.journal.append("artifact", path=inside, artifact_path=None)
        return self._end("FINISHED", metrics)

    def finish_with_best(
        self, metrics: Mapping[str, float], artifacts: Iterable[Path], best: str | None, tags: Mapping[str, str]
    ) -> dict[str, Any]:
        """Do what ``finish`` does, and register the checkpoint of the trial named ``best``, if there is one.

        Returns:
            Also ``model_name`` and ``model_version``, None where the server does not hold it yet.
        """
        registered = None if best is None else self._register(best, tags)
        kept = self.finish(metrics, artifacts)
        version = self._replayer.state_of(registered).model_version if registered else None
        return {**kept, "model_name": self._model_name, "model_version": version}

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._names:  # it has begun
            super().__exit__(kind, error, trace)

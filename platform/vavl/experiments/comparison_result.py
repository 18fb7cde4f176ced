"""What a comparison leaves: from predictions of its runs to scores, differences, ``table.csv`` and ``summary.json``."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from vavl.config.files import read_json, write_json
from vavl.config.progress import process_seconds
from vavl.corpora.manifest import Manifest
from vavl.data.collection import attributes_of
from vavl.data.settings import DataSettings
from vavl.experiments.comparison_grid import Grid, Group, LeftOut, PlannedRun
from vavl.experiments.comparison_settings import SINGLE_PROCESS, ComparisonPlan
from vavl.experiments.trials import SUMMARY_FILE, TrialEnd, write_csv
from vavl.metrics.names import AUDIO, AUDIO_VIDEO, CONDITIONS, VIDEO, metric_name
from vavl.metrics.paired import Interval, SpeakerSums, difference_interval, fold_scores, gather, score_interval
from vavl.metrics.scores import SummedScore, attribute_measures, class_measures, sums_of_speakers
from vavl.reports.render import is_share
from vavl.store.store_cache import local_store
from vavl.training.worker import PREDICTIONS_DIRECTORY

TABLE_FILE = "table.csv"
_GROUP_COLUMNS = ("set", "labelled_fraction", "unpaired_share")
_PARTS = {
    AUDIO_VIDEO: {"fusion_head"},
    AUDIO: {"audio_path", "audio_path.head"},
    VIDEO: {"video_path", "video_path.head"},
}
Measures = Mapping[str, SummedScore]
Sums = Mapping[tuple[str, str], Mapping[str, NDArray[np.float64]]]
"""By (condition, measure): the sums of each speaker."""
Tables = Mapping[Group, Mapping[tuple[str, str], SpeakerSums]]
"""By group, then by (condition, measure): the sums of all its runs."""


@dataclass(frozen=True)
class FinishedRun:
    """A run that is there, with what it left."""

    run: PlannedRun
    summary: Mapping[str, Any]
    sums: Sums


@dataclass(frozen=True)
class GroupScore:
    """Score of one group under one condition, or its difference to another set."""

    group: Group  # objective set, labeled fraction, unpaired share
    condition: str  # how clips are predicted
    measure: str  # e.g. `accuracy`
    interval: Interval  # of the score or the difference, 95 %; shares from 0 to 1
    runs: int  # that it rests on
    folds: Mapping[int, float] = field(default_factory=dict)  # score by fold, empty for a difference
    against: str = ""  # set that was subtracted; "" for a score


def trained_conditions(summary: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the conditions whose weights some label has trained: scores of the others mean nothing."""
    frozen = set(summary["frozen_parts"])
    return tuple(condition for condition in CONDITIONS if not _PARTS[condition] & frozen)


def measures_of(data: DataSettings) -> Measures:
    """Return the measures that fit a label target; the first is the main one."""
    if data.target != "attributes":
        return class_measures()
    manifest = Manifest.read(local_store(data.store)).with_labels(data.labels)
    return attribute_measures(attributes_of(manifest, data.attributes))


def speaker_sums(path: Path, measures: Measures, conditions: Sequence[str]) -> Sums:
    """Add up the predictions of a split, by condition and measure, for each speaker."""
    table = pq.read_table(path)
    columns = [[name for name in table.column_names if name.startswith(prefix)] for prefix in ("predicted_", "target_")]
    found: dict[tuple[str, str], dict[str, NDArray[np.float64]]] = {}
    for condition in conditions:
        rows = table.filter(pc.equal(table["condition"], condition))
        if not rows.num_rows:
            continue
        predicted, target = (np.stack([rows[name].to_numpy() for name in names], axis=1) for names in columns)
        speaker = np.asarray(rows["speaker"].to_pylist())
        for measure, score in measures.items():
            found[condition, measure] = sums_of_speakers(score, predicted, target, speaker)
    return found


def group_tables(finished: Sequence[FinishedRun]) -> Tables:
    """Put the runs of each group together, by condition and measure."""
    runs: dict[Group, dict[tuple[str, str], dict[tuple[int, int], Any]]] = {}
    for entry in finished:
        for cell in entry.run.cells:
            group = runs.setdefault(cell.group, defaultdict(dict))
            for key, sums in entry.sums.items():
                group[key][cell.fold, cell.seed] = sums
    return {group: {key: gather(by_run) for key, by_run in tables.items()} for group, tables in runs.items()}


def scores_of(tables: Tables, measures: Measures) -> list[GroupScore]:
    """Return the score of every group, condition and measure with its interval."""
    found = []
    for group, own in tables.items():
        for (condition, measure), table in own.items():
            statistic = measures[measure].statistic
            interval, folds = score_interval(table, statistic), fold_scores(table, statistic)
            found.append(GroupScore(group, condition, measure, interval, table.runs, folds))
    return found


def differences_of(tables: Tables, measures: Measures, pairs: Sequence[tuple[str, str]]) -> list[GroupScore]:
    """Return the score of the first set of each pair minus that of the second, paired, at every place of the grid."""
    found = []
    for first, second in pairs:
        for group, own in tables.items():
            other = tables.get(group._replace(objective_set=second), {}) if group[0] == first else {}
            for condition, measure in own.keys() & other.keys():
                key = (condition, measure)
                interval = difference_interval(own[key], other[key], measures[measure].statistic)
                runs = min(own[key].runs, other[key].runs)
                found.append(GroupScore(group, condition, measure, interval, runs, against=second))
    places = {key: place for place, key in enumerate(product(CONDITIONS, measures))}
    return sorted(found, key=lambda entry: places[entry.condition, entry.measure])


@dataclass(frozen=True)
class Comparison:
    """All results of a comparison."""

    plan: ComparisonPlan  # what was asked for
    grid: Grid  # its runs, with their ends
    measures: tuple[str, ...]  # names, the main one first
    finished: Sequence[FinishedRun]  # runs that are there
    scores: Sequence[GroupScore]  # of every group, condition and measure
    differences: Sequence[GroupScore]  # to the reference and between further pairs

    @property
    def main_measure(self) -> str:
        """The measure that decides, and that is shown."""
        return self.measures[0]

    @property
    def title(self) -> str:
        """The main measure in words."""
        return self.main_measure.replace("_", " ")

    @property
    def is_share(self) -> bool:
        """True where the main measure is a share, shown in percent."""
        return is_share(self.main_measure)

    @property
    def main_scores(self) -> list[GroupScore]:
        """Scores of the main measure."""
        return self._of_main_measure(self.scores)

    @property
    def main_differences(self) -> list[GroupScore]:
        """Differences of the main measure."""
        return self._of_main_measure(self.differences)

    @property
    def fractions(self) -> list[float]:
        """Labeled fractions that have a score, ascending."""
        return sorted({score.group.labelled_fraction for score in self.main_scores})

    @property
    def shares(self) -> list[float]:
        """Unpaired shares that have a score, ascending."""
        return sorted({score.group.unpaired_share for score in self.main_scores})

    @property
    def conditions(self) -> list[str]:
        """Conditions that have a score, in the order of every table."""
        return list(dict.fromkeys(score.condition for score in self.main_scores))

    @property
    def failed(self) -> dict[str, str]:
        """Reasons of the runs that failed, by name."""
        ends = self.grid.ends.items()
        return {self.grid.runs[number].name: end.reason for number, end in ends if end.state == "failed"}

    @property
    def waived_audit(self) -> list[str]:
        """The checks of the store's audit that any finished run waived."""
        return sorted({name for entry in self.finished for name in entry.summary.get("waived_audit", ())})

    def _of_main_measure(self, scores: Sequence[GroupScore]) -> list[GroupScore]:
        main = self.main_measure
        return [score for score in scores if score.measure == main and math.isfinite(score.interval.low)]


class Results:
    """Takes in runs as they end; the table on disk always holds all that have finished."""

    def __init__(self, plan: ComparisonPlan, grid: Grid) -> None:
        self._plan, self._grid = plan, grid
        self._measures = measures_of(grid.runs[0].plan.data)
        self._finished = {number: self._read(number) for number in grid.kept}

    def add(self, end: TrialEnd) -> None:
        """Take in a run that has ended, and write the table anew if it finished."""
        if end.state == "finished":
            self._finished[end.number] = self._read(end.number)
            write_table(self._in_order(), self._plan)

    def compare(self) -> Comparison:
        """Compare what has finished; with hundreds of runs this takes a minute of draws."""
        finished, measures = self._in_order(), self._measures
        tables = group_tables(finished)
        scores, differences = scores_of(tables, measures), differences_of(tables, measures, self._plan.pairs)
        return Comparison(self._plan, self._grid, tuple(measures), finished, scores, differences)

    def _read(self, number: int) -> FinishedRun:
        """Read summary and predictions of a finished run."""
        run = self._grid.runs[number]
        summary = read_json(run.plan.directory / SUMMARY_FILE)
        predictions = run.plan.directory / PREDICTIONS_DIRECTORY / f"{self._plan.split}.parquet"
        return FinishedRun(run, summary, speaker_sums(predictions, self._measures, trained_conditions(summary)))

    def _in_order(self) -> list[FinishedRun]:
        return [self._finished[number] for number in sorted(self._finished)]


def table_rows(finished: Iterable[FinishedRun], split: str) -> Iterator[dict[str, Any]]:
    """Yield the rows of ``table.csv``: one per cell and condition that was trained.

    Scores are those of the run over its clips; ``accuracy_by_speaker`` is the mean over speakers.
    """
    for entry in finished:
        summary = entry.summary
        for cell, condition in product(entry.run.cells, trained_conditions(summary)):
            prefix = metric_name(split, condition, "")
            scores = {
                name.removeprefix(prefix): value
                for name, value in summary["metrics"].items()
                if name.startswith(prefix)
            }
            if not scores:
                continue
            row = dict(zip((*_GROUP_COLUMNS, "fold", "seed"), astuple(cell), strict=True))
            row |= {"condition": condition, "split": split, "clips": int(scores.pop("clips"))}
            if shares := entry.sums.get((condition, "accuracy")):
                row["accuracy_by_speaker"] = float(np.mean([share[0] for share in shares.values()]))
            kept = ("best_epoch", "epochs", "steps", "seconds", "run_id", "clips_per_second", "config_hash")
            yield (row | scores | {name: summary[name] for name in kept} | {"folder": str(entry.run.plan.output_dir)})


def write_table(finished: Iterable[FinishedRun], plan: ComparisonPlan) -> Path:
    """Write ``table.csv``: one row per cell and condition; returns its path."""
    rows = list(table_rows(finished, plan.split))
    return write_csv(plan.output_dir / TABLE_FILE, list(dict.fromkeys(name for row in rows for name in row)), rows)


def summary_of(comparison: Comparison) -> dict[str, Any]:
    """Return the content of ``summary.json`` but for times and what the tracking server adds.

    Keys: ``split``; ``reference``; ``main_measure``; ``scores``: one entry per objective set, fraction,
    share, condition and measure with ``value``, ``low``, ``high`` (95 %), ``folds``, ``runs``;
    ``differences``: likewise, minus the set ``against``, paired, with ``excludes_zero``; ``significant``: those of
    the main measure that exclude zero, with ``direction`` better or worse; ``partitions``: training clips by
    partition of every set, fraction, share and fold; ``left_out`` and ``failed``
    with ``reason``; what the scores belong to: ``corpus``, ``protocol``, ``label_set``, ``label_target``, ``clips`` by
    fold and split, ``speakers``, ``speaker_normalisation``, ``store_hash``, ``waived_audit``; ``forced``: settings that
    the comparison gave to all runs; ``runs`` of this start by their end (``kept``: finished before);
    ``seconds`` of this command so far, and ``training_seconds`` of all finished runs together.
    """
    grid = comparison.grid
    return {
        "split": comparison.plan.split,
        "reference": comparison.plan.reference_set,
        "main_measure": comparison.main_measure,
        **_origin(comparison),
        "scores": [_entry(score) | {"folds": score.folds} for score in comparison.scores],
        "differences": [
            _entry(score) | {"against": score.against, "excludes_zero": score.interval.excludes_zero}
            for score in comparison.differences
        ],
        "significant": [
            _entry(score) | {"against": score.against, "direction": "better" if score.interval.low > 0 else "worse"}
            for score in comparison.main_differences
            if score.interval.excludes_zero
        ],
        "partitions": list(_partitions(comparison)),
        "left_out": _left_out(grid.left_out),
        "failed": [{"run": name, "reason": reason} for name, reason in comparison.failed.items()],
        "forced": dict(SINGLE_PROCESS),
        "runs": {
            "finished": len(comparison.finished) - len(grid.kept),
            "kept": len(grid.kept),
            "failed": len(comparison.failed),
        },
        "seconds": process_seconds(),
        "training_seconds": sum(entry.summary["seconds"] for entry in comparison.finished),
    }


def write_results(comparison: Comparison, further: Mapping[str, Any]) -> list[Path]:
    """Write ``table.csv`` and ``summary.json`` with ``further`` keys; returns the files."""
    table = write_table(comparison.finished, comparison.plan)
    summary = comparison.plan.output_dir / SUMMARY_FILE
    write_json(summary, {**summary_of(comparison), **further})
    return [table, summary]


def _entry(score: GroupScore) -> dict[str, Any]:
    interval = {name: getattr(score.interval, name) for name in ("value", "low", "high")}
    return {
        **dict(zip(_GROUP_COLUMNS, score.group, strict=True)),
        "condition": score.condition,
        "measure": score.measure,
        **{name: number if math.isfinite(number) else None for name, number in interval.items()},
        "runs": score.runs,
    }


def _left_out(entries: Sequence[LeftOut]) -> list[dict[str, Any]]:
    """One entry per set, fraction, share and reason, with its folds and seeds."""
    grouped: dict[tuple[Group, str], list[LeftOut]] = {}
    for entry in entries:
        grouped.setdefault((entry.cell.group, entry.reason), []).append(entry)
    return [
        {
            **dict(zip(_GROUP_COLUMNS, group, strict=True)),
            "reason": reason,
            "folds": sorted({entry.cell.fold for entry in alike}),
            "seeds": sorted({entry.cell.seed for entry in alike}),
        }
        for (group, reason), alike in grouped.items()
    ]


def _partitions(comparison: Comparison) -> Iterator[dict[str, Any]]:
    clips: dict[tuple[Any, ...], Any] = {}
    for entry in comparison.finished:
        for cell in entry.run.cells:
            clips.setdefault((*cell.group, cell.fold), entry.summary["clips_by_partition"])
    for key, counts in clips.items():
        yield {**dict(zip((*_GROUP_COLUMNS, "fold"), key, strict=True)), "clips": counts}


def _origin(comparison: Comparison) -> dict[str, Any]:
    if not comparison.finished:
        return {}
    first = comparison.finished[0].summary
    names = ("corpus", "protocol", "label_set", "label_target", "speaker_normalisation", "store_hash")
    by_fold = {entry.summary["fold"]: entry.summary for entry in comparison.finished}
    return {
        **{name: first[name] for name in names},
        "waived_audit": comparison.waived_audit,
        "clips": {fold: by_fold[fold]["clips"] for fold in sorted(by_fold)},
        "speakers": {fold: by_fold[fold]["speakers"][comparison.plan.split] for fold in sorted(by_fold)},
    }

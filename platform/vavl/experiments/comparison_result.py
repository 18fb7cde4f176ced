"""What a comparison leaves: ``table.csv`` and ``summary.json``."""

from __future__ import annotations

import csv
import io
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import psutil

from vavl.config.files import write_json, write_text
from vavl.errors import TrainingError
from vavl.experiments.comparison_grid import Grid, LeftOut
from vavl.experiments.comparison_scores import (
    FinishedRun,
    GroupScore,
    differences_of,
    group_of,
    group_tables,
    measures_of,
    read_run,
    scores_of,
    table_rows,
)
from vavl.experiments.comparison_settings import SINGLE_PROCESS, ComparisonPlan
from vavl.experiments.many import RunEnd, RunState
from vavl.metrics.names import CONDITIONS

TABLE_FILE, SUMMARY_FILE = "table.csv", "summary.json"


@dataclass(frozen=True)
class Comparison:
    """All results of a comparison.

    Attributes:
        plan: what was asked for.
        measures: names, the main one first.
        finished: runs that are there.
        left_out: cells that cannot be trained.
        failed: runs that failed, with the reason.
        scores: of every group, condition and measure.
        differences: to the reference and between further pairs.
        ends: how the runs of this start ended.
    """

    plan: ComparisonPlan
    measures: tuple[str, ...]
    finished: Sequence[FinishedRun]
    left_out: Sequence[LeftOut]
    failed: Sequence[RunEnd]
    scores: Sequence[GroupScore]
    differences: Sequence[GroupScore]
    ends: Sequence[RunEnd]

    @property
    def main_measure(self) -> str:
        """The measure that decides, and that is shown."""
        return self.measures[0]

    @property
    def significant(self) -> list[GroupScore]:
        """Differences of the main measure whose interval excludes zero."""
        main = self.main_measure
        return [entry for entry in self.differences if entry.measure == main and entry.interval.excludes_zero]


class Results:
    """Takes in runs as they end; the table on disk always holds all that have finished.

    Args:
        plan: of the comparison.
        grid: its runs.
    """

    def __init__(self, plan: ComparisonPlan, grid: Grid) -> None:
        self._plan, self._grid = plan, grid
        self._runs = {run.name: run for run in grid.runs}
        self._measures = measures_of(grid.runs[0].plan.data.target)
        self._finished: dict[str, FinishedRun] = {}
        self._ends: list[RunEnd] = []

    def add(self, end: RunEnd) -> None:
        """Take in a run that has ended, and write the table anew unless the run was there before."""
        self._ends.append(end)
        if end.state != "failed":
            self._finished[end.name] = read_run(self._runs[end.name], self._plan.split, self._measures)
        if end.state == "finished":
            write_table(self._in_order(), self._plan)

    def compare(self) -> Comparison:
        """Compare what has finished; with hundreds of runs this takes a minute of draws."""
        finished = self._in_order()
        tables = group_tables(finished)
        return Comparison(
            plan=self._plan,
            measures=tuple(self._measures),
            finished=finished,
            left_out=self._grid.left_out,
            failed=[end for end in self._ends if end.state == "failed"],
            scores=scores_of(tables, self._measures),
            differences=differences_of(tables, self._measures, self._plan.pairs),
            ends=self._ends,
        )

    def _in_order(self) -> list[FinishedRun]:
        return [self._finished[name] for name in self._runs if name in self._finished]


def write_table(finished: Sequence[FinishedRun], plan: ComparisonPlan) -> Path:
    """Write ``table.csv``: one row per cell and condition; returns its path."""
    path = plan.output_dir / TABLE_FILE
    rows = list(table_rows(finished, plan.split))
    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())
    return path


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
            _entry(score)
            | {"against": score.against, "direction": "better" if score.interval.low > 0 else "worse"}
            for score in comparison.significant
        ],
        "partitions": list(_partitions(comparison)),
        "left_out": _left_out(comparison.left_out),
        "failed": [{"run": end.name, "reason": end.reason} for end in comparison.failed],
        "forced": dict(SINGLE_PROCESS),
        "runs": {state: sum(end.state == state for end in comparison.ends) for state in get_args(RunState)},
        "seconds": time.time() - psutil.Process().create_time(),
        "training_seconds": sum(entry.summary["seconds"] for entry in comparison.finished),
    }


def waived_checks(comparison: Comparison) -> list[str]:
    """Return the checks of the store's audit that any finished run waived."""
    return sorted({name for entry in comparison.finished for name in entry.summary.get("waived_audit", ())})


def write_results(comparison: Comparison, further: Mapping[str, Any]) -> list[Path]:
    """Write ``table.csv`` and ``summary.json`` with ``further`` keys; returns the files."""
    table = write_table(comparison.finished, comparison.plan)
    summary = comparison.plan.output_dir / SUMMARY_FILE
    write_json(summary, {**summary_of(comparison), **further})
    return [table, summary]


def main_metrics(comparison: Comparison) -> dict[str, float]:
    """Return the main measure and its differences by flat name, for the tracking server."""
    found = {}
    for score in (*comparison.scores, *comparison.differences):
        if score.measure == comparison.main_measure and math.isfinite(score.interval.value):
            name, fraction, share = score.group
            against = f"_minus_{score.against}" if score.against else ""
            place = f"labels-{100 * fraction:g}_unpaired-{100 * share:g}"
            found[f"{name}{against}/{place}/{score.condition}/{score.measure}"] = score.interval.value
    return found


def refuse_failures(comparison: Comparison) -> None:
    """Raise when runs failed; the results of the others are written by then.

    Raises:
        TrainingError: names the first failed run and its reason.
    """
    if comparison.failed:
        first = comparison.failed[0]
        raise TrainingError(
            str(comparison.plan.output_dir / SUMMARY_FILE), "failed",
            f"{len(comparison.failed)} run(s) failed; {first.name}: {first.reason}",
            "repair the cause and start the same command again: finished runs are kept",
        )  # fmt: skip


def result_rows(comparison: Comparison) -> list[tuple[str, str]]:
    """Return the rows of the table that the job prints: the main measure by group, best condition first."""
    main = comparison.main_measure
    differences = {
        (entry.group, entry.condition): entry
        for entry in comparison.differences
        if entry.measure == main and entry.against == comparison.plan.reference_set
    }
    rows = []
    for condition in CONDITIONS:
        for score in comparison.scores:
            if (score.condition, score.measure) == (condition, main):
                name, fraction, share = score.group
                place = f"{condition}  labels {100 * fraction:g} %  unpaired {100 * share:g} %  {name}"
                text = f"{shown(score)}  ({score.runs} runs)"
                other = differences.get((score.group, condition))
                rows.append((place, text if other is None else f"{text}   {_against(other)}"))
    return rows


def _against(other: GroupScore) -> str:
    mark = "  excludes zero" if other.interval.excludes_zero else ""
    return f"{shown(other, sign='+')} against {other.against}{mark}"


def shown(score: GroupScore, sign: str = "") -> str:
    """Return value and interval as text, shares in percent; ``sign`` "+" for differences."""
    scale, digits = (1, 3) if score.measure.startswith("ccc") else (100, 1)
    value, low, high = (
        scale * part for part in (score.interval.value, score.interval.low, score.interval.high)
    )
    return f"{value:{sign}.{digits}f} [{low:{sign}.{digits}f}, {high:{sign}.{digits}f}]"


def _entry(score: GroupScore) -> dict[str, Any]:
    name, fraction, share = score.group
    return {
        "set": name, "labelled_fraction": fraction, "unpaired_share": share, "condition": score.condition,
        "measure": score.measure, "value": _number(score.interval.value), "low": _number(score.interval.low),
        "high": _number(score.interval.high), "runs": score.runs,
    }  # fmt: skip


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _left_out(entries: Sequence[LeftOut]) -> list[dict[str, Any]]:
    """One entry per set, fraction, share and reason, with its folds and seeds."""
    grouped: dict[tuple[str, float, float, str], list[LeftOut]] = {}
    for entry in entries:
        cell = entry.cell
        key = (cell.objective_set, cell.labelled_fraction, cell.unpaired_share, entry.reason)
        grouped.setdefault(key, []).append(entry)
    return [
        {
            "set": name, "labelled_fraction": fraction, "unpaired_share": share, "reason": reason,
            "folds": sorted({entry.cell.fold for entry in group}),
            "seeds": sorted({entry.cell.seed for entry in group}),
        }
        for (name, fraction, share, reason), group in grouped.items()
    ]  # fmt: skip


def _partitions(comparison: Comparison) -> Iterator[dict[str, Any]]:
    seen = set()
    for entry in comparison.finished:
        for cell in entry.run.cells:
            key = (*group_of(cell), cell.fold)
            if key not in seen:
                seen.add(key)
                names = ("set", "labelled_fraction", "unpaired_share", "fold")
                yield {**dict(zip(names, key, strict=True)), "clips": entry.summary["clips_by_partition"]}


def _origin(comparison: Comparison) -> dict[str, Any]:
    if not comparison.finished:
        return {}
    first = comparison.finished[0].summary
    facts = {
        name: first[name]
        for name in ("corpus", "protocol", "label_set", "label_target", "speaker_normalisation", "store_hash")
    }
    by_fold = {entry.summary["fold"]: entry.summary for entry in comparison.finished}
    return {
        **facts,
        "waived_audit": waived_checks(comparison),
        "clips": {fold: by_fold[fold]["clips"] for fold in sorted(by_fold)},
        "speakers": {fold: by_fold[fold]["speakers"][comparison.plan.split] for fold in sorted(by_fold)},
    }

"""From the predictions of all runs of a comparison to rows, scores and paired differences."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from vavl.experiments.comparison_grid import Cell, PlannedRun
from vavl.experiments.many import read_summary
from vavl.metrics.names import AUDIO, AUDIO_VIDEO, CONDITIONS, VIDEO, metric_name
from vavl.metrics.paired import (
    Interval,
    SpeakerSums,
    difference_interval,
    fold_scores,
    gather,
    score_interval,
)
from vavl.metrics.speaker_sums import SummedScore, attribute_measures, class_measures, sums_of_speakers
from vavl.models.settings import AttributeTask
from vavl.training.worker import PREDICTIONS_FOLDER

_PARTS = {
    AUDIO_VIDEO: {"fusion_head"},
    AUDIO: {"audio_path", "audio_path.head"},
    VIDEO: {"video_path", "video_path.head"},
}
Group = tuple[str, float, float]
"""Objective set, labelled fraction, unpaired share."""
Sums = Mapping[tuple[str, str], Mapping[str, NDArray[np.float64]]]
"""By (condition, measure): the sums of each speaker."""


@dataclass(frozen=True)
class FinishedRun:
    """A run that is there, with what it left."""

    run: PlannedRun
    summary: Mapping[str, Any]
    sums: Sums


@dataclass(frozen=True)
class GroupScore:
    """Score of one group under one condition.

    Attributes:
        group: objective set, labelled fraction, unpaired share.
        condition: how clips are predicted.
        measure: e.g. ``accuracy``.
        interval: of the score, or of the difference to the reference.
        folds: score by fold, empty for a difference.
        runs: that the score rests on.
        against: set that was subtracted, for a difference.
    """

    group: Group
    condition: str
    measure: str
    interval: Interval
    folds: Mapping[int, float]
    runs: int
    against: str = ""


def read_run(run: PlannedRun, split: str, measures: Mapping[str, SummedScore]) -> FinishedRun:
    """Read summary and predictions of a finished run."""
    folder = run.plan.directory
    summary = read_summary(folder)
    conditions = trained_conditions(summary)
    sums = speaker_sums(folder / PREDICTIONS_FOLDER / f"{split}.parquet", measures, conditions)
    return FinishedRun(run, summary, sums)


def trained_conditions(summary: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the conditions whose weights some label has trained: scores of the others mean nothing."""
    frozen = set(summary["frozen_parts"])
    return tuple(condition for condition in CONDITIONS if not _PARTS[condition] & frozen)


def measures_of(target: str) -> Mapping[str, SummedScore]:
    """Return the measures that fit a label target; the first is the main one."""
    return attribute_measures(AttributeTask().attributes) if target == "attributes" else class_measures()


def speaker_sums(path: Path, measures: Mapping[str, SummedScore], conditions: Sequence[str]) -> Sums:
    """Add up the predictions of a split, by condition and measure, for each speaker."""
    table = pq.read_table(path)
    columns = [
        [name for name in table.column_names if name.startswith(prefix)]
        for prefix in ("predicted_", "target_")
    ]
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


def table_rows(finished: Sequence[FinishedRun], split: str) -> Iterator[dict[str, Any]]:
    """Yield the rows of ``table.csv``: one per cell and condition that was trained.

    Scores are those of the run over its clips; ``accuracy_by_speaker`` is the mean over speakers.
    """
    for entry in finished:
        summary = entry.summary
        for cell in entry.run.cells:
            for condition in trained_conditions(summary):
                prefix = metric_name(split, condition, "")
                scores = {
                    name.removeprefix(prefix): value
                    for name, value in summary["metrics"].items()
                    if name.startswith(prefix)
                }
                if scores:
                    yield {
                        **_cell_columns(cell), "condition": condition, "split": split,
                        "clips": int(scores.pop("clips")), **_by_speaker(entry.sums, condition), **scores,
                        **{name: summary[name] for name in ("best_epoch", "epochs", "steps", "seconds", "run_id")},
                        "clips_per_second": summary["clips_per_second"], "config_hash": summary["config_hash"],
                        "folder": str(entry.run.plan.output_dir),
                    }  # fmt: skip


def group_tables(finished: Sequence[FinishedRun]) -> dict[Group, dict[tuple[str, str], SpeakerSums]]:
    """Put the runs of each group together, by condition and measure."""
    runs: dict[Group, dict[tuple[str, str], dict[tuple[int, int], Any]]] = {}
    for entry in finished:
        for cell in entry.run.cells:
            group = runs.setdefault(group_of(cell), defaultdict(dict))
            for key, sums in entry.sums.items():
                group[key][cell.fold, cell.seed] = sums
    return {group: {key: gather(by_run) for key, by_run in tables.items()} for group, tables in runs.items()}


def group_of(cell: Cell) -> Group:
    """Return the group that a cell belongs to."""
    return cell.objective_set, cell.labelled_fraction, cell.unpaired_share


def scores_of(
    tables: Mapping[Group, Mapping[tuple[str, str], SpeakerSums]], measures: Mapping[str, SummedScore]
) -> list[GroupScore]:
    """Return the score of every group, condition and measure with its interval."""
    return [
        GroupScore(
            group, condition, measure,
            score_interval(table, measures[measure].statistic),
            fold_scores(table, measures[measure].statistic), table.runs,
        )
        for group, found in tables.items()
        for (condition, measure), table in found.items()
    ]  # fmt: skip


def differences_of(
    tables: Mapping[Group, Mapping[tuple[str, str], SpeakerSums]],
    measures: Mapping[str, SummedScore],
    pairs: Sequence[tuple[str, str]],
) -> list[GroupScore]:
    """Return the score of the first set of each pair minus that of the second, paired, at every place of the grid."""
    found = []
    for first, second in pairs:
        for group, own in tables.items():
            other = tables.get((second, *group[1:]), {}) if group[0] == first else {}
            for condition, measure in own.keys() & other.keys():
                key = (condition, measure)
                interval = difference_interval(own[key], other[key], measures[measure].statistic)
                runs = min(own[key].runs, other[key].runs)
                found.append(GroupScore(group, condition, measure, interval, {}, runs, second))
    places = {key: place for place, key in enumerate(product(CONDITIONS, measures))}
    return sorted(found, key=lambda entry: places[entry.condition, entry.measure])


def _cell_columns(cell: Cell) -> dict[str, Any]:
    return {
        "set": cell.objective_set, "labelled_fraction": cell.labelled_fraction,
        "unpaired_share": cell.unpaired_share, "fold": cell.fold, "seed": cell.seed,
    }  # fmt: skip


def _by_speaker(sums: Sums, condition: str) -> dict[str, float]:
    shares = sums.get((condition, "accuracy"))
    return {"accuracy_by_speaker": float(np.mean([share[0] for share in shares.values()]))} if shares else {}

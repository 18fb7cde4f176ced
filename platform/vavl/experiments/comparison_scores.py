"""From the predictions of the runs of a comparison to scores and paired differences of their groups."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from vavl.config.files import read_json
from vavl.corpora.manifest import Manifest
from vavl.data.collection import attributes_of
from vavl.data.settings import DataSettings
from vavl.experiments.comparison_grid import Group, PlannedRun
from vavl.experiments.trials import SUMMARY_FILE
from vavl.metrics.names import AUDIO, AUDIO_VIDEO, CONDITIONS, VIDEO
from vavl.metrics.paired import Interval, SpeakerSums, difference_interval, fold_scores, gather, score_interval
from vavl.metrics.scores import SummedScore, attribute_measures, class_measures, sums_of_speakers
from vavl.store.store_cache import local_store
from vavl.training.worker import PREDICTIONS_FOLDER

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

    @property
    def words(self) -> tuple[str, str, str]:
        """Value and ends of the interval as text, shares in percent, differences with their sign."""
        scale, digits = (1, 3) if self.measure.startswith("ccc") else (100, 1)
        sign, interval = "+" if self.against else "", self.interval
        value, low, high = (
            f"{scale * part:{sign}.{digits}f}" for part in (interval.value, interval.low, interval.high)
        )
        return value, low, high


def read_run(run: PlannedRun, split: str, measures: Measures) -> FinishedRun:
    """Read summary and predictions of a finished run."""
    directory = run.plan.directory
    summary = read_json(directory / SUMMARY_FILE)
    conditions = trained_conditions(summary)
    sums = speaker_sums(directory / PREDICTIONS_FOLDER / f"{split}.parquet", measures, conditions)
    return FinishedRun(run, summary, sums)


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

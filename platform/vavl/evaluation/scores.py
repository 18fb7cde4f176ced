"""Scores of predictions with intervals over speakers, per class and per speaker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vavl.errors import InputError
from vavl.metrics.attributes import absolute_errors, attribute_scores
from vavl.metrics.classes import ClassScore, brier_score, class_scores, confusion_counts, scores_of_classes
from vavl.metrics.names import CONDITIONS
from vavl.metrics.paired import Interval, SpeakerSums, difference_interval, gather, score_interval
from vavl.metrics.speaker_sums import (
    SummedScore,
    attribute_measures_over_clips,
    class_measures_over_clips,
    sums_of_speakers,
)
from vavl.models.settings import AttributeTask, ClassTask, Task
from vavl.training.evaluation import SplitPredictions


@dataclass(frozen=True)
class ConditionScores:
    """What one condition scores.

    Attributes:
        metrics: by name; shares from 0 to 1; ``clips`` and ``speakers`` count.
        intervals: 95 %, of those metrics that speakers can be drawn for; of degraded inputs the main measure's.
        confusion: counts (true class, predicted class); None for attributes.
        classes: scores of each class, in the order of the classes; empty for attributes.
        by_speaker: the metrics of each speaker's clips; empty for degraded inputs.
    """

    metrics: Mapping[str, float]
    intervals: Mapping[str, Interval]
    confusion: NDArray[np.int64] | None
    classes: Sequence[ClassScore]
    by_speaker: Mapping[str, Mapping[str, float]]


def main_measure(task: Task) -> str:
    """Return the metric that differences are stated in."""
    return "accuracy" if isinstance(task, ClassTask) else "ccc_mean"


def scores_by_condition(
    predictions: SplitPredictions, speakers: NDArray[np.str_], task: Task, seed: int, *, in_detail: bool = True
) -> dict[str, ConditionScores]:
    """Score every condition that has clips.

    Args:
        predictions: of the clips.
        speakers: (clips,), of each clip.
        task: what is predicted.
        seed: of the bootstrap.
        in_detail: with the intervals of all metrics and the scores of each speaker.

    Raises:
        InputError: a prediction is not finite.
    """
    found = {}
    for condition in CONDITIONS:
        counts = predictions.counts[condition]
        if counts.any():
            predicted, target = predictions.predicted[condition][counts], predictions.target[counts]
            _check_finite(condition, predicted)
            own = speakers[counts]
            intervals = _intervals(predicted, target, own, task, seed, in_detail=in_detail)
            by_speaker = _by_speaker(predicted, target, own, task) if in_detail else {}
            found[condition] = _score(predicted, target, task, intervals, by_speaker, len(np.unique(own)))
    return found


def differences(
    changed: SplitPredictions, whole: SplitPredictions, speakers: NDArray[np.str_], task: Task, seed: int
) -> dict[str, Interval]:
    """Return by condition how the main measure changed, paired over the same clips and the same drawn speakers."""
    measure = _measures(task)[main_measure(task)]
    found = {}
    for condition in CONDITIONS:
        both = changed.counts[condition] & whole.counts[condition]
        if both.any():
            first, second = (
                _sums(each.predicted[condition][both], each.target[both], speakers[both], measure)
                for each in (changed, whole)
            )
            found[condition] = difference_interval(first, second, measure.statistic, seed)
    return found


def _score(
    predicted: NDArray[np.float64],
    target: NDArray[np.float64],
    task: Task,
    intervals: Mapping[str, Interval],
    by_speaker: Mapping[str, Mapping[str, float]],
    speakers: int,
) -> ConditionScores:
    counts = {"clips": float(len(target)), "speakers": float(speakers)}
    confusion = confusion_counts(predicted, target) if isinstance(task, ClassTask) else None
    classes = scores_of_classes(confusion) if confusion is not None else []
    metrics = {**metrics_of(predicted, target, task), **counts}
    return ConditionScores(metrics, intervals, confusion, classes, by_speaker)


def _intervals(
    predicted: NDArray[np.float64],
    target: NDArray[np.float64],
    speakers: NDArray[np.str_],
    task: Task,
    seed: int,
    *,
    in_detail: bool,
) -> dict[str, Interval]:
    return {
        name: score_interval(_sums(predicted, target, speakers, measure), measure.statistic, seed)
        for name, measure in _measures(task).items()
        if in_detail or name == main_measure(task)
    }


def _by_speaker(
    predicted: NDArray[np.float64], target: NDArray[np.float64], speakers: NDArray[np.str_], task: Task
) -> dict[str, dict[str, float]]:
    found = {}
    for name in np.unique(speakers):
        own = speakers == name
        found[str(name)] = {**metrics_of(predicted[own], target[own], task), "clips": float(own.sum())}
    return found


def metrics_of(predicted: NDArray[np.float64], target: NDArray[np.float64], task: Task) -> dict[str, float]:
    """Return the metrics of some clips: (clips, outputs) predicted and true."""
    match task:
        case ClassTask():
            return {**class_scores(predicted, target), "brier": brier_score(predicted, target)}
        case AttributeTask(attributes=names):
            return {**attribute_scores(predicted, target, names), **absolute_errors(predicted, target, names)}


def _measures(task: Task) -> Mapping[str, SummedScore]:
    match task:
        case ClassTask():
            return class_measures_over_clips()
        case AttributeTask(attributes=names):
            return attribute_measures_over_clips(names)


def _sums(
    predicted: NDArray[np.float64], target: NDArray[np.float64], speakers: NDArray[np.str_], measure: SummedScore
) -> SpeakerSums:
    return gather({(0, 0): sums_of_speakers(measure, predicted, target, speakers)})


def _check_finite(condition: str, predicted: NDArray[np.float64]) -> None:
    bad = int((~np.isfinite(predicted).all(axis=-1)).sum())
    if bad:
        problem = f"the prediction of {bad} of {len(predicted)} clips is not finite"
        fix = "look at the features of the store: python jobs/audit_corpus.py STORE"
        raise InputError("model", condition, problem, fix)

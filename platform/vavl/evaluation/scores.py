"""Scores of predictions with intervals over speakers, per class, per speaker and by the length of the clips."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from vavl.errors import InputError
from vavl.evaluation.measure import MeasuredClips
from vavl.features import MODALITIES
from vavl.metrics.names import CONDITIONS
from vavl.metrics.paired import Interval, SpeakerSums, difference_interval, gather, score_interval
from vavl.metrics.scores import (
    ClassScore,
    SummedScore,
    attribute_measures_over_clips,
    attribute_scores,
    class_measures_over_clips,
    class_scores,
    confusion_counts,
    scores_of_classes,
    scores_over_clips,
    sums_of_speakers,
)
from vavl.models.saved_model import ModelDescription
from vavl.models.settings import AttributeTask, ClassTask, Task
from vavl.store.clip_facts import FILE_NAME, read_facts
from vavl.training.evaluation import SplitPredictions


@dataclass(frozen=True)
class ConditionScores:
    """What one condition scores."""

    metrics: Mapping[str, float]  # by name; shares from 0 to 1; `clips` and `speakers` count
    # 95 %, of those metrics that speakers can be drawn for; of degraded inputs the main measure's
    intervals: Mapping[str, Interval]
    confusion: NDArray[np.int64] | None  # counts (true class, predicted class); None for attributes
    classes: Sequence[ClassScore]  # scores of each class, in the order of the classes; empty for attributes
    by_speaker: Mapping[str, Mapping[str, float]]  # the metrics of each speaker's clips; empty for degraded inputs

    def score(self, name: str) -> Interval:
        """Return a metric with its interval; the bounds are NaN where it has none."""
        return self.intervals.get(name, Interval(self.metrics[name], float("nan"), float("nan")))


def main_measure(task: Task) -> str:
    """Return the metric that differences are stated in."""
    return "accuracy" if isinstance(task, ClassTask) else "ccc_mean"


def scores_by_condition(
    predictions: SplitPredictions, speakers: NDArray[np.str_], task: Task, seed: int, *, in_detail: bool = True
) -> dict[str, ConditionScores]:
    """Score every condition that has clips.

    ``speakers`` is (clips,). ``in_detail`` gives the intervals of all metrics and the scores of each speaker.

    Raises:
        InputError: a prediction is not finite.
    """
    found = {}
    for condition in CONDITIONS:
        counts = predictions.counts[condition]
        if counts.any():
            predicted, target = predictions.predicted[condition][counts], predictions.target[counts]
            if bad := int((~np.isfinite(predicted).all(axis=-1)).sum()):
                problem = f"the prediction of {bad} of {len(predicted)} clips is not finite"
                fix = "look at the features of the store: python jobs/audit_corpus.py STORE"
                raise InputError("model", condition, problem, fix)
            own = speakers[counts]
            names = np.unique(own)
            intervals = {
                name: score_interval(_sums(predicted, target, own, measure), measure.statistic, seed)
                for name, measure in _measures(task).items()
                if in_detail or name == main_measure(task)
            }
            by_speaker = {
                str(name): {**metrics_of(predicted[is_own], target[is_own], task), "clips": float(is_own.sum())}
                for name, is_own in ((name, own == name) for name in (names if in_detail else ()))
            }
            confusion = confusion_counts(predicted, target) if isinstance(task, ClassTask) else None
            classes = [] if confusion is None else scores_of_classes(confusion)
            sizes = {"clips": float(len(target)), "speakers": float(len(names))}
            metrics = {**metrics_of(predicted, target, task), **sizes}
            found[condition] = ConditionScores(metrics, intervals, confusion, classes, by_speaker)
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


def metrics_of(predicted: NDArray[np.float64], target: NDArray[np.float64], task: Task) -> dict[str, float]:
    """Return the metrics of some clips: (clips, outputs) predicted and true."""
    measured = scores_over_clips(_measures(task), predicted, target)
    match task:
        case ClassTask():
            return {**class_scores(predicted, target), "brier": measured["brier"]}
        case AttributeTask(attributes=names):
            return {
                **attribute_scores(predicted, target, names),
                **{f"mae_{name}": measured[f"mae_{name}"] for name in names},
            }


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


@dataclass(frozen=True)
class LengthScores:
    """The main measure of the clips of some length."""

    # low_s, high_s: longer than `low_s`, at most `high_s`; those of the shortest and longest clip at the ends
    low_s: float
    high_s: float
    clips: int  # so many
    scores: Mapping[str, Interval]  # by condition, with 95 % intervals over speakers


def seconds_of_clips(clips: MeasuredClips) -> NDArray[np.float64]:
    """Return the length of each measured clip in seconds: of the longer modality; NaN where it is not known.

    It follows from frames and their rate; where a clip is one frame, from what the store knows of the file.
    """
    collection = clips.collection
    store, seconds = collection.store, np.full(len(clips.rows), np.nan)
    for modality in MODALITIES:
        rows = collection.store_row[modality][clips.rows]
        info = store.info.get(modality)
        if info is not None and info.frame_rate_hz and (rows >= 0).any():
            frames = store.lengths(modality)[np.maximum(rows, 0)]
            seconds = np.fmax(seconds, np.where(rows >= 0, frames / info.frame_rate_hz, np.nan))
    if np.isnan(seconds).any() and (store.directory / FILE_NAME).exists():
        facts = read_facts(store.directory)
        facts = facts.filter(pc.is_valid(facts["seconds"])).group_by("clip_id").aggregate([("seconds", "max")])
        known = dict(zip(facts["clip_id"].to_pylist(), facts["seconds_max"].to_pylist(), strict=True))
        seconds = np.fmax(seconds, [known.get(name, np.nan) for name in clips.clip_ids])
    return seconds


def scores_by_length(
    predictions: SplitPredictions,
    seconds: NDArray[np.float64],
    speakers: NDArray[np.str_],
    task: Task,
    seed: int,
    edges_s: Sequence[float] = (),
) -> tuple[LengthScores, ...]:
    """Score the clips by their length.

    ``seconds`` and ``speakers`` are (clips,); clips of unknown length (NaN) are left out. ``edges_s`` lie between the
    groups, ascending; by default the quartiles of the lengths.

    Returns:
        The groups that have a clip, the shortest first; none where all clips are of one group.
    """
    known = np.isfinite(seconds)
    if not known.any():
        return ()
    shortest, longest = float(seconds[known].min()), float(seconds[known].max())
    inner = edges_s or np.unique(np.quantile(seconds[known], (0.25, 0.5, 0.75))).tolist()
    edges = [shortest, *(edge for edge in inner if shortest <= edge < longest), longest]
    found = []
    # The first edge may be that of the shortest clips: they are a group of their own.
    for place, high in enumerate(edges[1:]):
        is_in = known & (seconds <= high) & ((seconds > edges[place]) | (place == 0))
        counts = {name: there & is_in for name, there in predictions.counts.items()}
        scores = scores_by_condition(replace(predictions, counts=counts), speakers, task, seed, in_detail=False)
        measured = {name: one.intervals[main_measure(task)] for name, one in scores.items()}
        if is_in.any():
            found.append(LengthScores(edges[place], high, int(is_in.sum()), measured))
    return tuple(found) if len(found) > 1 else ()


def unlike_training(description: ModelDescription, clips: MeasuredClips) -> Iterator[str]:
    """Yield a sentence for each modality of which measured clips are shorter or longer than all training clips."""
    for modality, profile in description.profiles.items():
        rows = clips.collection.store_row[modality][clips.rows]
        if profile is None or not (rows >= 0).any():
            continue
        frames = clips.collection.store.lengths(modality)[rows[rows >= 0]]
        outside = {
            "shorter": int((frames < profile.shortest_frames).sum()),
            "longer": int((frames > profile.longest_frames).sum()),
        }
        told = " and ".join(f"{count} are {word}" for word, count in outside.items() if count)
        if told:
            yield (
                f"{modality}: of {len(frames)} clips {told} than every training clip ({profile.lengths}); "
                "the model has seen none of such a length"
            )

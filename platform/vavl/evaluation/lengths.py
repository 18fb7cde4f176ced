"""Scores by the length of the clips, and how these lengths stand to those of the training run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from vavl.evaluation.measure import MeasuredClips
from vavl.evaluation.scores import main_measure, scores_by_condition
from vavl.features import MODALITIES
from vavl.metrics.paired import Interval
from vavl.models.saved_model import ModelDescription
from vavl.models.settings import Task
from vavl.store.clip_facts import FILE_NAME, read_facts
from vavl.training.evaluation import SplitPredictions

_QUARTILES = (0.25, 0.5, 0.75)


@dataclass(frozen=True)
class LengthScores:
    """The main measure of the clips of some length.

    Attributes:
        low_s, high_s: longer than ``low_s``, at most ``high_s``; those of the shortest and longest clip at the ends.
        clips: so many.
        scores: by condition, with 95 % intervals over speakers.
    """

    low_s: float
    high_s: float
    clips: int
    scores: Mapping[str, Interval]


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

    Args:
        predictions: of the clips.
        seconds: (clips,), NaN where it is not known: such clips are left out.
        speakers: (clips,).
        task: what is predicted.
        seed: of the bootstrap.
        edges_s: between the groups, ascending; by default the quartiles of the lengths.

    Returns:
        The groups that have a clip, the shortest first; none where all clips are of one group.
    """
    known = np.isfinite(seconds)
    if not known.any():
        return ()
    shortest, longest = float(seconds[known].min()), float(seconds[known].max())
    inner = edges_s or np.unique(np.quantile(seconds[known], _QUARTILES)).tolist()
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

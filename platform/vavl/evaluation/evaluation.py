"""An evaluation: whole inputs under every condition, then each degradation by itself."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from vavl.config.progress import show_progress
from vavl.data.collection import FrameChange
from vavl.errors import ConfigError, InputError
from vavl.evaluation.degradation import (
    Degradation,
    DroppedFrames,
    NoiseInSound,
    NoiseOnFeatures,
    ShiftedSync,
    draws_of,
)
from vavl.evaluation.measure import MeasuredClips, predict_clips
from vavl.evaluation.noisy_sound import NoisySound, open_sound
from vavl.evaluation.scores import ConditionScores, differences, main_measure, scores_by_condition
from vavl.evaluation.settings import EvaluationPlan
from vavl.evaluation.standing import Standing, standing_of
from vavl.metrics.names import AUDIO, metric_name
from vavl.metrics.paired import Interval
from vavl.models.saved_model import SavedModel
from vavl.training.evaluation import SplitPredictions

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Measured:
    """The clips measured in one way.

    Attributes:
        degradation: None for whole inputs.
        predictions: of every clip.
        scores: by condition; only conditions that the degradation can change.
        differences: of the main measure from that of whole inputs, paired, by condition.
        failed: why a clip is missing, by manifest row.
    """

    degradation: Degradation | None
    predictions: SplitPredictions
    scores: Mapping[str, ConditionScores]
    differences: Mapping[str, Interval]
    failed: Mapping[int, str]

    @property
    def name(self) -> str:
        """Of the degradation; "none" for whole inputs."""
        return "none" if self.degradation is None else self.degradation.name

    @property
    def suffix(self) -> str:
        """Behind the names of metrics."""
        return "" if self.degradation is None else f":{self.degradation.name}"


@dataclass(frozen=True)
class Evaluation:
    """Everything that an evaluation found.

    Attributes:
        plan: that was asked for.
        model: that was measured.
        clips: that it was measured on.
        whole: inputs as they are.
        degraded: in the order of the settings.
        not_measured: why a degradation was not measured, by its name.
        standing: what the scores are worth.
    """

    plan: EvaluationPlan
    model: SavedModel
    clips: MeasuredClips
    whole: Measured
    degraded: tuple[Measured, ...]
    not_measured: Mapping[str, str]
    standing: Standing

    @property
    def main_measure(self) -> str:
        """The metric that differences are stated in."""
        return main_measure(self.model.description.task)

    def metrics(self) -> dict[str, float]:
        """Return all scores, named ``<split>/<condition>/<metric>`` and ``...:<degradation>``; no NaN."""
        split = self.clips.selection.split
        found = {}
        for measured in (self.whole, *self.degraded):
            for condition, scores in measured.scores.items():
                for name, value in scores.metrics.items():
                    if np.isfinite(value):
                        found[metric_name(split, condition, name) + measured.suffix] = value
        return found


@dataclass(frozen=True)
class Degradations:
    """The degradations that can be measured on some clips, each with what it does to their frames."""

    changes: tuple[tuple[Degradation, FrameChange], ...]
    not_measured: Mapping[str, str]
    sound: NoisySound | None


def evaluate(
    model: SavedModel,
    plan: EvaluationPlan,
    clips: MeasuredClips,
    degradations: Degradations,
) -> Evaluation:
    """Measure the clips whole, then degraded in each way.

    Args:
        model: on its device.
        plan: settings.
        clips: from ``open_clips``.
        degradations: from ``open_degradations``.
    """
    predictions = predict_clips(model, clips)
    speakers, task = clips.speaker_names, model.description.task
    scores = scores_by_condition(predictions, speakers, task, plan.bootstrap_seed)
    whole = Measured(None, predictions, scores, {}, {})
    degraded, changes = [], degradations.changes
    for degradation, change in show_progress(changes, len(changes), "measuring degraded inputs"):
        failed = degradations.sound.failed if degradations.sound else {}
        failed.clear()
        found = _affected(predict_clips(model, clips, change), degradation, failed)
        degraded.append(
            Measured(
                degradation,
                found,
                scores_by_condition(found, speakers, task, plan.bootstrap_seed, in_detail=False),
                differences(found, predictions, speakers, task, plan.bootstrap_seed),
                dict(failed),
            )
        )
    standing = standing_of(model.description, clips)
    notes = (*standing.notes, *_notes(degradations, clips))
    for note in (*standing.warnings, *notes):
        _log.warning("%s", note)
    standing = replace(standing, notes=notes)
    return Evaluation(plan, model, clips, whole, tuple(degraded), degradations.not_measured, standing)


def open_degradations(model: SavedModel, plan: EvaluationPlan, clips: MeasuredClips) -> Degradations:
    """Decide which degradations these clips allow, and say why others cannot be measured.

    Raises:
        ConfigError: the card is of another corpus, or the extractor lacks a package or a file.
    """
    settings = plan.degradations
    wanted = [each for each in settings.each() if set(each.conditions) & set(clips.conditions)]
    sound, why = None, ""
    if any(isinstance(each, NoiseInSound) for each in wanted):
        try:
            sound = open_sound(
                clips, model.description.audio.extractor, plan.media, settings.seed, settings.noise_kind
            )
        except ConfigError:
            raise
        except InputError as fault:
            why = f"noise needs the sound itself: {fault.problem}"
    not_measured = {each.name: why for each in wanted if why and isinstance(each, NoiseInSound)}
    usable = [each for each in wanted if each.name not in not_measured]
    changes = tuple((each, _change(each, clips, settings.seed, sound)) for each in usable)
    if not_measured:
        _log.warning("not measured: %s; %s", ", ".join(not_measured), why)
    return Degradations(changes, not_measured, sound)


def _notes(degradations: Degradations, clips: MeasuredClips) -> Iterator[str]:
    if degradations.sound is not None and (problem := degradations.sound.disagreement()):
        yield f"scores with noise carry more than the noise: {problem}"
    moves_pictures = any(isinstance(each, (DroppedFrames, ShiftedSync)) for each, _ in degradations.changes)
    collection = clips.collection
    if moves_pictures and "video" in collection.store.info:
        rows = collection.store_row["video"][clips.rows]
        frames = collection.store.lengths("video")[rows[rows >= 0]]
        if (frames == 1).any():
            yield f"{(frames == 1).sum()} clips have one frame of video, which cannot be dropped or shifted"


def _change(
    degradation: Degradation, clips: MeasuredClips, seed: int, sound: NoisySound | None
) -> FrameChange:
    match degradation:
        case NoiseInSound(snr_db=snr_db):
            assert sound is not None
            return partial(_in_sound, sound, snr_db)
        case DroppedFrames():
            return partial(_dropped, degradation, clips, seed)
        case ShiftedSync():
            return partial(_shifted, degradation, clips)
        case NoiseOnFeatures():
            return partial(_on_features, degradation, clips, seed)


Frames = NDArray[np.float32]


def _in_sound(sound: NoisySound, snr_db: float, modality: str, row: int, raw: Frames) -> Frames:
    return sound.changed(row, raw, snr_db) if modality == AUDIO else raw


def _dropped(
    degradation: DroppedFrames, clips: MeasuredClips, seed: int, modality: str, row: int, raw: Frames
) -> Frames:
    if modality == AUDIO:
        return raw
    return degradation.apply(raw, draws_of(seed, "dropped frames", _clip_id(clips, row)))


def _shifted(degradation: ShiftedSync, clips: MeasuredClips, modality: str, row: int, raw: Frames) -> Frames:
    if modality == AUDIO:
        return raw
    collection = clips.collection
    return degradation.apply(
        raw, collection.store.frame_times(modality, int(collection.store_row[modality][row]))
    )


def _on_features(
    degradation: NoiseOnFeatures, clips: MeasuredClips, seed: int, modality: str, row: int, raw: Frames
) -> Frames:
    normaliser = clips.normaliser[modality]
    speaker = int(clips.collection.speaker[row])
    std = normaliser.by_speaker.get(speaker, normaliser.common).std
    return degradation.apply(raw, std, draws_of(seed, f"{modality} features", _clip_id(clips, row)))


def _clip_id(clips: MeasuredClips, row: int) -> str:
    return str(clips.collection.manifest.table["clip_id"][row].as_py())


def _affected(
    predictions: SplitPredictions, degradation: Degradation, failed: Mapping[int, str]
) -> SplitPredictions:
    """Count only conditions that the degradation can change, and only clips that it could be applied to."""
    usable = ~np.isin(predictions.rows, list(failed))
    counts = {
        condition: there & usable if condition in degradation.conditions else np.zeros_like(there)
        for condition, there in predictions.counts.items()
    }
    return replace(predictions, counts=counts)

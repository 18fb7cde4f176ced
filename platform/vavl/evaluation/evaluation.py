"""An evaluation: whole inputs under every condition, each degradation by itself, and what the scores are worth."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from vavl.config.progress import show_progress
from vavl.corpora.manifest import TRAIN, VALIDATION
from vavl.evaluation.degradation import Degradation, Degradations
from vavl.evaluation.measure import MeasuredClips, predict_clips
from vavl.evaluation.scores import (
    ConditionScores,
    LengthScores,
    differences,
    main_measure,
    scores_by_condition,
    scores_by_length,
    seconds_of_clips,
    unlike_training,
)
from vavl.evaluation.settings import EvaluationPlan
from vavl.metrics.names import CONDITIONS, metric_name
from vavl.metrics.paired import Interval
from vavl.models.saved_model import ModelDescription, SavedModel
from vavl.models.settings import ClassTask
from vavl.training.evaluation import SplitPredictions

_SHOWN = 8
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Standing:
    """How the measured clips stand to the model."""

    warnings: tuple[str, ...]  # what makes the scores too high or hard to compare
    notes: tuple[str, ...]  # what a reader should know
    is_cross_corpus: bool  # the clips are of another corpus than the model's


@dataclass(frozen=True)
class Measured:
    """The clips measured in one way."""

    degradation: Degradation | None  # None for whole inputs
    predictions: SplitPredictions  # of every clip
    scores: Mapping[str, ConditionScores]  # by condition; only conditions that the degradation can change
    differences: Mapping[str, Interval]  # of the main measure from that of whole inputs, paired, by condition
    failed: Mapping[int, str]  # why a clip is missing, by manifest row

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
    """Everything that an evaluation found."""

    plan: EvaluationPlan  # that was asked for
    model: SavedModel  # that was measured
    clips: MeasuredClips  # that it was measured on
    whole: Measured  # inputs as they are
    degraded: tuple[Measured, ...]  # in the order of the settings
    not_measured: Mapping[str, str]  # why a degradation was not measured, by its name
    standing: Standing  # what the scores are worth
    lengths: tuple[LengthScores, ...] = ()  # scores of whole inputs by the length of the clips

    @property
    def main_measure(self) -> str:
        """The metric that differences are stated in."""
        return main_measure(self.model.description.task)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the classes or of the attributes."""
        task = self.model.description.task
        return task.classes if isinstance(task, ClassTask) else task.attributes

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


def evaluate(model: SavedModel, plan: EvaluationPlan, clips: MeasuredClips, degradations: Degradations) -> Evaluation:
    """Measure the clips whole, then degraded in each way."""
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
    standing = replace(standing, notes=(*standing.notes, *_notes(degradations, clips)))
    for note in (*standing.warnings, *standing.notes):
        _log.warning("%s", note)
    lengths = scores_by_length(
        predictions, seconds_of_clips(clips), speakers, task, plan.bootstrap_seed, plan.lengths_s
    )
    return Evaluation(plan, model, clips, whole, tuple(degraded), degradations.not_measured, standing, lengths)


def _notes(degradations: Degradations, clips: MeasuredClips) -> Iterator[str]:
    if degradations.sound is not None and (problem := degradations.sound.disagreement()):
        yield f"scores with noise carry more than the noise: {problem}"
    collection = clips.collection
    moves_frames = any(each.kind in ("dropped_frames", "shifted") for each, _ in degradations.changes)
    if moves_frames and "video" in collection.store.info:
        rows = collection.store_row["video"][clips.rows]
        frames = collection.store.lengths("video")[rows[rows >= 0]]
        if (frames == 1).any():
            yield f"{(frames == 1).sum()} clips have one frame of video, which cannot be dropped or shifted"


def _affected(predictions: SplitPredictions, degradation: Degradation, failed: Mapping[int, str]) -> SplitPredictions:
    """Count only conditions that the degradation can change, and only clips that it could be applied to."""
    usable = ~np.isin(predictions.rows, list(failed))
    counts = {
        condition: there & usable if condition in degradation.conditions else np.zeros_like(there)
        for condition, there in predictions.counts.items()
    }
    return replace(predictions, counts=counts)


def standing_of(description: ModelDescription, clips: MeasuredClips) -> Standing:
    """Compare the provenance of a model with the clips that it is measured on."""
    manifest, trained_on = clips.collection.manifest, description.provenance
    is_cross = trained_on.get("corpus") != manifest.corpus
    warnings = [] if is_cross else list(_own_corpus(trained_on, clips))
    if is_cross:
        warnings.append(
            f"the model was trained on corpus {trained_on.get('corpus', 'unknown')}, the clips are of "
            f"{manifest.corpus}; whether some of their speakers took part in its training is not known here"
        )
    if waived := trained_on.get("waived_audit"):
        warnings.append(f"the training run waived checks of the audit of its store: {', '.join(waived)}")
    notes = [*_classes(description, clips), *unlike_training(description, clips)]
    if trained_on.get("label_target") != manifest.target:
        notes.insert(0, f"the labels mean {manifest.target!r}; the model learned {trained_on.get('label_target')!r}")
    if clips.left_out:
        notes.append(f"{clips.left_out} labeled clips are left out by data.labels")
    untrained = [name for name in CONDITIONS if name not in clips.conditions]
    if untrained:
        notes.append(f"no label has trained {', '.join(untrained)}: not measured")
    return Standing(tuple(warnings), tuple(notes), is_cross)


def _own_corpus(trained_on: dict[str, Any], clips: MeasuredClips) -> Iterator[str]:
    manifest = clips.collection.manifest
    if trained_on.get("protocol") != manifest.protocol:
        yield (
            f"the model was trained under the protocol {trained_on.get('protocol')}, the store has "
            f"{manifest.protocol}: its training speakers are not known here and may be among these"
        )
        return
    fold = trained_on.get("fold")
    if fold not in manifest.folds:
        yield f"the model was trained on fold {fold}, which the store does not have: its speakers may be among these"
        return
    split = manifest.split(fold)
    if trained_on.get("refit_steps") is not None:  # the validation speakers were trained on, too
        split = np.where(split == VALIDATION, TRAIN, split)
    speaker = clips.collection.speaker
    measured = set(speaker[clips.rows].tolist())
    for code, what in (
        (TRAIN, "the model was trained on {who}: the scores say how well it remembers, not how well it generalizes"),
        (VALIDATION, "the epoch that is kept was chosen on {who}: the scores are optimistic"),
    ):
        seen = sorted(clips.collection.speakers[one] for one in measured & set(speaker[split == code].tolist()))
        if seen:
            shown = ", ".join(seen[:_SHOWN]) + (", ..." if len(seen) > _SHOWN else "")
            every = "all" if len(seen) == len(measured) else f"{len(seen)} of the"
            yield what.format(who=f"{every} {len(measured)} measured speakers ({shown})")


def _classes(description: ModelDescription, clips: MeasuredClips) -> Iterator[str]:
    if not isinstance(description.task, ClassTask):
        return
    labels = {old: new for old, new in clips.selection.labels.items() if old != new}
    if labels:
        yield "classes of the store: " + ", ".join(
            f"{old} counts as {new}" if new else f"{old} is left out" for old, new in labels.items()
        )
    occurs = np.asarray(clips.collection.target[clips.rows].any(axis=0))
    absent = [name for name, there in zip(description.task.classes, occurs, strict=True) if not there]
    if absent:
        yield f"no measured clip is {', '.join(absent)}; the model may still say so, which counts as wrong"


def chance_and_majority(clips: MeasuredClips) -> tuple[float, float, str]:
    """Return the reference scores that every corpus of classes has.

    Returns:
        Share right by chance, evenly among the classes; share right when the most frequent class is always
        said; and among which clips it is the most frequent: the training clips of the fold, or the measured
        ones where there are none.
    """
    target = clips.collection.target
    classes = target.shape[1]
    measured = target[clips.rows].argmax(axis=1)
    counted, whose = measured, "the measured clips"
    if clips.fold is not None:
        training = np.flatnonzero(clips.collection.manifest.split(clips.fold) == TRAIN)
        training = training[clips.collection.is_labelled[training]]
        if len(training):
            counted, whose = target[training].argmax(axis=1), f"the training clips of fold {clips.fold}"
    most = int(np.bincount(counted, minlength=classes).argmax())
    return 1 / classes, float((measured == most).mean()), whose

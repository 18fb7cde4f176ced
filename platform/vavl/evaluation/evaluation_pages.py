"""The report of an evaluation, put together from what was measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vavl.evaluation.degradation import (
    Degradation,
    DroppedFrames,
    NoiseInSound,
    NoiseOnFeatures,
    ShiftedSync,
)
from vavl.evaluation.evaluation import Evaluation
from vavl.evaluation.evaluation_content import DegradedScore, EvaluationReport
from vavl.evaluation.evaluation_report import write_evaluation_report
from vavl.evaluation.scores import ConditionScores
from vavl.evaluation.standing import chance_and_majority
from vavl.metrics.classes import CALIBRATION_BINS
from vavl.metrics.paired import Interval
from vavl.models.settings import AttributeTask, ClassTask
from vavl.reports.pictures import ReliabilityBins, reliability_bins
from vavl.serving.model_address import ResolvedModel
from vavl.training.training_content import YardstickNote
from vavl.training.training_pages import yardsticks_of


def write_report(evaluation: Evaluation, resolved: ResolvedModel, test_looks: str, folder: Path) -> Path:
    """Write ``report.html`` and its pictures; return the page's path.

    Args:
        evaluation: what was measured.
        resolved: which model.
        test_looks: how often the test split was measured before, in words; "" where it does not matter.
        folder: of the results.
    """
    clips, task = evaluation.clips, evaluation.model.description.task
    manifest, whole = clips.collection.manifest, evaluation.whole.scores
    is_classes = isinstance(task, ClassTask)
    first = next(iter(whole.values()))
    report = EvaluationReport(
        model=f"Evaluation of {resolved.title}",
        corpus=manifest.corpus,
        split=clips.selection.split,
        protocol=manifest.protocol
        if clips.fold is None
        else f"{manifest.protocol}, fold {manifest.fold_title(clips.fold)}",
        label_target=manifest.target,
        measure=evaluation.main_measure,
        is_share=is_classes,
        scores={condition: _intervals(scores) for condition, scores in whole.items()},
        outputs=task.classes if isinstance(task, ClassTask) else task.attributes,
        confusion={name: one.confusion for name, one in whole.items() if one.confusion is not None},
        reliability=dict(_reliability(evaluation)) if is_classes else {},
        bins=CALIBRATION_BINS,
        classes={name: one.classes for name, one in whole.items() if one.classes},
        speakers={name: _by_speaker(one, evaluation.main_measure) for name, one in whole.items()},
        speaker_clips={name: int(found["clips"]) for name, found in first.by_speaker.items()},
        values={} if is_classes else dict(_values(evaluation)),
        degraded=tuple(_degraded(evaluation)),
        not_measured=evaluation.not_measured,
        yardsticks=yardsticks(evaluation),
        warnings=evaluation.standing.warnings,
        notes=[*evaluation.standing.notes, *_failures(evaluation), *([test_looks] if test_looks else [])],
        origin=_origin(evaluation),
        facts=_facts(evaluation, resolved),
        speaker_normalisation=evaluation.model.description.speaker_normalisation,
    )
    return write_evaluation_report(report, folder)


def _protocol(evaluation: Evaluation) -> str:
    manifest, fold = evaluation.clips.collection.manifest, evaluation.clips.fold
    return manifest.protocol if fold is None else f"{manifest.protocol}, fold {manifest.fold_title(fold)}"


def yardsticks(evaluation: Evaluation) -> list[YardstickNote]:
    """Return the yard-sticks of the corpus, then chance and the most frequent class; none for attributes."""
    if isinstance(evaluation.model.description.task, AttributeTask):
        return []
    clips = evaluation.clips
    chance, majority, whose = chance_and_majority(clips)
    classes = evaluation.model.description.task.outputs
    return [
        *yardsticks_of(clips.collection.manifest),
        YardstickNote("most frequent class", 100 * majority, f"always the most frequent class of {whose}"),
        YardstickNote("chance", 100 * chance, f"guessing evenly among {classes} classes"),
    ]


def _intervals(scores: ConditionScores) -> dict[str, Interval]:
    nothing = float("nan")
    return {
        name: scores.intervals.get(name, Interval(value, nothing, nothing))
        for name, value in scores.metrics.items()
    }


def _by_speaker(scores: ConditionScores, measure: str) -> dict[str, float]:
    return {speaker: found[measure] for speaker, found in scores.by_speaker.items()}


def _reliability(evaluation: Evaluation) -> Iterator[tuple[str, ReliabilityBins]]:
    predictions = evaluation.whole.predictions
    for condition in evaluation.whole.scores:
        counts = predictions.counts[condition]
        truth = predictions.target[counts].argmax(axis=1)
        yield condition, reliability_bins(predictions.predicted[condition][counts], truth, CALIBRATION_BINS)


def _values(evaluation: Evaluation) -> Iterator[tuple[str, tuple[Any, Any]]]:
    predictions = evaluation.whole.predictions
    for condition in evaluation.whole.scores:
        counts = predictions.counts[condition]
        yield condition, (predictions.predicted[condition][counts], predictions.target[counts])


def _degraded(evaluation: Evaluation) -> Iterator[DegradedScore]:
    nothing = Interval(float("nan"), float("nan"), float("nan"))
    for measured in evaluation.degraded:
        assert measured.degradation is not None
        kind, level = _kind_and_level(measured.degradation, evaluation.plan.degradations.noise_kind)
        for condition, scores in measured.scores.items():
            yield DegradedScore(
                kind,
                level,
                condition,
                scores.intervals[evaluation.main_measure],
                measured.differences.get(condition, nothing),
                int(scores.metrics["clips"]),
            )


def _kind_and_level(degradation: Degradation, noise_kind: str) -> tuple[str, str]:
    match degradation:
        case NoiseInSound(snr_db=snr_db):
            return f"{noise_kind} noise in the sound", f"{snr_db:g} dB"
        case DroppedFrames(share=share):
            return "video frames dropped", f"{100 * share:g} %"
        case ShiftedSync(seconds=seconds):
            return "video late", f"{seconds:+g} s"
        case NoiseOnFeatures(deviation=deviation):
            return "noise on features (deviations)", f"{deviation:g}"


def _failures(evaluation: Evaluation) -> Iterator[str]:
    for measured in evaluation.degraded:
        if measured.failed:
            assert measured.degradation is not None
            reason = next(iter(measured.failed.values()))
            yield f"{measured.degradation.title}: {len(measured.failed)} clips could not be read, e.g. {reason}"


def _origin(evaluation: Evaluation) -> Mapping[str, Any]:
    clips, description = evaluation.clips, evaluation.model.description
    manifest, trained_on = clips.collection.manifest, description.provenance
    speakers = sorted(set(np.asarray(clips.speaker_names).tolist()))
    fold = "" if trained_on.get("fold") is None else f", fold {trained_on['fold']}"
    split = "every labelled clip"
    if clips.fold is not None:
        split = f"{clips.selection.split} of {_protocol(evaluation)}"
    return {
        "clips": f"{len(clips.rows):,} labelled clips of {len(speakers)} speakers: {', '.join(speakers)}",
        "corpus": manifest.corpus,
        "split": split,
        "labels": manifest.target + (f" (set {manifest.label_set})" if manifest.label_set else ""),
        "trained on": f"{trained_on.get('corpus', 'unknown')}, {trained_on.get('protocol', 'unknown')}{fold}",
        "feature normalisation": (
            "per speaker, by the unlabelled clips of this store" if description.speaker_normalisation
            else "one, from the training speakers of the model"
        ),
    }  # fmt: skip


def _facts(evaluation: Evaluation, resolved: ResolvedModel) -> Mapping[str, Any]:
    description, trained_on = evaluation.model.description, evaluation.model.description.provenance
    return {
        "model": resolved.address,
        "model folder": resolved.folder,
        "network": f"width {description.network.width}",
        **{
            f"{modality} features": side.extractor.get("extractor", "unknown")
            for modality, side in (("audio", description.audio), ("video", description.video))
            if side.trained
        },
        "configuration hash of the training": trained_on.get("config_hash", "unknown"),
        "feature store hash": f"{evaluation.clips.collection.store.hash} (training: {trained_on.get('store_hash')})",
        "seeds": f"bootstrap {evaluation.plan.bootstrap_seed}, degradations {evaluation.plan.degradations.seed}",
    }

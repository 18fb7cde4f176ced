"""The report of an evaluation: what was measured, and what the scores are worth."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vavl.data.normalization import NORMALIZED_BY
from vavl.evaluation.evaluation import Evaluation, chance_and_majority
from vavl.evaluation.plots import DegradedScore, Measure, degraded_figure, speakers_figure, values_figure
from vavl.evaluation.scores import LengthScores
from vavl.features import SpeakerNormalisation
from vavl.metrics.paired import Interval
from vavl.metrics.scores import CALIBRATION_BINS, ClassScore
from vavl.models.settings import AttributeTask, ClassTask
from vavl.reports.plots import (
    Plot,
    ReliabilityBins,
    confusion_figure,
    reliability_bins,
    reliability_figure,
    write_plots,
)
from vavl.reports.render import sentence, write_page
from vavl.reports.theme import CONDITION_TITLES
from vavl.serving.model_address import ResolvedModel
from vavl.training.report import ReferenceScore, references_of

# Metric, its title, and whether it is a share shown in percent. Only those that were measured appear.
_COLUMNS = (
    ("accuracy", "accuracy %", True),
    ("uar", "UAR %", True),
    ("f1_macro", "F1 %", True),
    ("calibration_error", "ECE %", True),
    ("brier", "Brier", False),
    ("ccc_mean", "CCC", False),
)
_PER_ATTRIBUTE = (("ccc", "CCC"), ("rmse", "RMSE"), ("mae", "MAE"))


@dataclass(frozen=True)
class EvaluationReport:
    """Everything that the report of an evaluation shows."""

    model: str  # name and version, or directory
    corpus: str  # of the clips
    split: str  # that was measured
    protocol: str  # of the splits, with the fold
    label_target: str  # what the labels mean
    measure: str  # name of the main metric
    is_share: bool  # it is a share, shown in percent
    # by condition, then by metric; bounds are NaN where there is no interval
    scores: Mapping[str, Mapping[str, Interval]]
    outputs: Sequence[str]  # classes or attributes, by name
    # counts (true class, predicted class) by condition; empty for attributes
    confusion: Mapping[str, NDArray[np.int64]] = field(default_factory=dict)
    reliability: Mapping[str, ReliabilityBins] = field(default_factory=dict)  # by condition
    bins: int = 15  # of the calibration error and of `reliability`
    classes: Mapping[str, Sequence[ClassScore]] = field(default_factory=dict)  # scores of each class by condition
    # the main measure of each speaker's clips, by condition
    speakers: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    speaker_clips: Mapping[str, int] = field(default_factory=dict)  # clips of each speaker
    # (clips, attributes) predicted and true, by condition; empty for classes
    values: Mapping[str, tuple[NDArray[np.float64], NDArray[np.float64]]] = field(default_factory=dict)
    lengths: Sequence[LengthScores] = ()  # main measure by the length of the clips
    degraded: Sequence[DegradedScore] = ()  # in order
    not_measured: Mapping[str, str] = field(default_factory=dict)  # why, by what was asked for
    references: Sequence[ReferenceScore] = ()  # that the scores are held against
    warnings: Sequence[str] = ()  # what makes the scores too high or hard to compare; marked at the top
    notes: Sequence[str] = ()  # sentences for the end
    origin: Mapping[str, Any] = field(default_factory=dict)  # what was measured on what, in this order
    facts: Mapping[str, Any] = field(default_factory=dict)  # further facts, in this order
    # by which unlabeled clips of each speaker features were normalized
    speaker_normalisation: SpeakerNormalisation = "none"

    @property
    def main_measure(self) -> Measure:
        """The main measure as it is shown."""
        return Measure("mean CCC" if self.measure == "ccc_mean" else self.measure, self.is_share)

    @property
    def main(self) -> dict[str, Interval]:
        """The main measure of whole inputs by condition, in the order of every table."""
        return {condition: scores[self.measure] for condition, scores in self.scores.items()}


def write_report(evaluation: Evaluation, resolved: ResolvedModel, test_evaluations: str, directory: Path) -> Path:
    """Write ``report.html`` and its plots; return the page's path.

    ``test_evaluations`` says how often the test split was measured before; "" where it does not matter.
    """
    clips, task = evaluation.clips, evaluation.model.description.task
    manifest, whole = clips.collection.manifest, evaluation.whole.scores
    is_classes = isinstance(task, ClassTask)
    first, nothing = next(iter(whole.values())), float("nan")
    failures = [
        f"{one.degradation.title}: {len(one.failed)} clips could not be read, e.g. {next(iter(one.failed.values()))}"
        for one in evaluation.degraded
        if one.failed and one.degradation
    ]
    report = EvaluationReport(
        model=f"Evaluation of {resolved.title}",
        corpus=manifest.corpus,
        split=clips.selection.split,
        protocol=_protocol(evaluation),
        label_target=manifest.target,
        measure=evaluation.main_measure,
        is_share=is_classes,
        scores={
            condition: {
                name: one.intervals.get(name, Interval(value, nothing, nothing)) for name, value in one.metrics.items()
            }
            for condition, one in whole.items()
        },
        outputs=task.classes if isinstance(task, ClassTask) else task.attributes,
        confusion={name: one.confusion for name, one in whole.items() if one.confusion is not None},
        reliability={
            condition: reliability_bins(predicted, target.argmax(axis=1), CALIBRATION_BINS)
            for condition, (predicted, target) in _counted(evaluation)
            if is_classes
        },
        bins=CALIBRATION_BINS,
        classes={name: one.classes for name, one in whole.items() if one.classes},
        speakers={
            name: {speaker: found[evaluation.main_measure] for speaker, found in one.by_speaker.items()}
            for name, one in whole.items()
        },
        speaker_clips={name: int(found["clips"]) for name, found in first.by_speaker.items()},
        values={} if is_classes else dict(_counted(evaluation)),
        lengths=evaluation.lengths,
        degraded=tuple(_degraded(evaluation)),
        not_measured=evaluation.not_measured,
        references=references(evaluation),
        warnings=evaluation.standing.warnings,
        notes=[*evaluation.standing.notes, *failures, *([test_evaluations] if test_evaluations else [])],
        origin=_origin(evaluation),
        facts=_facts(evaluation, resolved),
        speaker_normalisation=evaluation.model.description.speaker_normalisation,
    )
    return write_report_page(report, directory)


def write_report_page(report: EvaluationReport, directory: Path) -> Path:
    """Write ``report.html`` and its plots into ``directory``; return the page's path."""
    plots = list(evaluation_plots(report))
    write_plots(plots, directory)
    degraded: dict[str, dict[str, dict[str, DegradedScore]]] = {}
    for score in report.degraded:
        degraded.setdefault(score.kind, {}).setdefault(score.level, {})[score.condition] = score
    measured = [CONDITION_TITLES[condition] for condition in report.scores]
    missing = (f"{name} is not measured: {reason}" for name, reason in report.not_measured.items())
    return write_page(
        directory / "report.html",
        "evaluation/report.html",
        report.model,
        f"{report.split} clips of {report.corpus} · {report.protocol} · label target: {report.label_target}",
        report=report,
        measure=report.main_measure,
        conditions=CONDITION_TITLES,
        columns=_columns(report),
        measured=measured,
        degraded=degraded,
        degraded_header=["", *(text for title in measured for text in (title, "change"))],
        plots={
            start: [plot for plot in plots if plot.name.startswith(start)]
            for start in ("degraded", "confusion", "speakers", "reliability", "values")
        },
        notes=[sentence(text) for text in (*report.notes, *missing)],
    )


def _columns(report: EvaluationReport) -> list[tuple[str, str, bool]]:
    first = next(iter(report.scores.values()))
    shown = [column for column in _COLUMNS if column[0] in first]
    if not report.values:
        return [*shown, ("loss", "NLL", False)]
    return shown + [
        (f"{kind}_{name}", f"{name} {title}", False) for name in report.outputs for kind, title in _PER_ATTRIBUTE
    ]


def evaluation_plots(report: EvaluationReport) -> Iterator[Plot]:
    """Yield the plots that the content of a report allows; their names begin with their section."""
    measure, main = report.main_measure, report.main
    for number, kind in enumerate(dict.fromkeys(score.kind for score in report.degraded)):
        yield Plot(
            f"degraded_{number}",
            f"{report.split} {measure.title}; bars: 95 % over speakers",
            f"Curves of {measure.title} over the strength of {kind}, one line per condition",
            degraded_figure(kind, report.degraded, main, measure),
        )
    for condition, counts in report.confusion.items():
        title = CONDITION_TITLES[condition]
        yield Plot(
            f"confusion_{condition}",
            f"{title}: percent of each true class",
            f"Confusion matrix of {title} on {report.split}",
            confusion_figure(counts, report.outputs),
        )
    if report.reliability:
        yield Plot(
            "reliability",
            f"{report.bins} bins; below the diagonal is overconfident, larger points hold more clips",
            "Stated confidence against the share of right predictions",
            reliability_figure(report.reliability),
        )
    if report.speaker_clips:
        yield Plot(
            "speakers",
            f"{measure.title} of each speaker, lowest first; the lines are those of all clips",
            "Points of the main measure for every speaker, one color per condition",
            speakers_figure(report.speakers, report.speaker_clips, main, measure),
        )
    for condition, (predicted, target) in report.values.items():
        ccc = {name: report.scores[condition][f"ccc_{name}"].value for name in report.outputs}
        yield Plot(
            f"values_{condition}",
            f"{CONDITION_TITLES[condition]}: predicted over true values; on the line they are equal",
            f"Predicted against true attributes of {CONDITION_TITLES[condition]} on {report.split}",
            values_figure(predicted, target, ccc, condition),
        )


def _protocol(evaluation: Evaluation) -> str:
    manifest, fold = evaluation.clips.collection.manifest, evaluation.clips.fold
    return manifest.protocol if fold is None else f"{manifest.protocol}, fold {manifest.fold_title(fold)}"


def references(evaluation: Evaluation) -> list[ReferenceScore]:
    """Return the reference scores of the corpus, then chance and the most frequent class; none for attributes."""
    if isinstance(evaluation.model.description.task, AttributeTask):
        return []
    clips = evaluation.clips
    chance, majority, whose = chance_and_majority(clips)
    classes = evaluation.model.description.task.outputs
    return [
        *references_of(clips.collection.manifest),
        ReferenceScore("most frequent class", 100 * majority, f"always the most frequent class of {whose}"),
        ReferenceScore("chance", 100 * chance, f"guessing evenly among {classes} classes"),
    ]


def _counted(evaluation: Evaluation) -> Iterator[tuple[str, tuple[Any, Any]]]:
    """Yield by condition what is predicted of whole inputs, and the truth."""
    predictions = evaluation.whole.predictions
    for condition in evaluation.whole.scores:
        counts = predictions.counts[condition]
        yield condition, (predictions.predicted[condition][counts], predictions.target[counts])


def _degraded(evaluation: Evaluation) -> Iterator[DegradedScore]:
    nothing = Interval(float("nan"), float("nan"), float("nan"))
    for measured in evaluation.degraded:
        assert measured.degradation is not None
        kind, level = measured.degradation.plot, measured.degradation.level
        for condition, scores in measured.scores.items():
            score, change = scores.intervals[evaluation.main_measure], measured.differences.get(condition, nothing)
            yield DegradedScore(kind, level, condition, score, change, int(scores.metrics["clips"]))


def _origin(evaluation: Evaluation) -> Mapping[str, Any]:
    clips, description = evaluation.clips, evaluation.model.description
    manifest, trained_on = clips.collection.manifest, description.provenance
    speakers = sorted(set(np.asarray(clips.speaker_names).tolist()))
    fold = "" if trained_on.get("fold") is None else f", fold {trained_on['fold']}"
    split = f"{clips.selection.split} of {_protocol(evaluation)}"
    split = "every labeled clip" if clips.fold is None else split
    return {
        "clips": f"{len(clips.rows):,} labeled clips of {len(speakers)} speakers: {', '.join(speakers)}",
        "corpus": manifest.corpus,
        "split": split,
        "labels": manifest.target + (f" (set {manifest.label_set})" if manifest.label_set else ""),
        "trained on": f"{trained_on.get('corpus', 'unknown')}, {trained_on.get('protocol', 'unknown')}{fold}",
        "feature normalization": NORMALIZED_BY[description.speaker_normalisation],
    }


def _facts(evaluation: Evaluation, resolved: ResolvedModel) -> Mapping[str, Any]:
    description, trained_on = evaluation.model.description, evaluation.model.description.provenance
    return {
        "model": resolved.address,
        "model directory": resolved.folder,
        "network": f"width {description.network.width}",
        **{
            f"{modality} features": side.extractor.get("extractor", "unknown")
            for modality, side in (("audio", description.audio), ("video", description.video))
            if side.trained
        },
        "configuration hash of the training run": trained_on.get("config_hash", "unknown"),
        "feature store hash": f"{evaluation.clips.collection.store.hash} (training: {trained_on.get('store_hash')})",
        "seeds": f"bootstrap {evaluation.plan.bootstrap_seed}, degradations {evaluation.plan.degradations.seed}",
    }

"""The report of an evaluation: what was measured, and what the scores are worth."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from vavl.data.normalization import NORMALIZED_BY
from vavl.evaluation.evaluation import Evaluation, Measured, chance_and_majority
from vavl.evaluation.scores import ConditionScores
from vavl.metrics.paired import Interval
from vavl.metrics.scores import CALIBRATION_BINS
from vavl.models.settings import AttributeTask, ClassTask
from vavl.reports.plots import (
    DASHED,
    Plot,
    confusion_figure,
    draw_intervals,
    legend_below,
    new_figure,
    reliability_bins,
    reliability_figure,
    style_axes,
    write_plots,
)
from vavl.reports.render import sentence, write_page
from vavl.reports.theme import CONDITION_TITLES, LIGHT
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
_PLOTS = ("degraded", "confusion", "reliability", "speakers", "values")
_MOST_NAMED = 40
_ROW_HEIGHT = 0.26
_MARKERS = {"audio_video": "o", "audio": "s", "video": "D"}
_STEP_ASIDE = 0.09


@dataclass(frozen=True)
class Measure:
    """The main measure of a report, and whether it is a share, shown in percent."""

    name: str  # of the metric
    is_share: bool

    @property
    def title(self) -> str:
        """For people."""
        return "mean CCC" if self.name == "ccc_mean" else self.name

    @property
    def scale(self) -> int:
        """Factor of what is drawn."""
        return 100 if self.is_share else 1

    @property
    def label(self) -> str:
        """Of an axis."""
        return f"{self.title} (%)" if self.is_share else self.title


def write_report(evaluation: Evaluation, resolved: ResolvedModel, test_evaluations: str, directory: Path) -> Path:
    """Write ``report.html`` and its plots into ``directory``; return the page's path.

    ``test_evaluations`` says how often the test split was measured before; "" where it does not matter.
    """
    clips, description = evaluation.clips, evaluation.model.description
    manifest, split, whole = clips.collection.manifest, clips.selection.split, evaluation.whole.scores
    plots = list(evaluation_plots(evaluation))
    write_plots(plots, directory)
    titles = [CONDITION_TITLES[condition] for condition in whole]
    return write_page(
        directory / "report.html",
        "evaluation/report.html",
        f"Evaluation of {resolved.title}",
        f"{split} clips of {manifest.corpus} · {_protocol(evaluation)} · label target: {manifest.target}",
        evaluation=evaluation,
        whole=whole,
        measure=_measure(evaluation),
        split=split,
        speaker_normalisation=description.speaker_normalisation,
        bins=CALIBRATION_BINS,
        conditions=CONDITION_TITLES,
        columns=_columns(evaluation),
        measured=titles,
        references=references(evaluation),
        degraded=_by_kind(evaluation),
        degraded_header=["", *(text for title in titles for text in (title, "change"))],
        unchanged=Interval(float("nan"), float("nan"), float("nan")),
        plots={start: [plot for plot in plots if plot.name.startswith(start)] for start in _PLOTS},
        notes=[sentence(text) for text in _notes(evaluation, test_evaluations)],
        origin=_origin(evaluation),
        facts=_facts(evaluation, resolved),
    )


def evaluation_plots(evaluation: Evaluation) -> Iterator[Plot]:
    """Yield the plots that the content of an evaluation allows; their names begin with their section."""
    measure, whole, split = _measure(evaluation), evaluation.whole.scores, evaluation.clips.selection.split
    outputs = evaluation.outputs
    for number, kind in enumerate(_by_kind(evaluation)):
        yield Plot(
            f"degraded_{number}",
            f"{split} {measure.title}; bars: 95 % over speakers",
            f"Curves of {measure.title} over the strength of {kind}, one line per condition",
            degraded_figure(kind, evaluation.degraded, whole, measure),
        )
    for condition, scores in whole.items():
        if scores.confusion is not None:
            title = CONDITION_TITLES[condition]
            yield Plot(
                f"confusion_{condition}",
                f"{title}: percent of each true class",
                f"Confusion matrix of {title} on {split}",
                confusion_figure(scores.confusion, outputs),
            )
    predicted = dict(_predicted(evaluation))
    if measure.is_share:
        bins = {
            condition: reliability_bins(values, target.argmax(axis=1), CALIBRATION_BINS)
            for condition, (values, target) in predicted.items()
        }
        yield Plot(
            "reliability",
            f"{CALIBRATION_BINS} bins; below the diagonal is overconfident, larger points hold more clips",
            "Stated confidence against the share of right predictions",
            reliability_figure(bins),
        )
    yield Plot(
        "speakers",
        f"{measure.title} of each speaker, lowest first; the lines are those of all clips",
        "Points of the main measure for every speaker, one color per condition",
        speakers_figure(whole, measure),
    )
    for condition, (values, target) in predicted.items() if not measure.is_share else ():
        ccc = {name: whole[condition].metrics[f"ccc_{name}"] for name in outputs}
        yield Plot(
            f"values_{condition}",
            f"{CONDITION_TITLES[condition]}: predicted over true values; on the line they are equal",
            f"Predicted against true attributes of {CONDITION_TITLES[condition]} on {split}",
            values_figure(values, target, ccc, condition),
        )


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


def _measure(evaluation: Evaluation) -> Measure:
    return Measure(evaluation.main_measure, isinstance(evaluation.model.description.task, ClassTask))


def _columns(evaluation: Evaluation) -> list[tuple[str, str, bool]]:
    known = next(iter(evaluation.whole.scores.values())).metrics
    shown = [column for column in _COLUMNS if column[0] in known]
    if isinstance(evaluation.model.description.task, ClassTask):
        return [*shown, ("loss", "NLL", False)]
    each = ((kind, name, title) for name in evaluation.outputs for kind, title in _PER_ATTRIBUTE)
    return shown + [(f"{kind}_{name}", f"{name} {title}", False) for kind, name, title in each]


def _by_kind(evaluation: Evaluation) -> dict[str, list[Measured]]:
    """Return what was measured of degraded inputs by the title of the plot that it is in."""
    kinds: dict[str, list[Measured]] = {}
    for measured in evaluation.degraded:
        assert measured.degradation is not None
        kinds.setdefault(measured.degradation.plot, []).append(measured)
    return kinds


def _predicted(evaluation: Evaluation) -> Iterator[tuple[str, tuple[NDArray[np.float64], NDArray[np.float64]]]]:
    """Yield by condition what is predicted of whole inputs, and the truth, each (clips, outputs)."""
    predictions = evaluation.whole.predictions
    for condition in evaluation.whole.scores:
        counts = predictions.counts[condition]
        yield condition, (predictions.predicted[condition][counts], predictions.target[counts])


def _notes(evaluation: Evaluation, test_evaluations: str) -> Iterator[str]:
    yield from evaluation.standing.notes
    for one in evaluation.degraded:
        if one.failed and one.degradation:
            example = next(iter(one.failed.values()))
            yield f"{one.degradation.title}: {len(one.failed)} clips could not be read, e.g. {example}"
    if test_evaluations:
        yield test_evaluations
    for name, reason in evaluation.not_measured.items():
        yield f"{name} is not measured: {reason}"


def _protocol(evaluation: Evaluation) -> str:
    manifest, fold = evaluation.clips.collection.manifest, evaluation.clips.fold
    return manifest.protocol if fold is None else f"{manifest.protocol}, fold {manifest.fold_title(fold)}"


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
        "model directory": resolved.directory,
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


def degraded_figure(
    kind: str, degraded: Sequence[Measured], whole: Mapping[str, ConditionScores], measure: Measure
) -> Figure:
    """Draw the main measure over the strength of one kind of degradation; whole inputs come first.

    All kinds share one value axis, so that their heights compare.
    """
    figure, axes = new_figure((4.6, 3.6))
    own = [one for one in degraded if one.degradation and one.degradation.plot == kind]
    for place, (condition, scores) in enumerate(whole.items()):
        points = [(level, one.scores[condition]) for level, one in enumerate(own, 1) if condition in one.scores]
        if points:
            values = [found.score(measure.name) for found in (scores, *(found for _, found in points))]
            x = np.array([0, *(level for level, _ in points)]) + _STEP_ASIDE * (place - 1)
            style = {"color": LIGHT.of_condition(condition), "marker": _MARKERS.get(condition, "o")}
            draw_intervals(axes, x, values, measure.scale, {**style, "label": CONDITION_TITLES[condition]})
    axes.set_xticks(range(len(own) + 1), ["whole", *(one.degradation.level for one in own if one.degradation)])
    axes.set_xlim(-0.35, len(own) + 0.35)
    every = [
        found.score(measure.name) for each in (*(one.scores for one in degraded), whole) for found in each.values()
    ]
    ends = np.array([[one.value, one.low, one.high] for one in every])
    low, high = measure.scale * np.nanmin(ends), measure.scale * np.nanmax(ends)
    margin = 0.06 * max(high - low, 0.01 * measure.scale)
    axes.set_ylim(low - margin, high + margin)
    axes.set_ylabel(measure.label)
    axes.set_title(kind, color=LIGHT.text, fontsize=10)
    axes.grid(color=LIGHT.line, linewidth=0.8)
    legend_below(axes, columns=3)
    return figure


def speakers_figure(whole: Mapping[str, ConditionScores], measure: Measure) -> Figure:
    """Draw the main measure of each speaker by condition, ordered by the first condition."""
    first = next(iter(whole.values())).by_speaker
    names = sorted(first, key=lambda name: (first[name][measure.name], name))
    figure, axes = new_figure((5.6, max(2.2, 0.8 + _ROW_HEIGHT * min(len(names), _MOST_NAMED))))
    for condition, scores in whole.items():
        color, marker = LIGHT.of_condition(condition), _MARKERS.get(condition, "o")
        axes.axvline(measure.scale * scores.metrics[measure.name], color=color, linewidth=1, linestyle=(0, (4, 3)))
        rows = [row for row, name in enumerate(names) if name in scores.by_speaker]
        values = [measure.scale * scores.by_speaker[names[row]][measure.name] for row in rows]
        style: dict[str, Any] = {"linestyle": "none", "markersize": 5.5, "alpha": 0.85, "clip_on": False}
        axes.plot(values, rows, marker, color=color, label=CONDITION_TITLES[condition], **style)
    axes.set_ylim(len(names) - 0.4, -0.6)
    if len(names) <= _MOST_NAMED:
        axes.set_yticks(range(len(names)), [f"{name} ({first[name]['clips']:.0f})" for name in names])
    else:
        axes.set_yticks([])
        axes.set_ylabel(f"{len(names)} speakers")
    axes.set_xlabel(measure.label)
    if measure.is_share:
        axes.set_xlim(0, 100)
    axes.grid(color=LIGHT.line, linewidth=0.8)
    # The legend hangs below by a share of the height: the same distance for few and many rows.
    legend_below(axes, columns=3, gap=0.6 / figure.get_figheight())
    return figure


def values_figure(
    predicted: NDArray[np.float64], target: NDArray[np.float64], ccc: Mapping[str, float], condition: str
) -> Figure:
    """Draw predicted over true values, one panel per attribute, with the line where they are equal.

    ``predicted`` and ``target`` are (clips, attributes).
    """
    figure = Figure(figsize=(3.1 * len(ccc), 3.2), facecolor=LIGHT.surface)
    panels = figure.subplots(1, len(ccc), sharex=True, sharey=True, squeeze=False)[0]
    ends = [min(predicted.min(), target.min()), max(predicted.max(), target.max())]
    color = LIGHT.of_condition(condition)
    for column, (axes, name) in enumerate(zip(panels, ccc, strict=True)):
        style_axes(axes)
        axes.plot(ends, ends, color=LIGHT.quiet, linewidth=1, linestyle=DASHED)
        axes.scatter(target[:, column], predicted[:, column], s=14, color=color, alpha=0.55, linewidths=0)
        axes.set_title(f"{name}, CCC {ccc[name]:.3f}", color=LIGHT.text, fontsize=10)
        axes.set_xlabel("true")
        axes.grid(color=LIGHT.line, linewidth=0.8)
    panels[0].set_ylabel("predicted")
    figure.subplots_adjust(wspace=0.1)
    return figure

"""Pictures of an evaluation: what degraded inputs cost, how speakers differ, true against predicted values."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from vavl.evaluation.evaluation_content import DegradedScore, EvaluationReport
from vavl.metrics.paired import Interval
from vavl.reports.pictures import (
    Picture,
    confusion_figure,
    legend_below,
    reliability_figure,
    style_axes,
    themed_figure,
)
from vavl.reports.theme import CONDITION_TITLES, Theme

_MOST_NAMED = 40
_ROW_HEIGHT = 0.26
_MARKERS = {"audio_video": "o", "audio": "s", "video": "D"}
_STEP_ASIDE = 0.09


def evaluation_pictures(report: EvaluationReport) -> Iterator[Picture]:
    """Yield the pictures that the content of a report allows; their names begin with their section."""
    for number, kind in enumerate(dict.fromkeys(score.kind for score in report.degraded)):
        yield Picture(
            f"degraded_{number}",
            f"{report.split} {report.measure_title}; bars: 95 % over speakers",
            f"Curves of {report.measure_title} over the strength of {kind}, one line per condition",
            partial(degraded_figure, report, kind),
        )
    for condition, counts in report.confusion.items():
        title = CONDITION_TITLES[condition]
        yield Picture(
            f"confusion_{condition}",
            f"{title}: percent of each true class",
            f"Confusion matrix of {title} on {report.split}",
            partial(confusion_figure, counts, report.outputs),
        )
    if report.reliability:
        yield Picture(
            "reliability",
            f"{report.bins} bins; below the diagonal is overconfident, larger points hold more clips",
            "Stated confidence against the share of right predictions",
            partial(reliability_figure, report.reliability, titles=CONDITION_TITLES),
        )
    if report.speaker_clips:
        yield Picture(
            "speakers",
            f"{report.measure_title} of each speaker, lowest first; the lines are those of all clips",
            "Points of the main measure for every speaker, one colour per condition",
            partial(speakers_figure, report),
        )
    for condition in report.values:
        yield Picture(
            f"values_{condition}",
            f"{CONDITION_TITLES[condition]}: predicted over true values; on the line they are equal",
            f"Predicted against true attributes of {CONDITION_TITLES[condition]} on {report.split}",
            partial(values_figure, report, condition),
        )


def degraded_figure(report: EvaluationReport, kind: str, theme: Theme) -> Figure:
    """Draw the main measure over the strength of one kind of degradation; whole inputs come first."""
    figure, axes = themed_figure(theme, (4.6, 3.6))
    own = [score for score in report.degraded if score.kind == kind]
    levels = list(dict.fromkeys(score.level for score in own))
    for place, condition in enumerate(report.conditions):
        points = [score for score in own if score.condition == condition]
        if points:
            _draw_line(axes, report, points, levels, (place, theme))
    axes.set_xticks(range(len(levels) + 1), ["whole", *levels])
    axes.set_xlim(-0.35, len(levels) + 0.35)
    axes.set_ylim(*_common_range(report))
    axes.set_ylabel(f"{report.measure_title} (%)" if report.is_share else report.measure_title)
    axes.set_title(kind, color=theme.text, fontsize=10)
    axes.grid(color=theme.line, linewidth=0.8)
    legend_below(axes, theme, columns=3)
    return figure


def _common_range(report: EvaluationReport) -> tuple[float, float]:
    """Return the ends of the value axis that all kinds share, so that their heights compare."""
    scores = [score.score for score in report.degraded] + [report.main(name) for name in report.conditions]
    ends = np.array([[one.value, one.low, one.high] for one in scores])
    scale = 100 if report.is_share else 1
    low, high = scale * np.nanmin(ends), scale * np.nanmax(ends)
    margin = 0.06 * max(high - low, 0.01 * scale)
    return low - margin, high + margin


def _draw_line(
    axes: Any,
    report: EvaluationReport,
    points: Sequence[DegradedScore],
    levels: Sequence[str],
    look: tuple[int, Theme],
) -> None:
    place, theme = look
    condition = points[0].condition
    values = [report.main(condition), *(score.score for score in points)]
    x = np.array([0, *(1 + levels.index(score.level) for score in points)]) + _STEP_ASIDE * (place - 1)
    y, error = _with_errors(values, 100 if report.is_share else 1)
    axes.errorbar(
        x, y, yerr=error, color=theme.of_condition(condition), marker=_MARKERS.get(condition, "o"), markersize=5,
        linewidth=1.6, elinewidth=0.9, capsize=2, label=CONDITION_TITLES[condition],
    )  # fmt: skip


def _with_errors(values: Sequence[Interval], scale: float) -> tuple[Any, Any]:
    y = scale * np.array([one.value for one in values])
    low, high = (scale * np.array([getattr(one, name) for one in values]) for name in ("low", "high"))
    return y, np.maximum(np.nan_to_num(np.stack([y - low, high - y])), 0)


def speakers_figure(report: EvaluationReport, theme: Theme) -> Figure:
    """Draw the main measure of each speaker by condition, ordered by the first condition that has all."""
    first = report.conditions[0]
    names = sorted(
        report.speaker_clips,
        key=lambda name: (report.speakers.get(first, {}).get(name, float("inf")), name),
    )
    figure, axes = themed_figure(theme, (5.6, max(2.2, 0.8 + _ROW_HEIGHT * min(len(names), _MOST_NAMED))))
    scale = 100 if report.is_share else 1
    for condition in report.conditions:
        colour, marker = theme.of_condition(condition), _MARKERS.get(condition, "o")
        axes.axvline(scale * report.main(condition).value, color=colour, linewidth=1, linestyle=(0, (4, 3)))
        known = report.speakers.get(condition, {})
        rows = [row for row, name in enumerate(names) if name in known]
        axes.plot(
            [scale * known[names[row]] for row in rows], rows, marker, color=colour, markersize=5.5, alpha=0.85,
            linestyle="none", label=CONDITION_TITLES[condition], clip_on=False,
        )  # fmt: skip
    axes.set_ylim(len(names) - 0.4, -0.6)
    if len(names) <= _MOST_NAMED:
        axes.set_yticks(range(len(names)), [f"{name} ({report.speaker_clips[name]})" for name in names])
    else:
        axes.set_yticks([])
        axes.set_ylabel(f"{len(names)} speakers")
    axes.set_xlabel(f"{report.measure_title} (%)" if report.is_share else report.measure_title)
    if report.is_share:
        axes.set_xlim(0, 100)
    axes.grid(color=theme.line, linewidth=0.8)
    # The legend hangs below by a share of the height: the same distance for few and many rows.
    axes.legend(
        loc="upper center", bbox_to_anchor=(0.5, -0.6 / figure.get_figheight()), ncols=3, frameon=False,
        labelcolor=theme.text, fontsize=9,
    )  # fmt: skip
    return figure


def values_figure(report: EvaluationReport, condition: str, theme: Theme) -> Figure:
    """Draw predicted over true values, one panel per attribute, with the line where they are equal."""
    predicted, target = report.values[condition]
    figure = Figure(figsize=(3.1 * len(report.outputs), 3.2), facecolor=theme.surface)
    panels = figure.subplots(1, len(report.outputs), sharex=True, sharey=True, squeeze=False)[0]
    ends = [min(predicted.min(), target.min()), max(predicted.max(), target.max())]
    for place, (axes, name) in enumerate(zip(panels, report.outputs, strict=True)):
        style_axes(axes, theme)
        axes.plot(ends, ends, color=theme.quiet, linewidth=1, linestyle=(0, (3, 3)))
        axes.scatter(
            target[:, place], predicted[:, place], s=14, color=theme.of_condition(condition), alpha=0.55,
            linewidths=0,
        )  # fmt: skip
        ccc = report.scores[condition][f"ccc_{name}"].value
        axes.set_title(f"{name}, CCC {ccc:.3f}", color=theme.text, fontsize=10)
        axes.set_xlabel("true")
        axes.grid(color=theme.line, linewidth=0.8)
    panels[0].set_ylabel("predicted")
    figure.subplots_adjust(wspace=0.1)
    return figure

"""Plots of an evaluation: what degraded inputs cost, how speakers differ, true against predicted values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from vavl.evaluation.evaluation import Measured
from vavl.evaluation.scores import ConditionScores
from vavl.reports.plots import DASHED, draw_intervals, legend_below, new_figure, style_axes
from vavl.reports.theme import CONDITION_TITLES, LIGHT

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

"""Pictures of a comparison: scores over the labelled fraction and the unpaired share, differences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, NullLocator

from vavl.experiments.comparison_content import ComparisonReport, ScorePoint
from vavl.reports.pictures import Picture, style_axes
from vavl.reports.theme import CONDITION_TITLES, Theme

_MARKERS = "osD^vPX*"
_LOG_SPAN = 4
_PANEL_WIDTH = 3.4
_ROW_HEIGHT = 0.24


def comparison_pictures(report: ComparisonReport) -> Iterator[Picture]:
    """Yield the pictures that the points of a comparison allow."""
    fractions, shares = report.fractions, report.shares
    if len(fractions) > 1:
        for share in shares:
            note = f", {100 * share:g} % of the pairs taken apart" if len(shares) > 1 or share else ""
            points = [point for point in report.scores if point.share == share]
            yield Picture(
                "label_efficiency" + (f"_unpaired_{100 * share:g}" if share else ""),
                f"{report.split} {report.measure} over the labelled share of the training clips{note}; bars: 95 %",
                f"Curves of {report.measure} over the labelled fraction, one per objective set",
                partial(curve_figure, report, points, "fraction"),
            )
    if len(shares) > 1:
        for fraction in fractions:
            points = [point for point in report.scores if point.fraction == fraction]
            yield Picture(
                f"unpaired_labels_{100 * fraction:g}",
                f"{report.split} {report.measure} over the share of pairs taken apart, {100 * fraction:g} % labels",
                f"Curves of {report.measure} over the unpaired share, one per objective set",
                partial(curve_figure, report, points, "share"),
            )
    if report.differences:
        yield Picture(
            "differences",
            f"difference of {report.split} {report.measure}, paired over speakers and seeds; "
            "a filled point's 95 % interval excludes zero",
            "Differences between objective sets as points with intervals around a line at zero",
            partial(differences_figure, report),
        )


def curve_figure(report: ComparisonReport, points: Sequence[ScorePoint], over: str, theme: Theme) -> Figure:
    """Draw scores over ``fraction`` or ``share``: one panel per condition, one line per objective set."""
    figure, panels = _panels(len(report.conditions), theme, height=3.4)
    values = sorted({getattr(point, over) for point in points})
    is_log = over == "fraction" and values[-1] >= _LOG_SPAN * values[0]
    for axes, condition in zip(panels, report.conditions, strict=True):
        for place, name in enumerate(report.sets):
            own = sorted(
                (point for point in points if (point.name, point.condition) == (name, condition)),
                key=lambda point: float(getattr(point, over)),
            )
            if own:
                x = _dodged([getattr(point, over) for point in own], place, len(report.sets), is_log=is_log)
                _line(axes, report, own, x, theme)
        axes.set_title(CONDITION_TITLES[condition], color=theme.text, fontsize=10)
        _share_axis(axes, values, is_log=is_log)
        axes.set_xlabel("labelled training clips (%)" if over == "fraction" else "pairs taken apart (%)")
        axes.grid(color=theme.line, linewidth=0.8)
    panels[0].set_ylabel(f"{report.measure} (%)" if report.is_share else report.measure)
    _legend(figure, panels, theme)
    return figure


def differences_figure(report: ComparisonReport, theme: Theme) -> Figure:
    """Draw every difference as a point with its interval: one panel per condition, one row per place."""
    ordered = sorted(report.differences, key=lambda point: (point.fraction, point.share))
    rows = list(dict.fromkeys(_row_of(report, point) for point in ordered))
    first_rows = {(p.fraction, p.share): rows.index(_row_of(report, p)) for p in reversed(ordered)}
    conditions = [name for name in report.conditions if any(point.condition == name for point in ordered)]
    figure, panels = _panels(len(conditions), theme, height=0.9 + _ROW_HEIGHT * len(rows), share_rows=True)
    scale = 100 if report.is_share else 1
    for axes, condition in zip(panels, conditions, strict=True):
        axes.axvline(0, color=theme.quiet, linewidth=1)
        for row in first_rows.values():
            axes.axhline(row - 0.5, color=theme.line, linewidth=0.8)
        for point in report.differences:
            if point.condition == condition:
                row = rows.index(_row_of(report, point))
                colour, marker = _look(report, point.name, theme)
                axes.plot([scale * point.low, scale * point.high], [row, row], color=colour, linewidth=1.6)
                face = colour if point.excludes_zero else theme.surface
                axes.plot(scale * point.value, row, marker, color=colour, markerfacecolor=face, markersize=5)
        axes.set_title(CONDITION_TITLES[condition], color=theme.text, fontsize=10)
        axes.set_xlabel(f"{'points' if report.is_share else report.measure} more than {report.reference}")
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x", color=theme.line, linewidth=0.8)
    panels[0].set_yticks(range(len(rows)), rows)
    panels[0].set_ylim(len(rows) - 0.5, -0.5)
    return figure


def _row_of(report: ComparisonReport, point: ScorePoint) -> str:
    place = f"{100 * point.fraction:g} %" if len(report.fractions) > 1 else ""
    unpaired = f"unpaired {100 * point.share:g} %" if len(report.shares) > 1 else ""
    name = point.name if point.against == report.reference else f"{point.name} - {point.against}"
    return ", ".join(part for part in (name, place, unpaired) if part)


def _line(
    axes: Any, report: ComparisonReport, own: Sequence[ScorePoint], x: Sequence[float], theme: Theme
) -> None:
    scale = 100 if report.is_share else 1
    value, low, high = (
        scale * np.array([getattr(point, name) for point in own]) for name in ("value", "low", "high")
    )
    colour, marker = _look(report, own[0].name, theme)
    axes.errorbar(
        x, value, yerr=(np.maximum(value - low, 0), np.maximum(high - value, 0)), color=colour, marker=marker,
        markersize=4.5, linewidth=1.5, elinewidth=0.9, capsize=2, label=own[0].name,
    )  # fmt: skip


def _look(report: ComparisonReport, name: str, theme: Theme) -> tuple[str, str]:
    """Colour and marker of an objective set; the reference is quiet."""
    if name == report.reference:
        return theme.quiet, "o"
    place = [other for other in report.sets if other != report.reference].index(name)
    return theme.series[place % len(theme.series)], _MARKERS[(place + 1) % len(_MARKERS)]


def _dodged(values: Sequence[float], place: int, sets: int, *, is_log: bool) -> list[float]:
    """Move the points of each set a little to the side, so that intervals do not cover each other."""
    steps = place - (sets - 1) / 2
    return [100 * value * 1.045**steps if is_log else 100 * value + 0.8 * steps for value in values]


def _share_axis(axes: Any, values: Sequence[float], *, is_log: bool) -> None:
    if is_log:
        axes.set_xscale("log")
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xticks([100 * value for value in values], [f"{100 * value:g}" for value in values])


def _panels(count: int, theme: Theme, height: float, *, share_rows: bool = False) -> tuple[Figure, list[Any]]:
    figure = Figure(figsize=(_PANEL_WIDTH * count, height), facecolor=theme.surface)
    panels = list(figure.subplots(1, count, sharey=share_rows, squeeze=False)[0])
    for axes in panels:
        style_axes(axes, theme)
    figure.subplots_adjust(wspace=0.08 if share_rows else 0.22)
    return figure, panels


def _legend(figure: Figure, panels: Sequence[Any], theme: Theme) -> None:
    """Name every set once, also one that the first panel lacks."""
    lines = {
        label: handle
        for axes in panels
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(
        lines.values(), lines.keys(), loc="upper center", bbox_to_anchor=(0.5, -0.02), ncols=min(4, len(lines)),
        frameon=False, labelcolor=theme.text, fontsize=9,
    )  # fmt: skip

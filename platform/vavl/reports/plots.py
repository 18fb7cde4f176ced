"""Plots of results: confusion matrices, learning curves, reliability of probabilities.

A function here returns a matplotlib figure and touches no global state.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap, to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray

from vavl.config.files import written_beside
from vavl.metrics.paired import Interval
from vavl.reports.theme import CONDITION_TITLES, LIGHT, Theme

PLOTS_DIRECTORY = "plots"
_COUNTS_FIT = 6
LEGEND: dict[str, Any] = {"loc": "upper center", "frameon": False, "labelcolor": LIGHT.text, "fontsize": 9}
DASHED = (0, (3, 3))
_LUMINANCE = np.array([0.2126, 0.7152, 0.0722])
_DPI = 160


@dataclass(frozen=True)
class Plot:
    """A figure of a report."""

    name: str  # file name without suffix
    caption: str  # one line for the reader
    description: str  # what it shows, for those who cannot see it
    figure: Figure  # of matplotlib

    @property
    def address(self) -> str:
        """The figure as SVG in a ``data:`` address, for an image of an HTML page."""
        return "data:image/svg+xml;base64," + base64.b64encode(svg_of(self.figure).encode()).decode()


@dataclass(frozen=True)
class Curve:
    """One line of a plot over epochs; values that are missing (NaN) interrupt it."""

    label: str
    epochs: Sequence[float]
    values: Sequence[float]
    condition: str = ""


@dataclass(frozen=True)
class ReliabilityBins:
    """Stated confidence against the share that was right."""

    confidence: NDArray[np.float64]  # (bins,), mean stated probability of the predicted class; NaN in an empty bin
    accuracy: NDArray[np.float64]  # (bins,), share of right predictions; NaN in an empty bin
    clips: NDArray[np.int64]  # (bins,), clips in the bin


def reliability_bins(probabilities: NDArray[np.float64], truth: NDArray[np.int64], bins: int = 10) -> ReliabilityBins:
    """Sort predictions into equal bins of confidence.

    ``probabilities`` are (clips, classes), ``truth`` (clips,) class indices.
    """
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == truth
    bin_of = np.minimum((confidence * bins).astype(int), bins - 1)
    clips = np.bincount(bin_of, minlength=bins)
    with np.errstate(invalid="ignore"):
        means = [np.bincount(bin_of, weights=values, minlength=bins) / clips for values in (confidence, right)]
    return ReliabilityBins(means[0], means[1], clips)


def confusion_figure(counts: NDArray[np.int64], classes: Sequence[str]) -> Figure:
    """Draw counts (true class, predicted class) as percent of each true class.

    The color follows the percentage; up to six classes the count of clips stands below it.
    """
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure, axes = new_figure((4.6, 4.6))
    colors = LinearSegmentedColormap.from_list("share", LIGHT.ramp)
    centered: dict[str, Any] = {"ha": "center", "va": "center"}
    axes.imshow(share, cmap=colors, vmin=0, vmax=1)
    with_count = len(classes) <= _COUNTS_FIT
    above, size = (0.1, 12) if with_count else (0, 10)
    for (row, column), value in np.ndenumerate(share):
        ink, weight = ink_on(to_rgb(colors(value))), "bold" if row == column else "normal"
        axes.text(column, row - above, f"{100 * value:.0f}", color=ink, fontsize=size, fontweight=weight, **centered)
        if with_count:
            axes.text(column, row + 0.24, str(counts[row, column]), color=ink, fontsize=7.5, **centered)
    places = np.arange(len(classes))
    axes.set_xticks(places, classes, rotation=40, ha="right", rotation_mode="anchor")
    axes.set_yticks(places, classes)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    # White gaps between the cells.
    axes.set_xticks(places[:-1] + 0.5, minor=True)
    axes.set_yticks(places[:-1] + 0.5, minor=True)
    axes.grid(which="minor", color=LIGHT.surface, linewidth=2)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)
    return figure


def curves_figure(
    curves: Sequence[Curve], label: str, *, best_epoch: int | None = None, percent: bool = False
) -> Figure:
    """Draw curves over epochs, named at their right end; ``best_epoch`` gets a line."""
    figure, axes = new_figure((5.6, 3.5))
    scale = 100 if percent else 1
    if best_epoch is not None:
        axes.axvline(best_epoch, color=LIGHT.quiet, linewidth=1, linestyle=DASHED)
        place: dict[str, Any] = {"xycoords": ("data", "axes fraction"), "xytext": (0, 4), "textcoords": "offset points"}
        title = f"best epoch {best_epoch}"
        axes.annotate(title, (best_epoch, 1), **place, ha="center", color=LIGHT.quiet, fontsize=8)
    for curve in curves:
        color = LIGHT.of_condition(curve.condition)
        style = "-" if curve.condition else (0, (5, 2))
        values = scale * np.asarray(curve.values, dtype=float)
        marker = "o" if len(values) <= 30 else None
        axes.plot(curve.epochs, values, color=color, linestyle=style, marker=marker, markersize=3, label=curve.label)
    axes.set_xlabel("epoch")
    axes.set_ylabel(f"{label} (%)" if percent else label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(color=LIGHT.line, linewidth=0.8)
    legend_below(axes, columns=4 if len(curves) < 4 else 2)
    return figure


def reliability_figure(bins: Mapping[str, ReliabilityBins]) -> Figure:
    """Draw stated confidence against the share that was right, one line per condition.

    A point's area grows with its number of clips; points below the diagonal are overconfident.
    """
    figure, axes = new_figure((4.6, 4.6))
    axes.plot([0, 100], [0, 100], color=LIGHT.quiet, linewidth=1, linestyle=DASHED, label="exact")
    for condition, found in bins.items():
        filled = found.clips > 0
        x, y = 100 * found.confidence[filled], 100 * found.accuracy[filled]
        color = LIGHT.of_condition(condition)
        axes.plot(x, y, color=color, linewidth=1.5, label=CONDITION_TITLES.get(condition, condition))
        area = 150 * found.clips[filled] / max(1, found.clips.max())
        # A point at 100 % keeps its whole disc.
        axes.scatter(x, y, s=area, color=color, alpha=0.65, linewidths=0, clip_on=False)
    axes.set(xlim=(0, 100), ylim=(0, 100), xlabel="stated confidence (%)", ylabel="right (%)", aspect="equal")
    axes.grid(color=LIGHT.line, linewidth=0.8)
    legend_below(axes, columns=2)
    return figure


def svg_of(figure: Figure) -> str:
    """Return a figure as SVG text; equal figures give equal text."""
    text = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": "vavl", "svg.fonttype": "path"}):
        figure.savefig(text, format="svg", bbox_inches="tight", metadata={"Date": None})
    return text.getvalue()


def write_png(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, whole or not at all."""
    with written_beside(path) as partial:
        FigureCanvasAgg(figure)
        figure.savefig(partial, format="png", dpi=_DPI, bbox_inches="tight")


def write_plots(plots: Iterable[Plot], directory: Path) -> list[Path]:
    """Write every plot as PNG below ``directory / PLOTS_DIRECTORY`` and return the files."""
    files = []
    for plot in plots:
        files.append(directory / PLOTS_DIRECTORY / f"{plot.name}.png")
        write_png(plot.figure, files[-1])
    return files


def new_figure(size: tuple[float, float], **options: Any) -> tuple[Figure, Any]:
    """Return a figure of ``size`` (width, height in inches) with one pair of axes, styled."""
    figure = Figure(figsize=size, facecolor=LIGHT.surface, **options)
    axes = figure.add_subplot()
    style_axes(axes)
    return figure, axes


def style_axes(axes: Any, theme: Theme = LIGHT) -> None:
    """Give axes the colors of a theme and no frame."""
    axes.set_facecolor(theme.surface)
    axes.tick_params(colors=theme.quiet, labelsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(theme.line)
    for axis in (axes.xaxis, axes.yaxis):
        axis.label.set(color=theme.text, fontsize=10)
    axes.set_axisbelow(True)


def legend_below(axes: Any, columns: int, gap: float = 0.15) -> None:
    """Put the names of the lines below the axes, ``gap`` of their height away, where they cover nothing."""
    axes.legend(bbox_to_anchor=(0.5, -gap), ncols=columns, **LEGEND)


def draw_intervals(
    axes: Any, x: ArrayLike, intervals: Sequence[Interval], scale: int, style: Mapping[str, Any]
) -> None:
    """Draw a line through values with their intervals as bars; ``style`` has at least its label, color and marker."""
    y, low, high = (scale * np.array([getattr(one, name) for one in intervals]) for name in ("value", "low", "high"))
    errors = np.maximum(np.nan_to_num(np.stack([y - low, high - y])), 0)
    axes.errorbar(x, y, yerr=errors, markersize=5, linewidth=1.6, elinewidth=0.9, capsize=2, **style)


def ink_on(background: Sequence[float]) -> str:
    """Return black or white, whichever stands out more on the color (WCAG relative luminance)."""
    color = np.asarray(background)
    linear = np.where(color <= 0.04045, color / 12.92, ((color + 0.055) / 1.055) ** 2.4)
    return "#10161d" if float(linear @ _LUMINANCE) > 0.18 else "#ffffff"

"""Names of plots as promotion and experiments still use them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from vavl.reports.plots import ink_on, style_axes, svg_of, write_png
from vavl.reports.theme import LIGHT, Theme

__all__ = ["Picture", "ink_on", "legend_below", "style_axes", "svg_of", "themed_figure", "write_pictures"]


@dataclass(frozen=True)
class Picture:
    """A drawing that can be made in the colors of any theme."""

    name: str
    caption: str
    description: str
    draw: Callable[[Theme], Figure]


def write_pictures(pictures: Sequence[Picture], folder: Path, theme: Theme = LIGHT) -> list[Path]:
    """Write every picture as ``<folder>/<name>.png`` and return the files."""
    files = [folder / f"{picture.name}.png" for picture in pictures]
    for picture, file in zip(pictures, files, strict=True):
        write_png(picture.draw(theme), file)
    return files


def themed_figure(theme: Theme, size: tuple[float, float]) -> tuple[Figure, Any]:
    """Return a figure of ``size`` (inches) with one pair of axes, both in the colors of a theme."""
    figure = Figure(figsize=size, facecolor=theme.surface)
    axes = figure.add_subplot()
    style_axes(axes, theme)
    return figure, axes


def legend_below(axes: Any, theme: Theme, columns: int) -> None:
    """Put the names of the lines below the picture, where they cover nothing."""
    style = {"frameon": False, "labelcolor": theme.text, "fontsize": 9}
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.15), ncols=columns, **style)

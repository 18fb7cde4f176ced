"""Draw the course of a prediction: faces, sound, probabilities over time and what wins under each condition."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Any

import numpy as np
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from vavl.prediction.timeline import ClipMedia, Course
from vavl.reports.plots import ink_on, style_axes
from vavl.reports.theme import CONDITION_TITLES, Theme

_WIDTH_IN = 11.0
_LEFT_IN, _RIGHT_IN = 1.25, 2.55
_THUMBNAIL_IN, _WAVE_IN, _COURSE_IN, _RIBBON_IN, _HEAD_IN, _FOOT_IN = 0.78, 0.62, 2.5, 0.27, 0.86, 0.62
_GAP_IN = 0.14
_BESIDE_IN = 0.3
_WAVE_COLUMNS = 900
_LONGEST_TITLE = 70
_LEAST_WORD_SHARE = 0.0085
"""Width of a letter in a ribbon, as a share of its length."""


@dataclass(frozen=True)
class TimelineText:
    """Words of a picture."""

    title: str  # name of the clip.
    model: str  # name and version, or directory.
    windows: str  # what one point of the course sees.


def timeline_figure(course: Course, media: ClipMedia, text: TimelineText, theme: Theme) -> Figure:
    """Draw a course; rows that the clip has nothing for are left out.

    From top to bottom: title and verdict, faces framed in the color of the class that wins at that moment, the
    waveform in the same colors, probabilities (stacked) or attributes (lines) under the condition that sees most,
    and a ribbon of winning classes per condition, paler where the model is less sure. On the right: the prediction
    of the whole clip.
    """
    rows = _rows(course, media)
    height = _HEAD_IN + _FOOT_IN + sum(inches for _, inches in rows) + _GAP_IN * (len(rows) - 1)
    figure = Figure(figsize=(_WIDTH_IN, height), facecolor=theme.surface)
    colours = class_colours(len(course.names), theme)
    drawn: dict[str, Any] = {}
    top = height - _HEAD_IN
    for name, inches in rows:
        top -= inches
        drawn[name] = _axes(figure, theme, (_LEFT_IN, top, _WIDTH_IN - _LEFT_IN - _RIGHT_IN, inches), height)
        drawn[name].set_xlim(0, course.seconds)
        top -= _GAP_IN
    if "faces" in drawn:
        _draw_faces(drawn["faces"], course, media, colours)
    if "sound" in drawn:
        _draw_sound(drawn["sound"], course, media, colours, theme)
    _draw_course(drawn["course"], course, colours, theme)
    ribbons = [drawn[condition] for condition in course.values if condition in drawn]
    for condition, ribbon in zip(course.values, ribbons, strict=False):
        _draw_ribbon(ribbon, course, condition, colours, theme)
    if ribbons:
        _explain_ribbons(figure, ribbons[0], theme)
    _draw_time(drawn[rows[-1][0]], theme)
    _draw_whole(figure, drawn["course"], course, colours, theme)
    _write_head(figure, course, text, theme, height)
    return figure


def class_colours(count: int, theme: Theme) -> list[str]:
    """Return a color for each class; beyond those of the theme, paler ones."""
    pale = [to_hex(0.5 * np.array(to_rgb(colour)) + 0.5 * np.array(to_rgb(theme.surface))) for colour in theme.series]
    known = [*theme.series, *pale]
    return [known[place % len(known)] for place in range(count)]


def _rows(course: Course, media: ClipMedia) -> list[tuple[str, float]]:
    rows = [("faces", _THUMBNAIL_IN)] if media.thumbnails else []
    rows += [("sound", _WAVE_IN)] if media.waveform is not None else []
    rows.append(("course", _COURSE_IN))
    if course.are_classes:
        rows += [(condition, _RIBBON_IN) for condition in course.values]
    return rows


def _axes(figure: Figure, theme: Theme, place_in: tuple[float, float, float, float], height: float) -> Any:
    left, bottom, width, tall = place_in
    axes = figure.add_axes((left / _WIDTH_IN, bottom / height, width / _WIDTH_IN, tall / height))
    style_axes(axes, theme)
    axes.spines[:].set_visible(False)
    axes.set(xticks=[], yticks=[])
    return axes


def _winners(course: Course, condition: str) -> NDArray[np.int64]:
    """Return the winning class of each window, -1 where there is no prediction, (window,)."""
    values = course.values[condition]
    known = np.isfinite(values).all(axis=1)
    return np.where(known, np.argmax(np.nan_to_num(values, nan=-np.inf), axis=1), -1)


def _at(course: Course, times: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the window of each time."""
    step = course.seconds / max(len(course.times_s) - 1, 1)
    places: NDArray[np.int64] = np.clip(np.rint(times / step), 0, len(course.times_s) - 1).astype(np.int64)
    return places


def _colours_at(course: Course, times: Sequence[float], colours: Sequence[str], otherwise: str) -> list[str]:
    if not course.are_classes:
        return [otherwise] * len(times)
    winners = _winners(course, course.main)[_at(course, np.asarray(times))]
    return [colours[winner] if winner >= 0 else otherwise for winner in winners]


def _draw_faces(axes: Any, course: Course, media: ClipMedia, colours: Sequence[str]) -> None:
    """Put faces at their times, as many as fit, rounded and framed."""
    wide = axes.get_position().width * _WIDTH_IN
    fits = max(1, int(wide / (_THUMBNAIL_IN + 0.03)))
    # The middles of equal parts of the clip, so that gaps are equal too.
    count = min(fits, len(media.thumbnails))
    moments = [(place + 0.5) * course.seconds / count for place in range(count)]
    chosen = [(moment, min(media.thumbnails, key=lambda known: abs(known[0] - moment))[1]) for moment in moments]
    # Axes of square inches, so that what is round stays round.
    axes.set(xlim=(0, wide), ylim=(0, _THUMBNAIL_IN))
    frames = _colours_at(course, [time for time, _ in chosen], colours, "#8a97a5")
    for (time, picture), colour in zip(chosen, frames, strict=True):
        left = float(np.clip(time / course.seconds * wide - _THUMBNAIL_IN / 2, 0, wide - _THUMBNAIL_IN))
        inset = 0.035
        shape = FancyBboxPatch(
            (left + inset, inset), _THUMBNAIL_IN - 2 * inset, _THUMBNAIL_IN - 2 * inset,
            boxstyle="round,pad=0,rounding_size=0.09", facecolor="none", edgecolor=colour, linewidth=2.2, zorder=3,
        )  # fmt: skip
        axes.add_patch(shape)
        image = axes.imshow(
            picture, extent=(left + inset, left + _THUMBNAIL_IN - inset, inset, _THUMBNAIL_IN - inset),
            interpolation="lanczos", aspect="auto", zorder=2,
        )  # fmt: skip
        image.set_clip_path(shape)
    axes.set(xlim=(0, wide), ylim=(0, _THUMBNAIL_IN))


def _draw_sound(axes: Any, course: Course, media: ClipMedia, colours: Sequence[str], theme: Theme) -> None:
    assert media.waveform is not None
    waveform = media.waveform[: max(1, round(course.seconds * media.rate_hz))]
    edges = np.linspace(0, len(waveform), min(_WAVE_COLUMNS, len(waveform)) + 1).astype(int)
    loud = np.array([np.abs(waveform[start:end]).max() for start, end in pairwise(edges)])
    loud = loud / max(float(loud.max()), 1e-6)
    times = (edges[:-1] + edges[1:]) / 2 / media.rate_hz
    bars = _colours_at(course, times.tolist(), colours, theme.quiet)
    axes.vlines(times, -loud, loud, colors=bars, linewidth=0.85, alpha=0.9)
    axes.axhline(0, color=theme.line, linewidth=0.8, zorder=0)
    axes.set(ylim=(-1.05, 1.05))
    _name_row(axes, "sound", theme.quiet)


def _draw_course(axes: Any, course: Course, colours: Sequence[str], theme: Theme) -> None:
    values = course.values[course.main]
    times = course.times_s
    if course.are_classes:
        stack = np.nan_to_num(values).T[::-1]
        axes.stackplot(
            times, 100 * stack, colors=list(colours)[::-1], edgecolor=theme.surface, linewidth=0.8, alpha=0.93
        )  # fmt: skip
        axes.set(ylim=(0, 100), yticks=[0, 25, 50, 75, 100])
        axes.set_yticklabels(["0", "25", "50", "75", "100 %"])
        axes.grid(axis="y", color=theme.surface, linewidth=0.7, alpha=0.55)
        axes.set_axisbelow(False)
    else:
        for column, name in enumerate(course.names):
            axes.plot(times, values[:, column], color=colours[column], linewidth=2.2, label=name)
        low, high = min(0.0, float(np.nanmin(values))), max(1.0, float(np.nanmax(values)))
        axes.set(ylim=(low, high))
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.grid(axis="y", color=theme.line, linewidth=0.8)
    axes.tick_params(axis="y", length=0, labelsize=8.5)


def _draw_ribbon(axes: Any, course: Course, condition: str, colours: Sequence[str], theme: Theme) -> None:
    """Draw the winning class along the time, paler where its probability is low, with names where they fit."""
    winners, values = _winners(course, condition), course.values[condition]
    count = len(course.names)
    sure = np.clip((np.nan_to_num(values).max(axis=1) - 1 / count) / (1 - 1 / count), 0, 1)
    ground, line = np.array(to_rgb(theme.surface)), np.array(to_rgb(theme.line))
    strip = np.stack(
        [
            line if winner < 0 else ground + (0.25 + 0.75 * share) * (np.array(to_rgb(colours[winner])) - ground)
            for winner, share in zip(winners, sure, strict=True)
        ]
    )
    half = course.seconds / max(len(winners) - 1, 1) / 2
    axes.imshow(strip[None], extent=(-half, course.seconds + half, 0, 1), aspect="auto", interpolation="nearest")
    axes.set(xlim=(0, course.seconds), ylim=(0, 1))
    for winner, run in groupby(range(len(winners)), key=lambda place: int(winners[place])):
        places = list(run)
        name = course.names[winner] if winner >= 0 else ""
        if name and len(places) / len(winners) > _LEAST_WORD_SHARE * (len(name) + 2):
            middle = places[len(places) // 2]
            axes.text(
                float(course.times_s[[places[0], places[-1]]].mean()), 0.47, name, ha="center", va="center",
                fontsize=8.5, color=ink_on(strip[middle]), clip_on=True, parse_math=False,
            )  # fmt: skip
    _name_row(axes, CONDITION_TITLES[condition], theme.text)


def _explain_ribbons(figure: Figure, first: Any, theme: Theme) -> None:
    box = first.get_position()
    words = "the winner at each moment,\npaler where it is less sure"
    left = box.x1 + _BESIDE_IN / _WIDTH_IN
    figure.text(left, box.y1, words, fontsize=8.5, color=theme.quiet, va="top", linespacing=1.35)


def _draw_time(axes: Any, theme: Theme) -> None:
    axes.xaxis.set_major_locator(MaxNLocator(10, steps=[1, 2, 2.5, 5, 10]))
    axes.tick_params(axis="x", length=3, color=theme.line, labelsize=8.5)
    axes.set_xlabel("seconds", fontsize=9, color=theme.quiet)


def _draw_whole(figure: Figure, beside: Any, course: Course, colours: Sequence[str], theme: Theme) -> None:
    """Draw the prediction of the whole clip as bars, next to the course and in its order."""
    box = beside.get_position()
    left = box.x1 + _BESIDE_IN / _WIDTH_IN
    axes = figure.add_axes((left, box.y0, 1 - left - 0.2 / _WIDTH_IN, box.height))
    axes.set_axis_off()
    found = course.whole[course.main]
    values = np.array(found.probabilities or tuple(found.attributes.values()))
    shown = values if course.are_classes else (values - min(0.0, values.min())) / max(1.0, float(np.ptp(values)))
    places = np.arange(len(values))[::-1]
    best = int(values.argmax()) if course.are_classes else -1
    for place, value, share, name, colour in zip(places, values, shown, course.names, colours, strict=True):
        is_best = colour == colours[best] and course.are_classes
        weight = "bold" if is_best else "normal"
        axes.barh(place - 0.17, 1, height=0.2, color=theme.line, alpha=0.55, linewidth=0)
        axes.barh(place - 0.17, share, height=0.2, color=colour, linewidth=0)
        axes.text(
            0, place + 0.06, name, fontsize=9, color=theme.text, fontweight=weight, va="bottom", parse_math=False
        )  # fmt: skip
        words = f"{100 * value:.0f} %" if course.are_classes else f"{value:.2f}"
        axes.text(1, place + 0.06, words, fontsize=9, color=theme.text, fontweight=weight, ha="right", va="bottom")
    axes.set(xlim=(0, 1), ylim=(-0.4, len(values) - 0.4))
    title = f"whole clip, {CONDITION_TITLES[course.main]}"
    axes.text(0, 1.015, title, transform=axes.transAxes, fontsize=8.5, color=theme.quiet, va="bottom")


def _write_head(figure: Figure, course: Course, text: TimelineText, theme: Theme, height: float) -> None:
    left = _LEFT_IN / _WIDTH_IN
    verdict = _verdict(course)
    figure.text(
        left,
        1 - 0.3 / height,
        _short(text.title),
        fontsize=15,
        fontweight="bold",
        color=theme.text,
        va="center",
        parse_math=False,
    )
    notes = "   ·   ".join(note for note in (verdict, text.model, text.windows, course.note) if note)
    figure.text(
        left, 1 - 0.58 / height, notes, fontsize=9, color=theme.quiet, va="center", parse_math=False
    )  # fmt: skip


def _short(title: str) -> str:
    """Return a title that fits; of a long path the end says most."""
    return title if len(title) <= _LONGEST_TITLE else f"… {title[-_LONGEST_TITLE:]}"


def _verdict(course: Course) -> str:
    found = course.whole[course.main]
    title = CONDITION_TITLES[course.main]
    return f"{found.label} {100 * max(found.probabilities):.0f} % by {title}" if course.are_classes else f"by {title}"


def _name_row(axes: Any, name: str, colour: str) -> None:
    axes.text(
        -0.013, 0.5, name, transform=axes.transAxes, ha="right", va="center", fontsize=8.5, color=colour
    )  # fmt: skip

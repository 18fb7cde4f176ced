"""Timelines: plots of the course of a prediction for some clips, each a file.

Faces, sound, probabilities over time and what wins under each condition.
"""

from __future__ import annotations

import hashlib
import logging
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from vavl.errors import ConfigError, VavlError
from vavl.models.saved_model import load_model
from vavl.prediction.plan import PredictionPlan
from vavl.prediction.settings import PredictionSettings
from vavl.prediction.sources import ClipInput, MediaClips, MediaSource, Side
from vavl.prediction.timeline import ClipMedia, Course, clip_course, clip_media
from vavl.reports.plots import ink_on, style_axes, write_png
from vavl.reports.theme import CONDITION_TITLES, THEMES, Theme

logger = logging.getLogger(__name__)

_LONGEST_NAME = 80
_WIDTH_IN = 11.0
_LEFT_IN, _RIGHT_IN = 1.25, 2.55
_THUMBNAIL_IN, _WAVE_IN, _COURSE_IN, _RIBBON_IN, _HEAD_IN, _FOOT_IN = 0.78, 0.62, 2.5, 0.27, 0.86, 0.62
_GAP_IN = 0.14
_BESIDE_IN = 0.3
_WAVE_COLUMNS = 900
_LONGEST_TITLE = 70
_LEAST_WORD_SHARE = 0.0085
"""Width of a letter in a ribbon, as a share of its length."""


def check_timeline(plan: PredictionPlan, settings: PredictionSettings) -> None:
    """Refuse timelines of what has no media, and of pieces.

    Raises:
        ConfigError: the input is a store, or a table of pieces.
    """
    if settings.timeline and any(clip.piece is not None for clip in plan.found.clips):
        problem = "shows whole files, and the table names pieces"
        raise ConfigError("prediction", "timeline", problem, "set timeline=false")
    if settings.timeline and not isinstance(plan.source, MediaSource):
        fix = "name the media themselves as input, or set timeline=false"
        raise ConfigError("prediction", "timeline", "a store holds no audio and no video to draw", fix)


def write_timelines(plan: PredictionPlan, settings: PredictionSettings, model_title: str) -> list[Path]:
    """Draw the course of the prediction within the first clips; one that cannot be drawn is told in the log.

    Returns:
        The plots: ``timeline.png`` for a single file, else ``timelines/<clip>.png``.
    """
    if not settings.timeline or not isinstance(plan.source, MediaSource):
        return []
    clips = [clip for clip in plan.found.clips if clip.problem is None]
    windows, drawn = settings.windows, []
    if len(clips) > windows.most_clips:
        logger.warning("of %d clips the first %d get a timeline (windows.most_clips)", len(clips), windows.most_clips)
    model, reader = load_model(plan.model_directory), plan.source.reader(plan.model)
    theme = next(theme for theme in THEMES if theme.name == windows.theme)
    seen = f"{windows.window_s:g} s at a time, every {windows.hop_s:g} s"
    for clip in clips[: windows.most_clips]:
        try:
            files, sides = _read_sides(reader, clip)
            course = clip_course(model, sides, windows, settings.clips_per_batch)
            media = clip_media(files, plan.model.video.extractor, windows.thumbnails)
        except ConfigError:
            raise
        except VavlError as error:
            logger.warning("%s has no timeline: %s", clip.clip_id, error)
            continue
        name = "timeline" if plan.found.kind == "file" else f"timelines/{_file_name(clip.clip_id)}"
        drawn.append(settings.directory / f"{name}.png")
        with warnings.catch_warnings():
            # A name in letters that the font lacks is drawn as boxes.
            warnings.filterwarnings("ignore", message="Glyph .* missing from font")
            text = TimelineText(clip.clip_id, model_title, seen)
            write_png(timeline_figure(course, media, text, theme), drawn[-1])
    return drawn


def _file_name(clip_id: str) -> str:
    """Return a name of one file; two clips never share it."""
    plain = re.sub(r"[^\w.-]+", "_", clip_id)[:_LONGEST_NAME]
    return plain if plain == clip_id else f"{plain}-{hashlib.sha256(clip_id.encode()).hexdigest()[:8]}"


def _read_sides(reader: MediaClips, clip: ClipInput) -> tuple[dict[str, Path], dict[str, Side]]:
    """Read the modalities of a clip; a bad one is left out as long as there is another."""
    files, sides = {}, {}
    named = reader.sides(clip)
    for modality, file in named.items():
        try:
            sides[modality] = reader.read(clip, modality, file)[0]
            files[modality] = reader.source.root / file
        except ConfigError:
            raise
        except VavlError as error:
            if len(named) == 1:
                raise
            logger.warning("the timeline of %s leaves out its %s: %s", clip.clip_id, modality, error.problem)
    return files, sides


@dataclass(frozen=True)
class TimelineText:
    """Words of a plot."""

    title: str  # name of the clip
    model: str  # name and version, or directory
    windows: str  # what one point of the course sees


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


def _colours_at(course: Course, times: Sequence[float], colours: Sequence[str], otherwise: str) -> list[str]:
    if not course.are_classes:
        return [otherwise] * len(times)
    last = len(course.times_s) - 1
    windows = np.clip(np.rint(np.asarray(times) * max(last, 1) / course.seconds), 0, last).astype(np.int64)
    return [colours[place] if place >= 0 else otherwise for place in _winners(course, course.main)[windows]]


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
    inset, size = 0.035, _THUMBNAIL_IN - 0.07
    frame: dict[str, Any] = {"boxstyle": "round,pad=0,rounding_size=0.09", "facecolor": "none", "linewidth": 2.2}
    for (time, picture), colour in zip(chosen, frames, strict=True):
        left = float(np.clip(time / course.seconds * wide - _THUMBNAIL_IN / 2, 0, wide - _THUMBNAIL_IN)) + inset
        shape = FancyBboxPatch((left, inset), size, size, edgecolor=colour, zorder=3, **frame)
        axes.add_patch(shape)
        extent = (left, left + size, inset, inset + size)
        image = axes.imshow(picture, extent=extent, interpolation="lanczos", aspect="auto", zorder=2)
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
        style = {"edgecolor": theme.surface, "linewidth": 0.8, "alpha": 0.93}
        axes.stackplot(times, 100 * np.nan_to_num(values).T[::-1], colors=list(colours)[::-1], **style)
        axes.set(ylim=(0, 100))
        axes.set_yticks([0, 25, 50, 75, 100], ["0", "25", "50", "75", "100 %"])
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
            x, ink = float(course.times_s[[places[0], places[-1]]].mean()), ink_on(strip[places[len(places) // 2]])
            style = {"ha": "center", "va": "center", "fontsize": 8.5, "clip_on": True, "parse_math": False}
            axes.text(x, 0.47, name, color=ink, **style)
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
        words = f"{100 * value:.0f} %" if course.are_classes else f"{value:.2f}"
        for x, text, side in ((0, name, "left"), (1, words, "right")):
            style: dict[str, Any] = {"fontsize": 9, "color": theme.text, "fontweight": weight, "va": "bottom"}
            axes.text(x, place + 0.06, text, ha=side, parse_math=False, **style)
    axes.set(xlim=(0, 1), ylim=(-0.4, len(values) - 0.4))
    title = f"whole clip, {CONDITION_TITLES[course.main]}"
    axes.text(0, 1.015, title, transform=axes.transAxes, fontsize=8.5, color=theme.quiet, va="bottom")


def _write_head(figure: Figure, course: Course, text: TimelineText, theme: Theme, height: float) -> None:
    left, found, verdict = _LEFT_IN / _WIDTH_IN, course.whole[course.main], f"by {CONDITION_TITLES[course.main]}"
    if course.are_classes:
        verdict = f"{found.label} {100 * max(found.probabilities):.0f} % {verdict}"
    # Of a long path the end says most.
    title = text.title if len(text.title) <= _LONGEST_TITLE else f"… {text.title[-_LONGEST_TITLE:]}"
    notes = "   ·   ".join(filter(None, (verdict, text.model, text.windows, course.note)))
    plain: dict[str, Any] = {"va": "center", "parse_math": False}
    figure.text(left, 1 - 0.3 / height, title, fontsize=15, fontweight="bold", color=theme.text, **plain)
    figure.text(left, 1 - 0.58 / height, notes, fontsize=9, color=theme.quiet, **plain)


def _name_row(axes: Any, name: str, colour: str) -> None:
    axes.text(-0.013, 0.5, name, transform=axes.transAxes, ha="right", va="center", fontsize=8.5, color=colour)

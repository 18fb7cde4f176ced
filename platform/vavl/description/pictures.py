"""Pictures of a folder: lengths, a picture of some clips, the wave of some sounds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from vavl.errors import ClipError
from vavl.media.media import read_frames
from vavl.media.media_probe import Probed
from vavl.media.sound import read_audio
from vavl.reports.pictures import Picture, style_axes
from vavl.reports.theme import Theme

_COLUMNS = 6
_LONGEST_SIDE_PX = 200
_PICTURES_PER_S = 4.0
_LOOKED_AT = 4
_LONGEST_SOUND_S = 30.0
_SOUND_RATE_HZ = 8000
_WAVE_POINTS = 300


@dataclass(frozen=True)
class Seen:
    """One clip of a contact sheet: a picture (row, column, RGB), or the wave of its sound, or a problem."""

    name: str
    picture: NDArray[np.uint8] | None = None
    wave: NDArray[np.float32] | None = None
    problem: str = ""


def look(root: Path, name: str, *, is_video: bool) -> Seen:
    """Decode the beginning of one clip for the contact sheet."""
    try:
        return Seen(name, picture=_picture(root / name)) if is_video else Seen(name, wave=_wave(root / name))
    except ClipError as fault:
        return Seen(name, problem=fault.problem)


def durations_picture(probed: Sequence[Probed]) -> Picture:
    """Return a histogram of the lengths of the files that were opened."""
    seconds = [head.seconds for head in probed if head.seconds is not None]
    caption = f"Lengths of {len(seconds)} files in seconds"
    draw = partial(_draw_durations, seconds)
    return Picture("durations", caption, f"Histogram of {len(seconds)} lengths in seconds.", draw)


def contact_sheet(seen: Sequence[Seen]) -> Picture:
    """Return clips side by side, each with its name."""
    names = ", ".join(clip.name for clip in seen)
    draw = partial(_draw_sheet, tuple(seen))
    return Picture("contact_sheet", "Clips from all over the folder", f"The beginning of {names}.", draw)


def _picture(path: Path) -> NDArray[np.uint8] | None:
    """Return one of the first pictures, made small: the very first is often black."""
    found = None
    frames = read_frames(path, _PICTURES_PER_S)
    for _, (_, picture) in zip(range(_LOOKED_AT), frames, strict=False):
        found = picture
    if found is None:
        return None
    step = max(1, -(-max(found.shape[:2]) // _LONGEST_SIDE_PX))
    return found[::step, ::step]


def _wave(path: Path) -> NDArray[np.float32]:
    samples = np.abs(read_audio(path, _SOUND_RATE_HZ, _LONGEST_SOUND_S))
    runs = np.array_split(samples, min(_WAVE_POINTS, len(samples)))
    return np.array([run.max() for run in runs], np.float32)


def _draw_durations(seconds: Sequence[float], theme: Theme) -> Figure:
    figure = Figure(figsize=(6.4, 3.0), facecolor=theme.surface, layout="constrained")
    axes = figure.subplots()
    axes.hist(seconds, bins=min(40, max(5, len(seconds) // 4)), color=theme.audio_video)
    axes.set_xlabel("seconds")
    axes.set_ylabel("files")
    style_axes(axes, theme)
    return figure


def _draw_sheet(seen: Sequence[Seen], theme: Theme) -> Figure:
    rows = -(-len(seen) // _COLUMNS)
    figure = Figure(figsize=(2.0 * _COLUMNS, 1.9 * rows), facecolor=theme.surface, layout="constrained")
    for axes, clip in zip(figure.subplots(rows, _COLUMNS, squeeze=False).flat, seen, strict=False):
        axes.set_axis_off()
        title = clip.name.rpartition("/")[2]
        axes.set_title(
            title if len(title) < 28 else f"...{title[-25:]}", fontsize=7, color=theme.text, parse_math=False
        )
        if clip.picture is not None:
            axes.imshow(clip.picture)
        elif clip.wave is not None:
            axes.fill_between(range(len(clip.wave)), clip.wave, -clip.wave, color=theme.audio)
            axes.set_ylim(-1, 1)
        else:
            axes.text(
                0.5,
                0.5,
                clip.problem[:60],
                ha="center",
                wrap=True,
                fontsize=7,
                color=theme.text,
                parse_math=False,
            )
    for axes in figure.axes[len(seen) :]:
        axes.set_axis_off()
    return figure

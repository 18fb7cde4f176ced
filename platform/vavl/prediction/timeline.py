"""The course of a prediction within one clip: the model on a window that slides over its features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from vavl.errors import InputError
from vavl.extractors.extractor import extractor_settings
from vavl.extractors.faces import FaceCutter, FaceFinder
from vavl.extractors.settings import FaceSettings, ImageNetworkSettings, VideoFeatureSettings
from vavl.media.media import Pictures
from vavl.media.sound import read_audio
from vavl.metrics.names import AUDIO_VIDEO, CONDITIONS, MODALITIES_OF
from vavl.models.saved_model import ClipFeatures, Prediction, SavedModel
from vavl.prediction.settings import TimelineSettings
from vavl.prediction.sources import Side

_FEWEST_FRAMES = 2
"""A modality with fewer describes the clip as a whole."""


@dataclass(frozen=True)
class Course:
    """How a prediction runs through a clip."""

    times_s: NDArray[np.float64]  # (window,), from the start of the clip to its end, evenly
    # by condition (window, output): probabilities of the classes, or attributes; NaN where the window holds no
    # frame of the condition's sides.
    values: Mapping[str, NDArray[np.float64]]
    whole: Mapping[str, Prediction]  # prediction of the whole clip by condition
    names: tuple[str, ...]  # of the outputs
    are_classes: bool  # whether they are probabilities that sum to 1
    seconds: float  # length of the clip
    note: str = ""  # what is missing and why; empty if nothing

    @property
    def main(self) -> str:
        """The condition that sees most of the clip."""
        return next(condition for condition in CONDITIONS if condition in self.values)


def clip_course(model: SavedModel, sides: Mapping[str, Side], settings: TimelineSettings, batch_size: int) -> Course:
    """Predict windows of a clip under every condition that it and the model allow.

    The features are those of the whole clip, cut: what an extractor lets a frame know of its neighbors, it knows
    here too. At both ends of the clip the window stays inside and whole.

    Raises:
        InputError: every side is one frame for the whole clip.
    """
    moving = {name: side for name, side in sides.items() if len(side.values) >= _FEWEST_FRAMES}
    if not moving:
        problem = "the features of this model are one frame for a whole clip, so nothing moves"
        raise InputError("timeline", "", problem, "use timeline=false, or a model of features with frames")
    # The end of a modality is that of the file, or of its last frame.
    steps = {name: float(np.median(np.diff(side.frame_times))) for name, side in moving.items()}
    ends = (max(side.seconds or 0.0, float(side.frame_times[-1]) + steps[name] / 2) for name, side in moving.items())
    seconds = max(ends)
    times = np.linspace(0, seconds, max(2, round(seconds / settings.hop_s) + 1))
    trained = [name for name in CONDITIONS if name != AUDIO_VIDEO or model.description.fusion_trained]
    values, whole = {}, {}
    for name in (name for name in trained if all(modality in moving for modality in MODALITIES_OF[name])):
        seen = [_cut(moving, name, time, seconds, settings.window_s) for time in times]
        values[name] = _values(model, seen, batch_size)
        features = ClipFeatures(**{modality: moving[modality].values for modality in MODALITIES_OF[name]})
        whole[name] = model.predict([features])[0]
    names = model.classes or tuple(next(iter(whole.values())).attributes)
    still = sorted(set(sides) - set(moving))
    note = f"{' and '.join(still)}: one frame for the whole clip, left out" if still else ""
    return Course(times, values, whole, names, bool(model.classes), seconds, note)


def _cut(
    sides: Mapping[str, Side], condition: str, time: float, seconds: float, window_s: float
) -> ClipFeatures | None:
    """Return the frames of a condition's sides in the window around ``time``; None where a modality has none there."""
    start = float(np.clip(time - window_s / 2, 0, max(0, seconds - window_s)))
    cut = {}
    for name in MODALITIES_OF[condition]:
        times = sides[name].frame_times
        is_inside = (times >= start) & (times <= start + window_s)
        if not is_inside.any():
            return None
        cut[name] = sides[name].values[is_inside]
    return ClipFeatures(**cut)


def _values(model: SavedModel, windows: Sequence[ClipFeatures | None], batch_size: int) -> NDArray[np.float64]:
    filled = [(place, window) for place, window in enumerate(windows) if window is not None]
    values = np.full((len(windows), model.description.task.outputs), np.nan)
    for first in range(0, len(filled), batch_size):
        batch = filled[first : first + batch_size]
        for (place, _), found in zip(batch, model.predict([window for _, window in batch]), strict=True):
            values[place] = found.probabilities or tuple(found.attributes.values())
    return values


@dataclass(frozen=True)
class ClipMedia:
    """What a picture shows of the clip itself."""

    waveform: NDArray[np.float32] | None = None  # (sample,), about -1..1; None without sound
    rate_hz: int = 0  # of the waveform
    # times in seconds and pictures (row, column, RGB), square.
    thumbnails: tuple[tuple[float, NDArray[np.uint8]], ...] = ()


_RATE_HZ = 16_000
_SIDE_PX = 160
_CROP_SCALE = 1.5
"""More of the head than a network needs: people recognize it."""

_FRAME_RATE_HZ = 25.0


def clip_media(files: Mapping[str, Path], video: Mapping[str, Any], thumbnails: int) -> ClipMedia:
    """Read the sound of a clip and cut out the face that the model sees, at evenly spaced moments.

    Either file may be missing. ``video`` is the provenance of the model's video features: it says how faces are found.

    Raises:
        ClipError: a file cannot be read.
    """
    sound = read_audio(files["audio"], _RATE_HZ) if "audio" in files else None
    pictures = _faces(files["video"], _settings(video), thumbnails) if "video" in files and thumbnails else ()
    return ClipMedia(sound, _RATE_HZ, tuple(pictures))


def _settings(video: Mapping[str, Any]) -> tuple[FaceSettings, float]:
    """Return how faces are found, and the frames per second that the model sees."""
    found = extractor_settings(video, "video")
    for settings in found if isinstance(found, tuple) else (found,):
        if isinstance(settings, VideoFeatureSettings | ImageNetworkSettings):
            return settings.faces, settings.frame_rate_hz
    return FaceSettings(), _FRAME_RATE_HZ


def _faces(path: Path, settings: tuple[FaceSettings, float], count: int) -> list[tuple[float, NDArray[np.uint8]]]:
    faces, rate = settings
    track = FaceFinder(faces, rate).track(picture for _, picture in Pictures(path, rate))
    if track.landmarks is not None:  # upright faces among turned bodies would puzzle
        track = type(track)(track.boxes, track.is_found, track.reason, None, track.is_kept, track.reduction)
    frames = len(track.is_found)
    wanted = {int((place + 0.5) * frames / count) for place in range(min(count, frames))}
    cutter = FaceCutter(track, _CROP_SCALE, _SIDE_PX, from_reduced=False)
    cut = []
    for number, (time, picture) in enumerate(Pictures(path, rate)):
        if number in wanted:
            shown = cutter.cut(number, picture) if track.is_found.any() else _middle(picture)
            cut.append((time, shown))
    return cut


def _middle(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the square in the middle of a picture in which no face is."""
    side = min(picture.shape[:2])
    top, left = (picture.shape[0] - side) // 2, (picture.shape[1] - side) // 2
    square = picture[top : top + side, left : left + side]
    resized: NDArray[np.uint8] = cv2.resize(square, (_SIDE_PX, _SIDE_PX), interpolation=cv2.INTER_AREA)
    return resized

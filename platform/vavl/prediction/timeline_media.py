"""What a timeline shows of the clip itself: its waveform and the face at some moments."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from vavl.extractors.face import FaceCutter
from vavl.extractors.face_tracking import FaceFinder
from vavl.extractors.from_provenance import extractor_settings
from vavl.extractors.video_settings import FaceSettings, ImageNetworkSettings, VideoFeatureSettings
from vavl.media.media import Pictures
from vavl.media.sound import read_audio
from vavl.prediction.timeline import ClipMedia

_RATE_HZ = 16_000
_SIDE_PX = 160
_CROP_SCALE = 1.5
"""More of the head than a network needs: people recognise it."""

_FRAME_RATE_HZ = 25.0


def clip_media(files: Mapping[str, Path], video: Mapping[str, Any], thumbnails: int) -> ClipMedia:
    """Read the sound of a clip and cut out the face that the model sees, at evenly spaced moments.

    Args:
        files: of the sides, "audio" and "video"; either may be missing.
        video: provenance of the model's video features; it says how faces are found.
        thumbnails: number of moments.

    Raises:
        ClipError: a file cannot be read.
    """
    sound = read_audio(files["audio"], _RATE_HZ) if "audio" in files else None
    pictures = _faces(files["video"], _settings(video), thumbnails) if "video" in files and thumbnails else ()
    return ClipMedia(sound, _RATE_HZ, tuple(pictures))


def _settings(video: Mapping[str, Any]) -> tuple[FaceSettings, float]:
    """Return how faces are found, and the frames per second that the model sees."""
    match extractor_settings(video, "video"):
        case (VideoFeatureSettings() | ImageNetworkSettings()) as settings:
            return settings.faces, settings.frame_rate_hz
    return FaceSettings(), _FRAME_RATE_HZ


def _faces(
    path: Path, settings: tuple[FaceSettings, float], count: int
) -> list[tuple[float, NDArray[np.uint8]]]:
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

"""Find the face in the pictures of a clip, follow it, and cut it out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from cv2.data import haarcascades
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

from vavl.errors import ConfigError
from vavl.features.video_settings import VideoFeatureSettings

CROP_PX = 64
_CASCADE = "haarcascade_frontalface_default.xml"
_FIXED_SHARE = 0.8
# A followed face is looked for near its last box: this margin, and these sizes, in sides of that box.
_MARGIN, _SMALLER, _LARGER = 0.2, 0.85, 1.2
# Neighbouring hits asked of a new face and of one that is followed.
_NEIGHBOURS_NEW, _NEIGHBOURS_FOLLOWED = 5, 3

Picture = NDArray[np.uint8]
Box = tuple[int, int, int]
"""Left, top and side of a square in pixels."""


@dataclass(frozen=True)
class FaceTrack:
    """Where the face is in each picture of a clip.

    Attributes:
        boxes: (time, 3), float32: centre x, centre y, side in pixels, smoothed.
        is_found: (time,), bool; False where the box is carried over from other pictures.
        reason: why the crop is fixed to the middle; None if a face was found anywhere.
    """

    boxes: NDArray[np.float32]
    is_found: NDArray[np.bool_]
    reason: str | None


class FaceFinder:
    """Follows the largest face of a clip with OpenCV's frontal-face cascade.

    Args:
        settings: smallest face and smoothing.

    Raises:
        ConfigError: this OpenCV comes without the cascade.
    """

    def __init__(self, settings: VideoFeatureSettings) -> None:
        self.settings = settings
        path = Path(haarcascades) / _CASCADE
        self._cascade = cv2.CascadeClassifier(str(path))
        if self._cascade.empty():
            raise ConfigError(
                str(path), "", "OpenCV's frontal-face cascade is not there",
                "install opencv-python-headless below version 5, as pyproject.toml says",
            )  # fmt: skip

    def track(self, pictures: Sequence[Picture]) -> FaceTrack:
        """Find the face in every picture (row, column), grey, all of one size.

        Where it is missed the box is carried over from the pictures before and after; a clip without
        any face gets a fixed square in the middle.
        """
        found: list[Box | None] = []
        last: Box | None = None
        for picture in pictures:
            last = (self._follow(picture, last) if last else None) or self._largest(picture)
            found.append(last)
        is_found = np.array([box is not None for box in found])
        if not is_found.any():
            boxes = np.tile(_middle_box(pictures[0]), (len(pictures), 1))
            reason = f"no face found in any of {len(pictures)} frames: fixed crop of the middle"
            return FaceTrack(boxes, is_found, reason)
        known = np.array([_centred(box) for box in found if box is not None])
        at, places = np.flatnonzero(is_found), np.arange(len(found))
        carried = np.stack([np.interp(places, at, known[:, column]) for column in range(3)], axis=1)
        sigma = self.settings.smoothing_ms / 1000 * self.settings.frame_rate_hz
        smooth = gaussian_filter1d(carried, sigma, axis=0, mode="nearest") if sigma > 0 else carried
        return FaceTrack(smooth.astype(np.float32), is_found, None)

    def _largest(self, picture: Picture) -> Box | None:
        smallest = max(20, round(self.settings.smallest_face * min(picture.shape)))
        boxes = self._cascade.detectMultiScale(picture, 1.1, _NEIGHBOURS_NEW, minSize=(smallest, smallest))
        return _largest_box(boxes, 0, 0)

    def _follow(self, picture: Picture, last: Box) -> Box | None:
        left, top, side = last
        margin = int(side * _MARGIN)
        x, y = max(0, left - margin), max(0, top - margin)
        region = np.ascontiguousarray(picture[y : top + side + margin, x : left + side + margin])
        smallest, largest = int(side * _SMALLER), int(side * _LARGER)
        boxes = self._cascade.detectMultiScale(
            region, 1.1, _NEIGHBOURS_FOLLOWED, minSize=(smallest, smallest), maxSize=(largest, largest)
        )
        return _largest_box(boxes, x, y)


def cut_faces(pictures: Sequence[Picture], track: FaceTrack, crop_scale: float) -> NDArray[np.uint8]:
    """Cut the tracked square out of each picture.

    Args:
        pictures: grey, (row, column), all of one size.
        track: of these pictures.
        crop_scale: side of the square in sides of the box.

    Returns:
        (time, CROP_PX, CROP_PX); outside of a picture its edge is repeated.
    """
    # Larger faces are reduced by area first: sampling one in five pixels would flicker.
    reduction = min(1.0, 1.25 * CROP_PX / float(np.median(track.boxes[:, 2]) * crop_scale))
    crops = np.empty((len(pictures), CROP_PX, CROP_PX), dtype=np.uint8)
    for number, (picture, (x, y, side)) in enumerate(zip(pictures, track.boxes, strict=True)):
        small = (
            picture
            if reduction == 1
            else cv2.resize(picture, None, fx=reduction, fy=reduction, interpolation=cv2.INTER_AREA)
        )
        scale = CROP_PX / float(side * crop_scale)
        shift = CROP_PX / 2 - scale * np.array([x, y], dtype=np.float64)
        move = np.array([[scale / reduction, 0, shift[0]], [0, scale / reduction, shift[1]]])
        crops[number] = cv2.warpAffine(
            small, move, (CROP_PX, CROP_PX), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )
    return crops


def _largest_box(boxes: Sequence[Sequence[int]], left: int, top: int) -> Box | None:
    if len(boxes) == 0:
        return None
    x, y, side, _ = max(boxes, key=lambda box: int(box[2]))
    return int(x) + left, int(y) + top, int(side)


def _centred(box: Box) -> tuple[float, float, float]:
    left, top, side = box
    return left + side / 2, top + side / 2, float(side)


def _middle_box(picture: Picture) -> NDArray[np.float32]:
    rows, columns = picture.shape
    return np.array([columns / 2, rows / 2, _FIXED_SHARE * min(rows, columns)], dtype=np.float32)

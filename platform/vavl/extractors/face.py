"""Where the face of a clip is, and how it is cut out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

CROP_PX = 64
# Usual places of eyes, nose and corners of the mouth in an aligned face of side 1 (Deng et al. 2019, ArcFace).
STANDARD_LANDMARKS = (
    np.array([[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]])
    / 112
)  # fmt: skip

Picture = NDArray[np.uint8]


@dataclass(frozen=True)
class FaceTrack:
    """Where the face is in each picture of a clip, in pixels of the reduced picture.

    Attributes:
        boxes: (time, 3), float32: centre x, centre y, side in pixels, smoothed.
        is_found: (time,), bool; False where the box is carried over from other pictures.
        reason: why the crop is fixed to the middle; None if a face was found anywhere.
        landmarks: (time, 5, 2), float32, smoothed, if crops are to be aligned by them.
        is_kept: (time,), bool; False where nobody knows where the face was, so that the frame is left out.
        reduction: side of the reduced picture over that of the picture.
    """

    boxes: NDArray[np.float32]
    is_found: NDArray[np.bool_]
    reason: str | None
    landmarks: NDArray[np.float32] | None = None
    is_kept: NDArray[np.bool_] = field(default_factory=lambda: np.ones(0, dtype=bool))
    reduction: float = 1.0


class FaceCutter:
    """Cuts the tracked face out of the pictures of a clip; outside of a picture its edge is repeated.

    Args:
        track: of the clip.
        crop_scale: side of the square in sides of the box; larger shows more around an aligned face too.
        crop_px: side of the crop.
        from_reduced: whether reduced pictures are given, as the track was made of, or those of the file.
    """

    def __init__(self, track: FaceTrack, crop_scale: float, crop_px: int, *, from_reduced: bool) -> None:
        self._track, self._scale, self._px = track, crop_scale, crop_px
        self._zoom = 1.0 if from_reduced else track.reduction
        # Larger faces are reduced by area first, all of a clip alike: sampling one in five pixels would flicker.
        side = float(np.median(track.boxes[:, 2]) * crop_scale) / self._zoom
        self._reduction = min(1.0, 1.25 * crop_px / side)

    def cut(self, number: int, picture: Picture) -> Picture:
        """Return the crop (crop_px, crop_px, ...) of a picture, grey or in colours, by its number in the clip."""
        small = picture
        if self._reduction != 1:
            small = cv2.resize(
                picture, None, fx=self._reduction, fy=self._reduction, interpolation=cv2.INTER_AREA
            )
        move = crop_move(self._track, number, self._scale, self._px)
        move[:, :2] = move[:, :2] * self._zoom / self._reduction
        crop: Picture = cv2.warpAffine(
            small, move, (self._px, self._px), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )
        return crop


def cut_faces(pictures: Sequence[Picture], track: FaceTrack, crop_scale: float) -> NDArray[np.uint8]:
    """Cut the tracked face out of reduced grey pictures (row, column), all of one size.

    Returns:
        (time, CROP_PX, CROP_PX).
    """
    cutter = FaceCutter(track, crop_scale, CROP_PX, from_reduced=True)
    return np.stack([cutter.cut(number, picture) for number, picture in enumerate(pictures)])


def crop_move(track: FaceTrack, number: int, crop_scale: float, crop_px: int) -> NDArray[np.float64]:
    """Return the matrix (2, 3) from places in a reduced picture to places in the crop.

    By the landmarks, where there are any, it turns, sizes and moves the face to the standard position;
    otherwise the crop is the level square.
    """
    if track.landmarks is not None:
        standard = ((STANDARD_LANDMARKS - 0.5) / crop_scale + 0.5) * crop_px
        return similarity(track.landmarks[number].astype(np.float64), standard)
    x, y, side = track.boxes[number]
    scale = crop_px / float(side * crop_scale)
    shift = crop_px / 2 - scale * np.array([x, y], dtype=np.float64)
    return np.array([[scale, 0, shift[0]], [0, scale, shift[1]]])


def similarity(points: NDArray[np.float64], wanted: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the matrix (2, 3) that turns, sizes and moves ``points`` nearest to ``wanted``, by least squares.

    Args:
        points: (point, 2), not all in one place.
        wanted: (point, 2).
    """
    centre, wanted_centre = points.mean(axis=0), wanted.mean(axis=0)
    # As complex numbers turning and sizing are one product, whose least-squares solution is a quotient.
    one = (points - centre) @ np.array([1, 1j])
    other = (wanted - wanted_centre) @ np.array([1, 1j])
    factor = np.vdot(one, other) / np.vdot(one, one)
    turn = np.array([[factor.real, -factor.imag], [factor.imag, factor.real]])
    return np.concatenate([turn, (wanted_centre - turn @ centre)[:, None]], axis=1)

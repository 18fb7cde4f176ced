"""Follow one face through the pictures of a clip."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

from vavl.extractors.face import FaceTrack
from vavl.extractors.face_detectors import Detector, Face, Picture, make_detector
from vavl.extractors.missed import believed_frames, interpolated
from vavl.extractors.video_settings import FaceSettings

_FIXED_SHARE = 0.8
# How far the same face may move and grow between two pictures in which it is found, in its own sides.
_FARTHEST, _LARGEST_GROWTH = 1.0, 2.0


class FaceFinder:
    """Follows the face of a clip: the largest at first, then the one nearest to where it was.

    Another person is not taken while the face is missed, until it was missed for the longest gap.

    Args:
        settings: detector and track.
        frame_rate_hz: of the pictures.
        detector: in place of the one that the settings name.

    Raises:
        ConfigError: a file of the detector is missing.
    """

    def __init__(
        self, settings: FaceSettings, frame_rate_hz: float, detector: Detector | None = None
    ) -> None:
        self.settings, self.rate = settings, frame_rate_hz
        self._detector = detector or make_detector(settings)

    def track(self, pictures: Iterable[Picture]) -> FaceTrack:
        """Find the face in every picture (row, column, RGB); all of one size, one or more, each looked at once.

        Where it is missed its place is between those before and after; a clip without any face gets a
        fixed square in the middle.
        """
        found: list[Face | None] = []
        last: Face | None = None
        missed = 0
        size, reduced_size = (0, 0), (0, 0)
        for picture in pictures:
            prepared = self._detector.prepare(picture, self.settings.longest_side_px)
            size, reduced_size = picture.shape[:2], prepared.shape[:2]
            face = self._find(prepared, last, missed)
            missed = 0 if face is not None else missed + 1
            last = face or last
            found.append(face)
        return self._finish(found, reduced_size, reduced_size[1] / max(size[1], 1))

    def _find(self, picture: Picture, last: Face | None, missed: int) -> Face | None:
        if last is not None and missed == 0:
            near = nearest(self._detector.candidates(picture, last), last)
            if near is not None:
                return near
        everywhere = self._detector.candidates(picture, None)
        if last is not None and missed < self.settings.longest_gap_s * self.rate:
            return nearest(everywhere, last)
        return max(everywhere, key=lambda face: face.side, default=None)

    def _finish(self, found: Sequence[Face | None], size: tuple[int, int], reduction: float) -> FaceTrack:
        is_found = np.array([face is not None for face in found], dtype=bool)
        if not is_found.any():
            reason = f"no face found in any of {len(found)} frames: fixed crop of the middle"
            boxes = np.tile(_middle_box(size), (len(found), 1))
            is_kept = np.full(len(found), self.settings.missed == "interpolate")
            return FaceTrack(boxes, is_found, reason, None, is_kept, reduction)
        places = np.arange(len(found), dtype=np.float64)
        boxes = self._smooth(
            [None if face is None else [face.x, face.y, face.side] for face in found], is_found
        )
        has_landmarks = all(face.landmarks is not None for face in found if face is not None)
        landmarks: NDArray[np.float32] | None = None
        if self.settings.align and has_landmarks:
            flat = [
                None if face is None or face.landmarks is None else face.landmarks.ravel() for face in found
            ]
            landmarks = self._smooth(flat, is_found).reshape(-1, 5, 2)
        is_kept = believed_frames(
            is_found, (places + 0.5) / self.rate, self.settings.missed, self.settings.longest_gap_s
        )
        return FaceTrack(boxes, is_found, None, landmarks, is_kept, reduction)

    def _smooth(
        self, rows: Sequence[Sequence[float] | NDArray[np.float64] | None], is_found: NDArray[np.bool_]
    ) -> NDArray[np.float32]:
        """Return rows (time, value) without gaps and smoothed over time."""
        width = len(next(row for row in rows if row is not None))
        values = np.array([np.zeros(width) if row is None else row for row in rows], dtype=np.float64)
        filled = interpolated(values, is_found, np.arange(len(rows), dtype=np.float64))
        sigma = self.settings.smoothing_ms / 1000 * self.rate
        smooth = gaussian_filter1d(filled, sigma, axis=0, mode="nearest") if sigma > 0 else filled
        return smooth.astype(np.float32)


def nearest(candidates: Sequence[Face], last: Face) -> Face | None:
    """Return the candidate that overlaps most with the last face, None if none can be the same one."""
    same = [
        face
        for face in candidates
        if np.hypot(face.x - last.x, face.y - last.y) <= _FARTHEST * last.side
        and 1 / _LARGEST_GROWTH <= face.side / last.side <= _LARGEST_GROWTH
    ]
    return max(
        same,
        key=lambda face: (overlap(face, last), -np.hypot(face.x - last.x, face.y - last.y)),
        default=None,
    )


def overlap(one: Face, other: Face) -> float:
    """Return the shared area of two squares over the area of both together."""
    reach = (one.side + other.side) / 2
    smaller = min(one.side, other.side)
    width = min(max(0.0, reach - abs(one.x - other.x)), smaller)
    height = min(max(0.0, reach - abs(one.y - other.y)), smaller)
    shared = width * height
    return shared / (one.side**2 + other.side**2 - shared)


def _middle_box(size: tuple[int, int]) -> NDArray[np.float32]:
    rows, columns = size
    return np.array([columns / 2, rows / 2, _FIXED_SHARE * min(rows, columns)], dtype=np.float32)

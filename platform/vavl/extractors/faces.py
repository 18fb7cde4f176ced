"""Where the face of a clip is, how it is followed and cut out, and what is recorded of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

from vavl.errors import ClipError
from vavl.extractors.extracted import Extracted, believed_frames, interpolated, missed_note
from vavl.extractors.face_detectors import Detector, Face, Picture, make_detector
from vavl.extractors.settings import FaceSettings

CROP_PX = 64
# Usual places of eyes, nose and corners of the mouth in an aligned face of side 1 (Deng et al. 2019, ArcFace).
STANDARD_LANDMARKS = (
    np.array([[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]])
    / 112
)  # fmt: skip


@dataclass(frozen=True)
class FaceTrack:
    """Where the face is in each picture of a clip, in pixels of the reduced picture."""

    boxes: NDArray[np.float32]  # (time, 3), float32: center x, center y, side in pixels, smoothed
    is_found: NDArray[np.bool_]  # (time,), bool; False where the box is carried over from other pictures
    reason: str | None  # why the crop is fixed to the middle; None if a face was found anywhere
    landmarks: NDArray[np.float32] | None = None  # (time, 5, 2), float32, smoothed, if crops are to be aligned by them
    # (time,), bool; False where nobody knows where the face was, so that the frame is left out
    is_kept: NDArray[np.bool_] = field(default_factory=lambda: np.ones(0, dtype=bool))
    reduction: float = 1.0  # side of the reduced picture over that of the picture
    size: tuple[int, int] = (0, 0)  # rows and columns of the reduced picture


class FaceCutter:
    """Cuts the tracked face out of the pictures of a clip; outside of a picture its edge is repeated.

    ``crop_scale``: side of the square in sides of the box; larger shows more around an aligned face too.
    ``from_reduced``: whether reduced pictures are given, as the track was made of, or those of the file.
    """

    def __init__(self, track: FaceTrack, crop_scale: float, crop_px: int, *, from_reduced: bool) -> None:
        self._track, self._scale, self._px = track, crop_scale, crop_px
        self._zoom = 1.0 if from_reduced else track.reduction
        # Larger faces are reduced by area first, all of a clip alike: sampling one in five pixels would flicker.
        side = float(np.median(track.boxes[:, 2]) * crop_scale) / self._zoom
        self._reduction = min(1.0, 1.25 * crop_px / side)

    def cut(self, number: int, picture: Picture) -> Picture:
        """Return the crop (crop_px, crop_px, ...) of a picture, gray or in colors, by its number in the clip."""
        small = picture
        if self._reduction != 1:
            small = cv2.resize(picture, None, fx=self._reduction, fy=self._reduction, interpolation=cv2.INTER_AREA)
        move = crop_move(self._track, number, self._scale, self._px)
        move[:, :2] = move[:, :2] * self._zoom / self._reduction
        crop: Picture = cv2.warpAffine(
            small, move, (self._px, self._px), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )
        return crop


def cut_faces(pictures: Sequence[Picture], track: FaceTrack, crop_scale: float) -> NDArray[np.uint8]:
    """Cut the tracked face out of reduced gray pictures (row, column), all of one size.

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

    ``points``: (point, 2), not all in one place. ``wanted``: (point, 2).
    """
    centre, wanted_centre = points.mean(axis=0), wanted.mean(axis=0)
    # As complex numbers turning and sizing are one product, whose least-squares solution is a quotient.
    one = (points - centre) @ np.array([1, 1j])
    other = (wanted - wanted_centre) @ np.array([1, 1j])
    factor = np.vdot(one, other) / np.vdot(one, one)
    turn = np.array([[factor.real, -factor.imag], [factor.imag, factor.real]])
    return np.concatenate([turn, (wanted_centre - turn @ centre)[:, None]], axis=1)


_FIXED_SHARE = 0.8
# How far the same face may move and grow between two pictures in which it is found, in its own sides.
_FARTHEST, _LARGEST_GROWTH = 1.0, 2.0
# Two boxes of one picture that overlap more are one face.
_SAME = 0.3


class FaceFinder:
    """Follows the face of a clip: the largest at first, then the one nearest to where it was.

    Another person is not taken while the face is missed, until it was missed for the longest gap.

    ``detector``: in place of the one that the settings name.

    Raises:
        ConfigError: a file of the detector is missing.
    """

    def __init__(self, settings: FaceSettings, frame_rate_hz: float, detector: Detector | None = None) -> None:
        self.settings, self.rate = settings, frame_rate_hz
        self._detector = detector or make_detector(settings)

    def track(self, pictures: Iterable[Picture], known: FaceTrack | None = None) -> FaceTrack:
        """Find the face in every picture (row, column, RGB); all of one size, one or more, each looked at once.

        Where it is missed its place is between those before and after; a clip without any face gets a
        fixed square in the middle. A ``known`` track is returned as it is, after all pictures.
        """
        if known is not None:
            for _ in pictures:
                pass
            return known
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

    def every(self, pictures: Iterable[Picture]) -> list[FaceTrack]:
        """Follow every face of a clip; the one that is seen longest and largest comes first.

        Faces that are found for less than half a second, or half of a shorter clip, are left out.
        """
        found: list[list[Face | None]] = []  # by picture, then person; later pictures have more persons
        last: list[Face | None] = []
        size, reduced_size = (0, 0), (0, 0)
        longest_gap = max(1, round(self.settings.longest_gap_s * self.rate))
        for picture in pictures:
            prepared = self._detector.prepare(picture, self.settings.longest_side_px)
            size, reduced_size = picture.shape[:2], prepared.shape[:2]
            found.append(self._everybody(prepared, last))
            recent = found[: -longest_gap - 1 : -1]
            last = [
                next((faces[person] for faces in recent if person < len(faces) and faces[person]), None)
                for person in range(len(found[-1]))
            ]
        people = [[faces[person] if person < len(faces) else None for faces in found] for person in range(len(last))]
        sides = [[face.side for face in faces if face is not None] for faces in people]
        order = sorted(range(len(people)), key=lambda person: -sum(sides[person]))
        reduction = reduced_size[1] / max(size[1], 1)
        fewest = min(self.rate, len(found)) / 2
        return [self._finish(people[who], reduced_size, reduction) for who in order if len(sides[who]) >= fewest]

    def _everybody(self, picture: Picture, last: Sequence[Face | None]) -> list[Face | None]:
        """Return the face of each known person, None where it is missed, and then those of new ones."""
        new = self._detector.candidates(picture, None)
        found: list[Face | None] = []
        for before in last:
            face = None if before is None else nearest(new, before)
            if before is not None and face is None:
                close = self._detector.candidates(picture, before)
                face = nearest([one for one in close if not any(_is_same(one, other) for other in found)], before)
            new = [other for other in new if not _is_same(other, face)]
            found.append(face)
        return [*found, *new]

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
            return FaceTrack(boxes, is_found, reason, None, is_kept, reduction, size)
        places = np.arange(len(found), dtype=np.float64)
        boxes = self._smooth([None if face is None else [face.x, face.y, face.side] for face in found], is_found)
        has_landmarks = all(face.landmarks is not None for face in found if face is not None)
        landmarks: NDArray[np.float32] | None = None
        if self.settings.align and has_landmarks:
            flat = [None if face is None or face.landmarks is None else face.landmarks.ravel() for face in found]
            landmarks = self._smooth(flat, is_found).reshape(-1, 5, 2)
        is_kept = believed_frames(
            is_found, (places + 0.5) / self.rate, self.settings.missed, self.settings.longest_gap_s
        )
        return FaceTrack(boxes, is_found, None, landmarks, is_kept, reduction, size)

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


def _is_same(face: Face, other: Face | None) -> bool:
    return other is not None and overlap(face, other) > _SAME


def nearest(candidates: Sequence[Face], last: Face) -> Face | None:
    """Return the candidate that overlaps most with the last face, None if none can be the same one."""
    same = [
        face
        for face in candidates
        if np.hypot(face.x - last.x, face.y - last.y) <= _FARTHEST * last.side
        and 1 / _LARGEST_GROWTH <= face.side / last.side <= _LARGEST_GROWTH
    ]
    return max(same, key=lambda face: (overlap(face, last), -np.hypot(face.x - last.x, face.y - last.y)), default=None)


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


def face_frames(
    path: Path, values: NDArray[np.float32], times: NDArray[np.float64], track: FaceTrack, facts: Mapping[str, float]
) -> Extracted:
    """Return the features of a clip.

    ``values``: (kept frame, channel). ``times``: (frame,), of all frames.

    Raises:
        ClipError: no frame is kept.
    """
    require_kept(path, track)
    tally = {
        "video_frames": len(times),
        "face_frames": int(track.is_found.sum()),
        "masked_frames": int((~track.is_kept).sum()),
        "fixed_crops": int(track.reason is not None),
    }
    note = track.reason or missed_note(track.is_found, track.is_kept)
    known = {**facts, "face_share": round(float(track.is_found.mean()), 6)}
    kept_times = times[track.is_kept].astype(np.float32)
    return Extracted(values, kept_times, tally, note, known, track.is_found[track.is_kept])


def require_kept(path: Path, track: FaceTrack) -> None:
    """Refuse a clip of which no frame is left.

    Raises:
        ClipError: no face was found, and frames without one are left out.
    """
    if not track.is_kept.any():
        problem = f"no face found in any of {len(track.is_kept)} frames, and faces.missed is mask"
        fix = "look at the clip; leave it out, or set faces.missed to interpolate for a fixed crop of the middle"
        raise ClipError(str(path), "video", problem, fix)

"""A compact description of a face per frame: how it looks, how it moves, where the head is.

No weights. Per frame, over a grid of cells on the crop: histograms of edge orientations, the change since the
frame before and the mean optical flow; over the whole crop the low frequencies of its cosine transform; of
the track the place, size and speed of the head.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from vavl.config.places import portable, root_directory
from vavl.extractors.extracted import Extracted
from vavl.extractors.face_detectors import reduced, with_detector_hash
from vavl.extractors.faces import CROP_PX, FaceFinder, FaceTrack, cut_faces, face_frames
from vavl.extractors.settings import VideoFeatureSettings
from vavl.features import ModalityInfo
from vavl.media.media import Pictures

NAME = "face_descriptor"
VERSION = "2"
_GRID = 4
_CELL = CROP_PX // _GRID
_ORIENTATIONS = 6
_COSINES = 6

Frames = NDArray[np.float32]
"""(time, channel)."""


class VideoExtractor:
    """Decodes a video, follows the face and describes it frame by frame.

    Holds a face finder, so make one and use it for many clips; nothing of a clip stays in it.

    Args:
        settings: frame rate, faces and crop.

    Raises:
        ConfigError: a file of the face detector is missing.
    """

    def __init__(self, settings: VideoFeatureSettings) -> None:
        self.settings = settings
        self._finder = FaceFinder(settings.faces, settings.frame_rate_hz)

    def extract(self, path: Path, known: FaceTrack | None = None) -> Extracted:
        """Return the video features of a file: of the face that is followed, or of a known track.

        Raises:
            ClipError: the video cannot be read (see ``vavl.media.media``), or no frame of it is kept.
        """
        settings = self.settings
        pictures = Pictures(path, settings.frame_rate_hz, settings.longest_clip_s)
        times: list[float] = []
        small: list[NDArray[np.uint8]] = []
        track = self._finder.track(self._looked_at(pictures, times, small), known)
        crops = cut_faces(small, track, settings.crop_scale)
        values = describe_face(crops, track, settings.frame_rate_hz)
        return face_frames(path, values[track.is_kept], np.array(times), track, pictures.facts)

    def _looked_at(
        self, pictures: Pictures, times: list[float], small: list[NDArray[np.uint8]]
    ) -> Iterator[NDArray[np.uint8]]:
        """Yield what the detector looks at, and keep what is described: gray, reduced pictures."""
        faces = self.settings.faces
        for time, picture in pictures:
            times.append(time)
            small.append(reduced(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), faces.longest_side_px))
            yield small[-1] if faces.detector == "cascade" else picture


def descriptor_info(settings: VideoFeatureSettings) -> ModalityInfo:
    """Return the provenance of the features."""
    names = channel_names()
    kept = portable(settings, root_directory()).model_dump(mode="json")
    return ModalityInfo(
        extractor=NAME,
        version=VERSION,
        settings=with_detector_hash(kept, settings.faces),
        frame_rate_hz=settings.frame_rate_hz,
        width=len(names),
        channels=names,
    )


def describe_face(crops: NDArray[np.uint8], track: FaceTrack, frame_rate_hz: float) -> Frames:
    """Describe the face in every frame of a clip.

    ``crops``: (time, CROP_PX, CROP_PX), gray. ``frame_rate_hz``: of the frames; speeds are per second.

    Returns:
        (time, len(channel_names())), float32.
    """
    level = standardised(crops)
    parts = [
        orientation_histograms(level),
        cosine_coefficients(level),
        temporal_change(level, frame_rate_hz),
        cell_flow(crops, frame_rate_hz),
        head_movement(track, frame_rate_hz),
    ]
    return np.concatenate(parts, axis=1).astype(np.float32)


def channel_names() -> tuple[str, ...]:
    """Return the names of the channels of ``describe_face``; cells are counted from the upper left."""
    cells = [f"r{row}c{column}" for row in range(_GRID) for column in range(_GRID)]
    degrees = [round(180 / _ORIENTATIONS * number) for number in range(_ORIENTATIONS)]
    cosines = [f"cosine_{row}_{column}" for row in range(_COSINES) for column in range(_COSINES)]
    return (
        *(f"edge_{cell}_{angle}deg" for cell in cells for angle in degrees),
        *cosines[1:],
        *(f"change_{cell}" for cell in cells),
        *(f"flow_{cell}_{axis}" for cell in cells for axis in "xy"),
        *("head_x", "head_y", "head_log_size", "head_speed_x", "head_speed_y", "head_speed_log_size"),
        "face_found",
    )


def standardised(crops: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Give every crop (time, row, column) mean 0 and deviation 1, so that lighting counts less."""
    level = crops.astype(np.float32)
    level -= level.mean(axis=(1, 2), keepdims=True)
    # A crop of one color stays all zeros.
    level /= np.maximum(level.std(axis=(1, 2), keepdims=True), 1)
    return level


def orientation_histograms(level: NDArray[np.float32]) -> Frames:
    """Return the square roots of the shares of edge strength, per cell and orientation (Dalal & Triggs 2005).

    Orientations are those of the gradient, without sign; an edge between two of them counts for both.
    """
    down, right = np.gradient(level, axis=(1, 2))
    strength = np.hypot(down, right)
    place = np.mod(np.arctan2(down, right), math.pi) * (_ORIENTATIONS / math.pi)
    bins = np.arange(_ORIENTATIONS)
    histograms = []
    for number in bins:
        distance = np.abs(place - number)
        nearness = 1 - np.minimum(distance, _ORIENTATIONS - distance)
        histograms.append(_cell_means(strength * np.maximum(nearness, 0)))
    stacked = np.stack(histograms, axis=2).reshape(len(level), -1)
    total = stacked.sum(axis=1, keepdims=True)
    roots: Frames = np.sqrt(stacked / np.maximum(total, 1e-6))
    return roots


def cosine_coefficients(level: NDArray[np.float32]) -> Frames:
    """Return the lowest coefficients of the two-dimensional cosine transform, without the mean."""
    place = (np.arange(CROP_PX) + 0.5) / CROP_PX
    waves = np.cos(math.pi * np.arange(_COSINES)[:, None] * place) * math.sqrt(2) / CROP_PX
    coefficients = np.einsum("ur,trc,vc->tuv", waves, level, waves, optimize=True)
    without_mean: Frames = coefficients.reshape(len(level), -1)[:, 1:].astype(np.float32)
    return without_mean


def temporal_change(level: NDArray[np.float32], frame_rate_hz: float) -> Frames:
    """Return the mean absolute change per second of each cell; zeros in the first frame."""
    change = np.abs(np.diff(level, axis=0, prepend=level[:1]))
    return _cell_means(change) * np.float32(frame_rate_hz)


def cell_flow(crops: NDArray[np.uint8], frame_rate_hz: float) -> Frames:
    """Return the mean optical flow (Farneback 2003) of each cell, x and y, in crop sides per second.

    Zeros in the first frame.
    """
    flows = np.zeros((len(crops), CROP_PX, CROP_PX, 2), dtype=np.float32)
    for number in range(1, len(crops)):
        flows[number] = cv2.calcOpticalFlowFarneback(
            crops[number - 1], crops[number], None,
            pyr_scale=0.5, levels=2, winsize=9, iterations=2, poly_n=5, poly_sigma=1.1, flags=0,
        )  # fmt: skip
    means = np.stack([_cell_means(flows[..., axis]) for axis in range(2)], axis=2)
    scaled: Frames = means.reshape(len(crops), -1) * np.float32(frame_rate_hz / CROP_PX)
    return scaled


def head_movement(track: FaceTrack, frame_rate_hz: float) -> Frames:
    """Return place and size of the head against the clip's medians, their speeds, and whether it was found.

    Places are in (median) sides of the face box, speeds per second.
    """
    usual = np.median(track.boxes, axis=0)
    place = (track.boxes[:, :2] - usual[:2]) / usual[2]
    size = np.log(track.boxes[:, 2:] / usual[2])
    state = np.concatenate([place, size], axis=1)
    speed = np.diff(state, axis=0, prepend=state[:1]) * frame_rate_hz
    return np.concatenate([state, speed, track.is_found[:, None]], axis=1).astype(np.float32)


def _cell_means(values: NDArray[np.float32]) -> Frames:
    """Average (time, row, column) over each cell: (time, cell)."""
    cells = values.reshape(len(values), _GRID, _CELL, _GRID, _CELL).mean(axis=(2, 4))
    means: Frames = cells.reshape(len(values), -1)
    return means

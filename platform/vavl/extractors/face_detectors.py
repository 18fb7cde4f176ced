"""Find faces in one picture: OpenCV's cascade, or YuNet from a file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
from cv2.data import haarcascades
from numpy.typing import NDArray

from vavl.config.files import sha256_of_file
from vavl.config.places import root_directory
from vavl.errors import ConfigError
from vavl.extractors.settings import FaceSettings

_CASCADE = "haarcascade_frontalface_default.xml"
# A followed face is looked for near its last box: this margin, and these sizes, in sides of that box.
_MARGIN, _SMALLER, _LARGER = 0.2, 0.85, 1.2
# Neighboring hits asked of a new face and of one that is followed.
_NEIGHBOURS_NEW, _NEIGHBOURS_FOLLOWED = 5, 3
_SMALLEST_PX = 20
_YUNET_OVERLAP, _YUNET_MOST = 0.3, 100
_YUNET_SOURCE = (
    "get face_detection_yunet_2023mar.onnx (MIT license, 230 kB) from OpenCV Zoo, "
    "https://github.com/opencv/opencv_zoo/tree/main/models/face_detection_yunet, and set faces.yunet_model to it; "
    "or set faces.detector to cascade"
)

Picture = NDArray[np.uint8]
Landmarks = NDArray[np.float64]
"""(5, 2): x, y of the eyes, the tip of the nose and the corners of the mouth, those at the picture's left first."""


@dataclass(frozen=True)
class Face:
    """A face in a picture, in pixels."""

    x: float  # of the center of its square
    y: float  # of the center
    side: float  # of the square
    landmarks: Landmarks | None = None  # None if the detector finds none.


class Detector(Protocol):
    """What finds the faces of a picture; remembers nothing."""

    def prepare(self, picture: Picture, longest_side_px: int) -> Picture:
        """Return a picture (row, column, RGB) reduced, in the colors that ``candidates`` takes."""

    def candidates(self, picture: Picture, near: Face | None) -> list[Face]:
        """Return the faces of a prepared picture.

        ``near``: look near this face only, if looking everywhere costs more.
        """


class CascadeDetector:
    """OpenCV's frontal-face cascade (Viola & Jones 2001); it comes with OpenCV and finds no landmarks.

    Raises:
        ConfigError: this OpenCV comes without the cascade.
    """

    def __init__(self, settings: FaceSettings) -> None:
        self._smallest_face = settings.smallest_face
        path = Path(haarcascades) / _CASCADE
        self._cascade = cv2.CascadeClassifier(str(path))
        if self._cascade.empty():
            fix = "install opencv-python-headless below version 5, as pyproject.toml says"
            raise ConfigError(str(path), "", "OpenCV's frontal-face cascade is not there", fix)

    def prepare(self, picture: Picture, longest_side_px: int) -> Picture:
        """See ``Detector.prepare``: gray; a gray picture stays as it is."""
        grey = picture if picture.ndim == 2 else cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
        return reduced(grey, longest_side_px)

    def candidates(self, picture: Picture, near: Face | None) -> list[Face]:
        """See ``Detector.candidates``."""
        if near is None:
            smallest = max(_SMALLEST_PX, round(self._smallest_face * min(picture.shape)))
            boxes = self._cascade.detectMultiScale(picture, 1.1, _NEIGHBOURS_NEW, minSize=(smallest, smallest))
            return _faces(boxes, 0, 0)
        left, top, side = round(near.x - near.side / 2), round(near.y - near.side / 2), near.side
        margin = int(side * _MARGIN)
        x, y = max(0, left - margin), max(0, top - margin)
        region = np.ascontiguousarray(picture[y : top + round(side) + margin, x : left + round(side) + margin])
        smallest, largest = int(side * _SMALLER), int(side * _LARGER)
        boxes = self._cascade.detectMultiScale(
            region, 1.1, _NEIGHBOURS_FOLLOWED, minSize=(smallest, smallest), maxSize=(largest, largest)
        )
        return _faces(boxes, x, y)


class YuNetDetector:
    """YuNet (Wu et al. 2023) in OpenCV, from an ONNX file; finds faces at many angles and five landmarks.

    Args:
        settings: the file, the least score and the smallest face.

    Raises:
        ConfigError: the file is missing, or OpenCV cannot read it; names its source.
    """

    def __init__(self, settings: FaceSettings) -> None:
        self._smallest_face = settings.smallest_face
        path = yunet_file(settings)
        try:
            self._network = cv2.FaceDetectorYN.create(
                str(path), "", (320, 320), settings.least_score, _YUNET_OVERLAP, _YUNET_MOST
            )
        except cv2.error as error:
            reason = str(error).strip().splitlines()[-1]
            raise ConfigError(
                str(path), "faces.yunet_model", f"OpenCV cannot read it: {reason}", _YUNET_SOURCE
            ) from None

    def prepare(self, picture: Picture, longest_side_px: int) -> Picture:
        """See ``Detector.prepare``: colors in the order blue, green, red."""
        return np.ascontiguousarray(reduced(picture, longest_side_px)[..., ::-1])

    def candidates(self, picture: Picture, near: Face | None) -> list[Face]:  # noqa: ARG002  looks everywhere
        """See ``Detector.candidates``."""
        rows, columns = picture.shape[:2]
        self._network.setInputSize((columns, rows))
        _, found = self._network.detect(picture)
        faces = [] if found is None else [_yunet_face(row) for row in found]
        smallest = self._smallest_face * min(rows, columns)
        return [face for face in faces if np.isfinite(face.side) and face.side >= smallest]


def make_detector(settings: FaceSettings) -> Detector:
    """Return the detector of the settings. Raises ConfigError if a file that it needs is missing."""
    match settings.detector:
        case "cascade":
            return CascadeDetector(settings)
        case "yunet":
            return YuNetDetector(settings)


def yunet_file(settings: FaceSettings) -> Path:
    """Return the place of YuNet's file.

    Raises:
        ConfigError: it is not named or not there; says which file to get and where from.
    """
    if settings.yunet_model is None:
        raise ConfigError("faces", "yunet_model", "the detector yunet needs its file", _YUNET_SOURCE)
    path = (root_directory() or Path.cwd()) / settings.yunet_model
    if not path.is_file():
        raise ConfigError(str(path), "faces.yunet_model", "the file does not exist", _YUNET_SOURCE)
    return path


def with_detector_hash(recorded: dict[str, Any], settings: FaceSettings) -> dict[str, Any]:
    """Return recorded settings of an extractor with the SHA-256 of its detector's file, if it has one.

    Raises:
        ConfigError: the file is missing.
    """
    if settings.detector == "cascade":
        return recorded
    faces = {**recorded["faces"], "yunet_model_sha256": sha256_of_file(yunet_file(settings))}
    return {**recorded, "faces": faces}


def reduced(picture: Picture, longest_side_px: int) -> Picture:
    """Return the picture (row, column, ...) reduced to the longest side allowed."""
    reduction = longest_side_px / max(picture.shape[:2])
    if reduction >= 1:
        return picture
    # A ribbon of a few rows keeps one of them.
    down, across = (max(reduction, 1 / side) for side in picture.shape[:2])
    small: Picture = cv2.resize(picture, None, fx=across, fy=down, interpolation=cv2.INTER_AREA)
    return small


def _faces(boxes: Sequence[Sequence[int]], left: int, top: int) -> list[Face]:
    return [Face(int(x) + left + int(side) / 2, int(y) + top + int(side) / 2, float(side)) for x, y, side, _ in boxes]


def _yunet_face(row: NDArray[np.float32]) -> Face:
    """Read a row of FaceDetectorYN: left, top, width, height, five points, score."""
    left, top, width, height = (float(value) for value in row[:4])
    return Face(left + width / 2, top + height / 2, max(width, height), row[4:14].reshape(5, 2).astype(np.float64))

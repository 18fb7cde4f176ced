"""From a video file to features of the face; the same class serves extraction and prediction."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from vavl.data.statistics import ModalityInfo
from vavl.features import descriptor
from vavl.features.extracted import Extracted, Extractor
from vavl.features.face import FaceFinder, cut_faces
from vavl.features.media import read_frames
from vavl.features.openface import openface_extractor, openface_info
from vavl.features.video_settings import OpenFaceSettings, VideoFeatureSettings, VideoSettings


def video_extractor(settings: VideoSettings) -> Extractor:
    """Return the extractor of these settings.

    Raises:
        ConfigError: OpenCV's face cascade is not there.
    """
    match settings:
        case VideoFeatureSettings():
            return VideoExtractor(settings).extract
        case OpenFaceSettings():
            return openface_extractor(settings)


class VideoExtractor:
    """Decodes a video, follows the face and describes it frame by frame.

    Holds OpenCV's face finder, so make one and use it for many clips; nothing of a clip stays in it.

    Args:
        settings: frame rate, sizes and smoothing.

    Raises:
        ConfigError: OpenCV's face cascade is not there.
    """

    def __init__(self, settings: VideoFeatureSettings) -> None:
        self.settings = settings
        self._finder = FaceFinder(settings)

    def extract(self, path: Path) -> Extracted:
        """Return the video features of a file.

        Raises:
            ClipError: the video cannot be read (see ``vavl.features.media.read_frames``).
        """
        rate = self.settings.frame_rate_hz
        times: list[float] = []
        pictures: list[NDArray[np.uint8]] = []
        for time, picture in read_frames(path, rate, self.settings.longest_clip_s):
            times.append(time)
            pictures.append(_reduced(picture, self.settings.longest_side_px))
        track = self._finder.track(pictures)
        crops = cut_faces(pictures, track, self.settings.crop_scale)
        values = descriptor.describe_face(crops, track, rate)
        tally = {
            "video_frames": len(pictures),
            "face_frames": int(track.is_found.sum()),
            "fixed_crops": int(track.reason is not None),
        }
        return Extracted(values, np.array(times, dtype=np.float32), tally, track.reason)


def video_info(settings: VideoSettings) -> ModalityInfo:
    """Return the provenance of video features."""
    match settings:
        case VideoFeatureSettings():
            return _descriptor_info(settings)
        case OpenFaceSettings():
            return openface_info(settings)


def check_video(settings: VideoSettings) -> None:
    """Raise before any file is read what would fail at each.

    Raises:
        ConfigError: OpenCV's face cascade is not there.
    """
    if isinstance(settings, VideoFeatureSettings):
        FaceFinder(settings)


def _descriptor_info(settings: VideoFeatureSettings) -> ModalityInfo:
    names = descriptor.channel_names()
    return ModalityInfo(
        extractor=descriptor.NAME,
        version=descriptor.VERSION,
        settings=settings.model_dump(mode="json"),
        frame_rate_hz=settings.frame_rate_hz,
        width=len(names),
        channels=names,
    )


def _reduced(picture: NDArray[np.uint8], longest_side_px: int) -> NDArray[np.uint8]:
    """Return the picture (row, column, RGB) in grey, reduced to the longest side allowed."""
    grey: NDArray[np.uint8] = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    reduction = longest_side_px / max(grey.shape)
    if reduction >= 1:
        return grey
    # A ribbon of a few rows keeps one of them.
    down, across = (max(reduction, 1 / side) for side in grey.shape)
    small: NDArray[np.uint8] = cv2.resize(grey, None, fx=across, fy=down, interpolation=cv2.INTER_AREA)
    return small

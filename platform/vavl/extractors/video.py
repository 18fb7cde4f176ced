"""From a video file to features of the face; the same way serves extraction and prediction."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from vavl.config.places import portable, root_folder
from vavl.errors import ConfigError
from vavl.extractors import descriptor
from vavl.extractors.extracted import Extracted, Extractor
from vavl.extractors.face import cut_faces
from vavl.extractors.face_detectors import make_detector, reduced, with_detector_hash
from vavl.extractors.face_frames import face_frames
from vavl.extractors.face_tracking import FaceFinder
from vavl.extractors.image_network import ImageNetworkExtractor, check_image_network, image_network_info
from vavl.extractors.openface import openface_extractor, openface_info
from vavl.extractors.video_settings import (
    ImageNetworkSettings,
    OpenFaceSettings,
    VideoFeatureSettings,
    VideoSettings,
)
from vavl.features import ModalityInfo
from vavl.media.media import Pictures

logger = logging.getLogger(__name__)


def video_extractor(settings: VideoSettings) -> Extractor:
    """Return the extractor of these settings.

    Raises:
        ConfigError: a file that the extractor needs is missing or broken.
    """
    match settings:
        case VideoFeatureSettings():
            return VideoExtractor(settings).extract
        case ImageNetworkSettings():
            return ImageNetworkExtractor(settings).extract
        case OpenFaceSettings():
            return openface_extractor(settings)


def video_info(settings: VideoSettings) -> ModalityInfo:
    """Return the provenance of video features.

    Raises:
        ConfigError: a file that the extractor needs is missing.
    """
    match settings:
        case VideoFeatureSettings():
            return _descriptor_info(settings)
        case ImageNetworkSettings():
            return image_network_info(settings)
        case OpenFaceSettings():
            return openface_info(settings)


def check_video(settings: VideoSettings) -> None:
    """Raise before any file is read what would fail at each; loads no network.

    Raises:
        ConfigError: a file that the extractor needs is missing, or the settings are those of a card's tables.
    """
    if isinstance(settings, OpenFaceSettings):
        raise ConfigError(
            "features.video", "extractor", "openface reads tables, and the card names video files",
            "write `source: openface` into the card, or choose another extractor",
        )  # fmt: skip
    make_detector(settings.faces)
    if settings.faces.align and settings.faces.detector == "cascade":
        logger.warning("features.video.faces.align: the cascade finds no landmarks, its crops stay level")
    if isinstance(settings, ImageNetworkSettings):
        check_image_network(settings)


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

    def extract(self, path: Path) -> Extracted:
        """Return the video features of a file.

        Raises:
            ClipError: the video cannot be read (see ``vavl.media.media``), or no frame of it is kept.
        """
        settings = self.settings
        pictures = Pictures(path, settings.frame_rate_hz, settings.longest_clip_s)
        times: list[float] = []
        small: list[NDArray[np.uint8]] = []
        track = self._finder.track(self._looked_at(pictures, times, small))
        crops = cut_faces(small, track, settings.crop_scale)
        values = descriptor.describe_face(crops, track, settings.frame_rate_hz)
        return face_frames(path, values[track.is_kept], np.array(times), track, pictures.facts)

    def _looked_at(
        self, pictures: Pictures, times: list[float], small: list[NDArray[np.uint8]]
    ) -> Iterator[NDArray[np.uint8]]:
        """Yield what the detector looks at, and keep what is described: grey, reduced pictures."""
        faces = self.settings.faces
        for time, picture in pictures:
            times.append(time)
            small.append(reduced(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), faces.longest_side_px))
            yield small[-1] if faces.detector == "cascade" else picture


def _descriptor_info(settings: VideoFeatureSettings) -> ModalityInfo:
    names = descriptor.channel_names()
    kept = portable(settings, root_folder()).model_dump(mode="json")
    return ModalityInfo(
        extractor=descriptor.NAME,
        version=descriptor.VERSION,
        settings=with_detector_hash(kept, settings.faces),
        frame_rate_hz=settings.frame_rate_hz,
        width=len(names),
        channels=names,
    )

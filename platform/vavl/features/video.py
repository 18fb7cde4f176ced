"""From a video file to features of the face; the same class serves extraction and prediction."""

from __future__ import annotations

from pathlib import Path

from vavl.data.statistics import ModalityInfo
from vavl.features.extracted import Extracted
from vavl.features.settings import VideoFeatureSettings


def video_info(settings: VideoFeatureSettings) -> ModalityInfo:
    """Return the provenance of video features."""
    return ModalityInfo("face_descriptor", "0", {}, settings.frame_rate_hz, 1)


class VideoExtractor:
    """Extracts."""

    def __init__(self, settings: VideoFeatureSettings) -> None:
        self.settings = settings

    def extract(self, path: Path) -> Extracted:
        """Extract."""
        raise NotImplementedError

"""What is extracted from the two sides of a clip."""

from __future__ import annotations

from vavl.config.base import FrozenConfig
from vavl.extractors.audio_settings import AudioFeatureSettings, AudioSettings
from vavl.extractors.video_settings import VideoFeatureSettings, VideoSettings


class FeatureSettings(FrozenConfig):
    """What is extracted from the two sides of a clip.

    ``video`` is not used where the corpus card names a table of ready features.
    """

    audio: AudioSettings = AudioFeatureSettings()
    video: VideoSettings = VideoFeatureSettings()

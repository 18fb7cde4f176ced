"""What is extracted from the modalities of a clip, and how an extraction runs."""

from __future__ import annotations

from pydantic import Field

from vavl.config.base import FrozenConfig
from vavl.extractors.settings import AudioFeatureSettings, AudioSettings, VideoFeatureSettings, VideoSettings
from vavl.store.shards import Dtype
from vavl.workers.settings import WorkerSettings


class FeatureSettings(FrozenConfig):
    """What is extracted from the two modalities of a clip.

    ``video`` is not used where the corpus card names a table of ready features.
    """

    dtype: Dtype = Field(
        "float32", description="numbers on disk; float16 takes half the bytes and is refused where a value is too large"
    )
    audio: AudioSettings = AudioFeatureSettings()
    video: VideoSettings = VideoFeatureSettings()


class ExtractionRun(WorkerSettings):
    """How an extraction runs; nothing here changes what a store holds."""

    max_quarantined_share: float = Field(
        0.02, ge=0, le=1, description="share of unreadable files above which the job fails"
    )
    resume: bool = Field(True, description="keep what the store has of unchanged files and settings; false starts anew")

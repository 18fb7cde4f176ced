"""Settings of the demo corpus: what it holds, and how hard it is."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from vavl.config.base import FrozenConfig
from vavl.config.files import sha256_of_json

# Raised by whoever changes what the renderer draws or says for the same settings.
GENERATOR_VERSION = 2

EMOTIONS = ("neutral", "happy", "sad", "angry", "fearful", "surprised")


class DifficultySettings(FrozenConfig):
    """How much of the emotion reaches the voice and the face.

    Tuned with the logistic regression of ``tests/benchmarks/demo_probe.py`` alone, never with a network.
    """

    shared_noise: float = Field(0.12, ge=0, description="sd of the deviation that voice and face share")
    voice_noise: float = Field(0.22, ge=0, description="sd of the voice's own deviation")
    face_noise: float = Field(0.22, ge=0, description="sd of the face's own deviation")
    strays: float = Field(0.07, ge=0, le=1, description="share of clips in which a modality shows some other emotion")
    hidden_contrast: float = Field(
        0.09, ge=0, le=1, description="share that survives of each contrast which a modality hides"
    )
    expressiveness_sd: float = Field(0.15, ge=0, description="sd over speakers of the log expressiveness, per modality")
    tempo_per_arousal: float = Field(0.06, ge=0, description="log tempo per unit of shared arousal")


class DemoCorpusSettings(FrozenConfig):
    """What is rendered; any change makes another corpus with another hash."""

    seed: int = Field(7, ge=0, description="the same seed renders the same files")
    women: int = Field(6, ge=0, le=6, description="speakers f01, f02, ...")
    men: int = Field(6, ge=0, le=6, description="speakers m01, m02, ...")
    sentences: int = Field(2, ge=1, le=9, description="nonsense sentences s01, s02, ...; each has its rhythm")
    takes: int = Field(3, ge=1, le=9, description="repetitions of each sentence and emotion")
    sample_rate_hz: int = Field(16_000, ge=8_000, le=48_000, description="of the audio files")
    frame_rate_hz: int = Field(25, ge=5, le=60, description="of the video files")
    image_size_px: int = Field(160, ge=96, le=640, multiple_of=2, description="width and height of a frame")
    difficulty: DifficultySettings = DifficultySettings()


def settings_hash(settings: DemoCorpusSettings) -> str:
    """Return 16 hexadecimal digits that change with any setting and with the generator's version."""
    content = {"generator_version": GENERATOR_VERSION, "settings": settings.model_dump(mode="json")}
    return sha256_of_json(content)[:16]


def audio_path(root: Path, speaker: str, clip_id: str) -> Path:
    """Return the place of a clip's sound below ``root``."""
    return root / "audio" / speaker / f"{clip_id}.wav"


def video_path(root: Path, speaker: str, clip_id: str) -> Path:
    """Return the place of a clip's pictures below ``root``."""
    return root / "video" / speaker / f"{clip_id}.mp4"

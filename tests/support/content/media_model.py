"""A small model with random weights that reads media with the platform's default extractors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from served_models import write_model

from vavl.extractors.extractor import audio_info, video_info
from vavl.extractors.settings import AudioFeatureSettings, VideoFeatureSettings
from vavl.features import ModalityInfo
from vavl.models.settings import ClassTask, Task

CLASSES = ("calm", "glad", "mad")
MEDIA = {"audio": audio_info(AudioFeatureSettings()), "video": video_info(VideoFeatureSettings())}


def write_media_model(
    folder: Path, infos: Mapping[str, ModalityInfo] = MEDIA, task: Task | None = None, **changes: object
) -> Path:
    """Save a model of the features that ``infos`` describe; ``changes`` as in ``write_model``."""
    content = {"max_frames": 200, "provenance": {"corpus": "small", "protocol": "first speakers", "fold": 0}}
    with torch.random.fork_rng():
        return write_model(folder, task or ClassTask(classes=CLASSES), **infos, **{**content, **changes})

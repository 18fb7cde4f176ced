"""Names of metrics: ``<split>/<condition>/<metric>``."""

from __future__ import annotations

AUDIO, VIDEO, AUDIO_VIDEO = "audio", "video", "audio_video"
CONDITIONS = (AUDIO_VIDEO, AUDIO, VIDEO)
"""The three ways to predict a clip, in the order of every table."""

MODALITIES_OF = {AUDIO_VIDEO: (AUDIO, VIDEO), AUDIO: (AUDIO,), VIDEO: (VIDEO,)}
"""What a clip must have to be predicted under a condition."""

TRAIN, VALIDATION, TEST = "train", "validation", "test"
SPLITS = (TRAIN, VALIDATION, TEST)


def metric_name(split: str, condition: str, metric: str) -> str:
    """Join the three parts, e.g. ``test/audio_video/accuracy``."""
    return f"{split}/{condition}/{metric}"

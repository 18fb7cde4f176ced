"""Names of metrics: ``<split>/<condition>/<metric>``."""

from __future__ import annotations

from vavl.features import AUDIO, AUDIO_VIDEO, CONDITIONS, VIDEO

__all__ = [
    "AUDIO",
    "AUDIO_VIDEO",
    "CONDITIONS",
    "MODALITIES_OF",
    "SPLITS",
    "TEST",
    "TRAIN",
    "VALIDATION",
    "VIDEO",
    "metric_name",
]

MODALITIES_OF = {AUDIO_VIDEO: (AUDIO, VIDEO), AUDIO: (AUDIO,), VIDEO: (VIDEO,)}
"""What a clip must have to be predicted under a condition."""

TRAIN, VALIDATION, TEST = "train", "validation", "test"
SPLITS = (TRAIN, VALIDATION, TEST)


def metric_name(split: str, condition: str, metric: str) -> str:
    """Join the three parts, e.g. ``test/audio_video/accuracy``."""
    return f"{split}/{condition}/{metric}"

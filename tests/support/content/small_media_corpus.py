"""A corpus of a few small media files and its card, for tests of the way from files to a store."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import yaml
from rendered_media import moving_square, tone, write_mp4, write_wav

SPEAKERS = ("f01", "f02", "f03", "m01", "m02", "m03")
CLASSES = ("calm", "glad")
_PATTERN = r"(?P<clip>(?P<speaker>(?P<sex>[fm])\d\d)_(?P<label>[a-z]+)_(?P<take>\d\d))"
CARD = {
    "name": "tiny",
    "title": "Tones and moving squares",
    "licence": "Apache-2.0",
    "citation": "none",
    "obtain": "made by the tests",
    "root_environment_variable": "TINY_ROOT",
    "classes": list(CLASSES),
    "audio": {"pattern": f"audio/{_PATTERN}", "suffixes": [".wav"]},
    "video": {"source": "files", "pattern": f"video/{_PATTERN}", "suffixes": [".mp4"]},
    "speaker": {"group": "speaker"},
    "sex": {"group": "sex", "map": {"f": "female", "m": "male"}},
    "labels": {"drawn": {"source": "pattern", "target": "drawn class", "group": "label"}},
    "splits": {
        "protocol": "one-fold",
        "folds": {"source": "list", "test_speakers": {0: ["f03", "m03"]}},
        "validation_speakers": 2,
        "untested_speakers": "train",
    },
    "expected": {"clips": 12, "speakers": 6},
}


def clip_ids(takes: int) -> list[str]:
    return [f"{speaker}_{label}_{take:02d}" for speaker in SPEAKERS for label in CLASSES for take in range(takes)]


def write_small_corpus(folder: Path, takes: int = 1, frames: int = 4) -> Path:
    """Write 12 clips per take with audio and video into ``folder/media``; return the card's path."""
    for number, clip_id in enumerate(clip_ids(takes)):
        noise = 0.01 * np.random.default_rng(number).normal(size=3200)
        write_wav(folder / "media/audio" / f"{clip_id}.wav", tone(200 + 50 * number, 0.2, amplitude=0.5) + noise)
        write_mp4(folder / "media/video" / f"{clip_id}.mp4", moving_square(frames, side=64, seed=number))
    return write_card(folder / "tiny.yaml", expected={"clips": 12 * takes, "speakers": 6})


def write_card(path: Path, **changes: object) -> Path:
    path.write_text(yaml.safe_dump({**CARD, **changes}))
    return path

"""Loudness of the sound: one channel, the level of every 20 ms in decibels below full scale."""

from typing import Literal

import numpy as np
from pydantic import Field

from vavl.config.base import FrozenConfig
from vavl.extractors.extracted import Extracted, ExtractorPlugin
from vavl.features import ModalityInfo
from vavl.media.sound import read_sound

HOP_S = 0.02


class LoudnessSettings(FrozenConfig):
    extractor: Literal["loudness"] = "loudness"  # the name of the entry point
    floor_db: float = Field(-80, le=0, description="less counts as this much")


def info(settings):
    """Say what the features are; another version where the numbers change, so that no model mixes them."""
    kept = settings.model_dump(mode="json")
    return ModalityInfo("loudness", "1", kept, frame_rate_hz=1 / HOP_S, width=1, channels=("level_db",))


def extractor(settings):
    """Return the function that reads one file; called once per process."""

    def extract(path):
        sound = read_sound(path, 16_000, longest_s=300)
        frames = sound.waveform[: len(sound.waveform) // 320 * 320].reshape(-1, 320)
        level = 10 * np.log10(np.maximum(np.square(frames).mean(axis=1), 10 ** (settings.floor_db / 10)))
        times = (np.arange(len(frames)) + 0.5) * HOP_S
        return Extracted(level[:, None].astype(np.float32), times.astype(np.float32), note=sound.note)

    return extract


loudness = ExtractorPlugin("audio", LoudnessSettings, info, extractor)

"""Facts of sound: what is silent, what is clipped, and that they are those of the file as it is."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile
from rendered_media import tone, write_wav

from vavl.media.sound import clipped_share, level_facts, read_sound
from vavl.store.clip_facts import SCHEMA

FULL_SCALE = 32767 / 32768


def facts_of(samples: np.ndarray, rate_hz: int = 16_000) -> dict[str, float]:
    mono = samples.astype(np.float32)
    return {**level_facts(mono, rate_hz), "clipped_share": clipped_share(mono[:, None], FULL_SCALE)}


def test_levels_are_those_of_what_is_heard_after_mixing_and_resampling(tmp_path):
    samples = np.stack([tone(440, 0.5, 44_100, 0.8), np.zeros(22_050)], axis=1)
    facts = read_sound(write_wav(tmp_path / "a.wav", samples, 44_100), 16_000).facts
    assert facts.keys() <= set(SCHEMA.names)
    assert (facts["seconds"], facts["sample_rate_hz"], facts["channels"]) == (0.5, 44_100, 2)
    assert facts["peak"] == pytest.approx(0.4, abs=0.02)
    assert facts["silence_share"] == facts["clipped_share"] == 0


@pytest.mark.parametrize(("below_db", "share"), [(40, 0.0), (59, 0.0), (61, 1.0), (200, 1.0)])
def test_silence_is_60_db_below_a_full_scale_sine(below_db, share):
    assert facts_of(tone(440, 1, amplitude=10 ** (-below_db / 20)))["silence_share"] == share


def test_silence_is_a_share_of_the_time(tmp_path):
    half = np.concatenate([tone(440, 0.5), np.zeros(8000)])
    assert facts_of(half)["silence_share"] == pytest.approx(0.5, abs=0.02)
    both = np.stack([half, half[::-1]], axis=1)
    assert read_sound(write_wav(tmp_path / "a.wav", both), 16_000).facts["silence_share"] == 0


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "FLOAT"])
def test_samples_at_full_scale_count_as_clipped(tmp_path, subtype):
    path = tmp_path / "a.wav"
    samples = np.clip(tone(440, 1, amplitude=2.0), -1, 1)
    soundfile.write(path, samples, 16_000, subtype=subtype)
    # A sine of twice full scale is beyond it two thirds of the time.
    assert read_sound(path, 16_000).facts["clipped_share"] == pytest.approx(2 / 3, abs=0.01)


def test_sound_beyond_full_scale_keeps_its_peak(tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, np.full(100, 1.5), 16_000, subtype="FLOAT")
    facts = read_sound(path, 16_000).facts
    assert (facts["peak"], facts["clipped_share"]) == (1.5, 1.0)


def test_one_sample_has_facts():
    assert facts_of(np.zeros(1))["silence_share"] == 1

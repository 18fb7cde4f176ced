"""Descriptors of a voice by frame: lengths agree, pitch is in semitones, silence around is left out."""

from __future__ import annotations

import numpy as np
import pytest
from rendered_media import RATE_HZ, tone

from vavl.extractors.settings import FunctionalSettings
from vavl.extractors.voice_descriptors import SHAPE, VoiceDescriptors

SETTINGS = FunctionalSettings()


def described(samples: np.ndarray) -> VoiceDescriptors:
    return VoiceDescriptors.of(samples.astype(np.float32), SETTINGS)


def shape_of(voice: VoiceDescriptors, name: str) -> float:
    return float(np.median(voice.shape[:, SHAPE.index(name)]))


def test_every_descriptor_has_a_value_per_frame():
    voice = described(tone(200, 0.5, amplitude=0.3))
    frames = len(voice.times)
    assert voice.spectra.shape == (frames, 64)
    assert voice.cepstra.shape == (frames, 20)
    assert voice.shape.shape == (frames, len(SHAPE))
    for row in (voice.level, voice.pitch, voice.is_voiced, voice.periodicity):
        assert row.shape == (frames,)


def test_silence_around_the_sound_is_left_out_and_the_times_stay():
    silence = np.zeros(RATE_HZ)
    voice = described(np.concatenate((silence, tone(200, 0.5, amplitude=0.3), silence)))
    assert voice.times[0] == pytest.approx(1.0, abs=0.03)
    assert voice.times[-1] == pytest.approx(1.5, abs=0.03)
    assert voice.is_voiced.mean() > 0.9


def test_pitch_counts_semitones_above_100_hz_and_bridges_pauses():
    parts = (tone(200, 0.5, amplitude=0.3), np.zeros(RATE_HZ // 5), tone(100, 0.5, amplitude=0.3))
    voice = described(np.concatenate(parts))
    assert voice.pitch[:40] == pytest.approx(12, abs=0.2)
    assert voice.pitch[-40:] == pytest.approx(0, abs=0.2)
    pause = ~voice.is_voiced
    assert 10 < pause.sum() < 30
    assert ((voice.pitch[pause] < 12.1) & (voice.pitch[pause] > -0.1)).all()


def test_without_a_voice_the_pitch_is_flat():
    voice = described(np.random.default_rng(0).normal(scale=0.05, size=RATE_HZ // 2))
    assert voice.is_voiced.all()
    assert voice.pitch.std() == 0


def test_the_shape_tells_a_dark_sound_from_a_bright_one():
    generator = np.random.default_rng(0)
    white = generator.normal(scale=0.1, size=RATE_HZ)
    dark, bright = np.convolve(white, np.ones(16) / 16, "same"), np.diff(white)
    for name in ("centroid", "rolloff", "median"):
        assert (
            shape_of(described(dark), name)
            < shape_of(described(white), name)
            < shape_of(described(bright), name)
        )
    for name in ("alpha_ratio", "hammarberg"):
        assert shape_of(described(dark), name) > shape_of(described(white), name)
    assert shape_of(described(white), "flatness") > shape_of(
        described(tone(1000, 1.0, amplitude=0.1)), "flatness"
    )


def test_the_level_follows_the_loudness_in_decibels():
    quiet, loud = (np.median(described(tone(300, 0.5, amplitude=size)).level) for size in (0.05, 0.5))
    assert loud - quiet == pytest.approx(20, abs=0.1)

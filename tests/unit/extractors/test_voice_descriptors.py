"""Descriptors of a voice by frame: lengths agree, the pitch and its absence are found, silence is left out."""

from __future__ import annotations

import numpy as np
import pytest
from rendered_media import RATE_HZ, tone

from vavl.config.load import validate
from vavl.errors import ConfigError
from vavl.extractors.settings import FunctionalSettings, PitchSettings
from vavl.extractors.voice_descriptors import SHAPE, VoiceDescriptors, track_pitch

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
        assert shape_of(described(dark), name) < shape_of(described(white), name) < shape_of(described(bright), name)
    for name in ("alpha_ratio", "hammarberg"):
        assert shape_of(described(dark), name) > shape_of(described(white), name)
    assert shape_of(described(white), "flatness") > shape_of(described(tone(1000, 1.0, amplitude=0.1)), "flatness")


def test_the_level_follows_the_loudness_in_decibels():
    quiet, loud = (np.median(described(tone(300, 0.5, amplitude=size)).level) for size in (0.05, 0.5))
    assert loud - quiet == pytest.approx(20, abs=0.1)


PITCH = PitchSettings()


def voice(frequency_hz: np.ndarray | float, seconds: float = 1.0) -> np.ndarray:
    """Render ten harmonics that fall off, as the vocal folds give them."""
    hertz = np.broadcast_to(frequency_hz, round(seconds * RATE_HZ))
    phase = 2 * np.pi * np.cumsum(hertz) / RATE_HZ
    return sum(0.1 / n * np.sin(n * phase) for n in range(1, 11)).astype(np.float32)


def centres(samples: np.ndarray) -> np.ndarray:
    return np.arange(0.0125, len(samples) / RATE_HZ - 0.0125, 0.01).astype(np.float32)


def track(samples: np.ndarray, settings: PitchSettings = PITCH):
    return track_pitch(samples, centres(samples), RATE_HZ, settings)


@pytest.mark.parametrize("frequency_hz", [80.0, 123.0, 220.0, 347.0, 510.0])
def test_the_pitch_of_a_steady_voice_is_found_without_octave_errors(frequency_hz):
    found = track(voice(frequency_hz))
    inner = slice(4, -4)
    np.testing.assert_allclose(found.frequency_hz[inner], frequency_hz, rtol=0.01)
    assert found.periodicity[inner].min() > 0.9


def test_a_missing_fundamental_is_heard_all_the_same():
    samples = sum(tone(150.0 * n, 0.5, amplitude=0.1) for n in (2, 3, 4, 5)).astype(np.float32)
    np.testing.assert_allclose(track(samples).frequency_hz[4:-4], 150, rtol=0.01)


def test_a_glide_is_followed_at_its_time():
    samples = voice(np.linspace(120, 240, 2 * RATE_HZ), seconds=2.0)
    found, expected = track(samples).frequency_hz, 120 + 60 * centres(samples)
    np.testing.assert_allclose(found[5:-5], expected[5:-5], rtol=0.02)


def test_noise_and_silence_are_unvoiced():
    noise = np.random.default_rng(0).normal(scale=0.05, size=RATE_HZ).astype(np.float32)
    assert (track(noise).frequency_hz == 0).mean() > 0.9
    silence = track(np.zeros(RATE_HZ, dtype=np.float32))
    assert not silence.frequency_hz.any()
    assert np.isfinite(silence.periodicity).all()


def test_loudness_does_not_matter():
    samples = voice(200.0)
    np.testing.assert_allclose(track(samples * 0.01).frequency_hz, track(samples).frequency_hz, rtol=1e-4)


def test_a_clip_shorter_than_a_window_has_one_frame():
    found = track_pitch(np.zeros(10, np.float32), np.array([0.0125], np.float32), RATE_HZ, PITCH)
    assert found.frequency_hz.shape == found.periodicity.shape == (1,)


@pytest.mark.parametrize(
    ("content", "problem"), [({"lowest_hz": 700}, "not below highest_hz"), ({"window_ms": 20}, "less than two periods")]
)
def test_a_range_that_does_not_fit_is_refused(content, problem):
    with pytest.raises(ConfigError, match=problem):
        validate(PitchSettings, content, "test")


@pytest.mark.parametrize("settings", [PitchSettings(lowest_hz=150), PitchSettings(highest_hz=110)])
def test_the_range_is_kept(settings):
    found = track(voice(120.0), settings).frequency_hz
    voiced = found[found > 0]
    assert ((voiced > 0.99 * settings.lowest_hz) & (voiced < 1.01 * settings.highest_hz)).all()

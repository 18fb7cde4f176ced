"""The pitch track finds the period of voices and its absence."""

from __future__ import annotations

import numpy as np
import pytest
from rendered_media import tone

from vavl.config.load import validate
from vavl.errors import ConfigError
from vavl.extractors.settings import PitchSettings
from vavl.extractors.voice_descriptors import track_pitch

RATE_HZ = 16_000
SETTINGS = PitchSettings()


def voice(frequency_hz: np.ndarray | float, seconds: float = 1.0) -> np.ndarray:
    """Render ten harmonics that fall off, as the vocal folds give them."""
    hertz = np.broadcast_to(frequency_hz, round(seconds * RATE_HZ))
    phase = 2 * np.pi * np.cumsum(hertz) / RATE_HZ
    return sum(0.1 / n * np.sin(n * phase) for n in range(1, 11)).astype(np.float32)


def centres(samples: np.ndarray) -> np.ndarray:
    return np.arange(0.0125, len(samples) / RATE_HZ - 0.0125, 0.01).astype(np.float32)


def track(samples: np.ndarray, settings: PitchSettings = SETTINGS):
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
    found = track_pitch(np.zeros(10, np.float32), np.array([0.0125], np.float32), RATE_HZ, SETTINGS)
    assert found.frequency_hz.shape == found.periodicity.shape == (1,)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ({"lowest_hz": 700}, "not below highest_hz"),
        ({"window_ms": 20}, "less than two periods"),
    ],
)
def test_a_range_that_does_not_fit_is_refused(content, problem):
    with pytest.raises(ConfigError, match=problem):
        validate(PitchSettings, content, "test")


@pytest.mark.parametrize("settings", [PitchSettings(lowest_hz=150), PitchSettings(highest_hz=110)])
def test_the_range_is_kept(settings):
    found = track(voice(120.0), settings).frequency_hz
    voiced = found[found > 0]
    assert ((voiced > 0.99 * settings.lowest_hz) & (voiced < 1.01 * settings.highest_hz)).all()

"""Noise of a stated ratio in the waveform, read by the extractor that made the features."""

from __future__ import annotations

import numpy as np
import pytest

from vavl.evaluation.degradation import draws_of
from vavl.evaluation.noisy_sound import add_noise

TONE = np.sin(np.arange(16_000) * 2 * np.pi * 440 / 16_000).astype(np.float32)


@pytest.mark.parametrize("kind", ["white", "pink"])
@pytest.mark.parametrize("snr_db", [20.0, 0.0, -10.0])
def test_the_ratio_is_the_one_stated(kind: str, snr_db: float) -> None:
    noisy = add_noise(TONE, snr_db, draws_of(0, kind, "clip"), kind)
    noise = noisy.astype(np.float64) - TONE
    found = 10 * np.log10(np.square(TONE, dtype=np.float64).mean() / np.square(noise).mean())
    assert found == pytest.approx(snr_db, abs=0.01)
    assert noisy.dtype == np.float32


def test_the_same_noise_grows_and_another_clip_has_other_noise() -> None:
    weak, strong = (add_noise(TONE, snr_db, draws_of(0, "white", "clip")) - TONE for snr_db in (20.0, 0.0))
    np.testing.assert_allclose(10 * weak, strong, atol=1e-4)
    other = add_noise(TONE, 0.0, draws_of(0, "white", "other")) - TONE
    assert abs(np.corrcoef(strong, other)[0, 1]) < 0.05


def test_pink_noise_has_equal_power_per_octave_and_white_twice_as_much_in_the_next() -> None:
    for kind, ratio in (("white", 2.0), ("pink", 1.0)):
        noise = add_noise(TONE, 0.0, draws_of(0, kind, "clip"), kind).astype(np.float64) - TONE
        power = np.square(np.abs(np.fft.rfft(noise)))
        assert power[2000:4000].sum() / power[1000:2000].sum() == pytest.approx(ratio, rel=0.15)


def test_silence_has_no_ratio_and_stays() -> None:
    silence = np.zeros(100, np.float32)
    np.testing.assert_array_equal(add_noise(silence, 0.0, draws_of(0, "white", "clip")), silence)

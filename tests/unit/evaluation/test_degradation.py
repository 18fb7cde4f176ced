"""What degraded inputs are made of, by known answers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vavl.evaluation.degradation import (
    add_feature_noise,
    add_noise,
    degradations_of,
    draws_of,
    drop_frames,
    shift_frames,
)
from vavl.evaluation.settings import DegradationSettings

FRAMES = np.arange(10, dtype=np.float32)[:, None]
TONE = np.sin(np.arange(16_000) * 2 * np.pi * 440 / 16_000).astype(np.float32)
TIMES = (np.arange(10, dtype=np.float32) + 0.5) * 0.1


@settings(derandomize=True, max_examples=60, deadline=None)
@given(st.integers(1, 40), st.floats(0.01, 0.99), st.integers(0, 5))
def test_a_dropped_frame_shows_the_last_that_arrived(count, share, seed):
    frames = np.arange(count, dtype=np.float32)[:, None]
    shown = drop_frames(frames, share, draws_of(seed, "frames", "clip"))[:, 0]
    arrived = sorted(set(shown.tolist()))
    assert len(shown) == count
    assert len(arrived) == max(1, count - round(share * count))
    for place, value in enumerate(shown):
        before = [one for one in arrived if one <= place]
        assert value == (before[-1] if before else arrived[0])


def test_a_larger_share_drops_what_a_smaller_one_does():
    kept = [set(drop_frames(FRAMES, share, draws_of(0, "frames", "clip"))[:, 0].tolist()) for share in (0.2, 0.5, 0.9)]
    assert kept[0] > kept[1] > kept[2]
    assert [len(each) for each in kept] == [8, 5, 1]


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0.2, [0, 0, 0, 1, 2, 3, 4, 5, 6, 7]),
        (-0.3, [3, 4, 5, 6, 7, 8, 9, 9, 9, 9]),
        (0.12, [0, 0, 1, 2, 3, 4, 5, 6, 7, 8]),
        (50, [0] * 10),
    ],
)
def test_a_shift_shows_what_was_recorded_that_much_earlier(seconds, expected):
    assert shift_frames(FRAMES, TIMES, seconds)[:, 0].tolist() == expected


def test_a_shift_counts_in_seconds_not_in_frames():
    uneven = np.array([0.0, 0.1, 0.2, 1.0, 1.1], dtype=np.float32)
    assert shift_frames(FRAMES[:5], uneven, 0.1)[:, 0].tolist() == [0, 0, 1, 3, 3]
    assert shift_frames(FRAMES[:1], uneven[:1], 0.5)[:, 0].tolist() == [0]


def test_noise_on_features_has_the_stated_deviation_per_channel():
    frames, std = np.zeros((20_000, 2), np.float32), np.array([1.0, 5.0], np.float32)
    noisy = add_feature_noise(frames, 0.5 * std, draws_of(0, "features", "clip"))
    np.testing.assert_allclose(noisy.std(axis=0), [0.5, 2.5], rtol=0.03)
    np.testing.assert_allclose(noisy.mean(axis=0), 0, atol=0.05)


def test_draws_depend_on_seed_kind_and_clip_alone():
    draws = {
        (seed, kind, clip): draws_of(seed, kind, clip).random()
        for seed in (0, 1)
        for kind in ("a", "b")
        for clip in ("x", "y")
    }
    assert len(set(draws.values())) == 8
    assert draws[0, "a", "x"] == draws_of(0, "a", "x").random()


def test_names_are_fit_for_metrics_and_tell_strengths_apart():
    asked = DegradationSettings(
        noise_db=(20, -5), dropped_frames=(0.25,), shifted_s=(0.2, 0, -0.2), feature_noise=(0.5,)
    )
    assert [each.name for each in degradations_of(asked)] == [
        "noise_20db", "noise_-5db", "dropped_frames_0.25", "shifted_0.2s", "shifted_-0.2s", "feature_noise_0.5",
    ]  # fmt: skip
    assert [each.title for each in degradations_of(asked)][3:5] == ["video 0.2 s late", "video 0.2 s early"]


@pytest.mark.parametrize("kind", ["white", "pink"])
@pytest.mark.parametrize("snr_db", [20.0, 0.0, -10.0])
def test_the_ratio_is_the_one_stated(kind, snr_db):
    noisy = add_noise(TONE, snr_db, draws_of(0, kind, "clip"), kind)
    noise = noisy.astype(np.float64) - TONE
    found = 10 * np.log10(np.square(TONE, dtype=np.float64).mean() / np.square(noise).mean())
    assert found == pytest.approx(snr_db, abs=0.01)
    assert noisy.dtype == np.float32


def test_the_same_noise_grows_and_another_clip_has_other_noise():
    weak, strong = (add_noise(TONE, snr_db, draws_of(0, "white", "clip")) - TONE for snr_db in (20.0, 0.0))
    np.testing.assert_allclose(10 * weak, strong, atol=1e-4)
    other = add_noise(TONE, 0.0, draws_of(0, "white", "other")) - TONE
    assert abs(np.corrcoef(strong, other)[0, 1]) < 0.05


def test_pink_noise_has_equal_power_per_octave_and_white_twice_as_much_in_the_next():
    for kind, ratio in (("white", 2.0), ("pink", 1.0)):
        noise = add_noise(TONE, 0.0, draws_of(0, kind, "clip"), kind).astype(np.float64) - TONE
        power = np.square(np.abs(np.fft.rfft(noise)))
        assert power[2000:4000].sum() / power[1000:2000].sum() == pytest.approx(ratio, rel=0.15)


def test_silence_has_no_ratio_and_stays():
    silence = np.zeros(100, np.float32)
    np.testing.assert_array_equal(add_noise(silence, 0.0, draws_of(0, "white", "clip")), silence)

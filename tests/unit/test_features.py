"""Sums and normalization: exact, additive, safe for constant channels, tied to their features."""

from __future__ import annotations

import json

import numpy as np
import pytest

from vavl.errors import StoreError
from vavl.features import ChannelSums, FeatureStatistics, ModalityInfo, Normalisation

INFO = ModalityInfo("log_mel", "1", {"hop_ms": 20.0}, 50.0, 4)


@pytest.fixture
def values() -> np.ndarray:
    return np.random.default_rng(0).normal([0, 5, -300, 1e-4], [1, 2, 3, 1e-5], size=(500, 4)).astype("f4")


def test_sums_of_parts_add_up_to_the_sums_of_the_whole(values):
    whole, parts = ChannelSums.of(values), ChannelSums.of(values[:123]) + ChannelSums.of(values[123:])
    assert parts.count == whole.count == 500
    np.testing.assert_allclose(parts.sum, whole.sum, rtol=1e-12)
    np.testing.assert_allclose(parts.sum_of_squares, whole.sum_of_squares, rtol=1e-12)


def test_sums_of_other_widths_do_not_add_up(values):
    with pytest.raises(StoreError, match="4 and 3 channels"):
        ChannelSums.of(values) + ChannelSums.of(values[:, :3])


def test_normalised_frames_have_mean_0_and_deviation_1(values):
    normalised = Normalisation.from_sums(ChannelSums.of(values)).apply(values)
    np.testing.assert_allclose(normalised.mean(axis=0), 0, atol=1e-3)
    np.testing.assert_allclose(normalised.std(axis=0), 1, rtol=1e-3)
    assert normalised.dtype == np.float32


def test_a_constant_channel_becomes_zeros(values):
    values[:, 1], values[:, 3] = -100.1, 0
    normalised = Normalisation.from_sums(ChannelSums.of(values)).apply(values)
    np.testing.assert_allclose(normalised[:, [1, 3]], 0, atol=1e-4)


def test_normalising_leaves_the_input_alone(values):
    before = values.copy()
    values.flags.writeable = False
    Normalisation.from_sums(ChannelSums.of(values)).apply(values)
    np.testing.assert_array_equal(values, before)


def test_no_frames_give_no_normalisation():
    with pytest.raises(StoreError, match="no frames"):
        Normalisation.from_sums(ChannelSums.of(np.zeros((0, 4), np.float32)))


def test_statistics_survive_json(values):
    statistics = FeatureStatistics.of("small", "audio", INFO, ChannelSums.of(values))
    again = FeatureStatistics.from_dict(json.loads(json.dumps(statistics.to_dict())))
    np.testing.assert_array_equal(again.normalisation.mean, statistics.normalisation.mean)
    np.testing.assert_array_equal(again.normalisation.std, statistics.normalisation.std)
    again.check("small", INFO)


@pytest.mark.parametrize(
    ("corpus", "info", "problem"),
    [
        ("large", INFO, "statistics of another corpus: small, the store holds large"),
        ("small", ModalityInfo("log_mel", "1", {"hop_ms": 20.0}, 50.0, 5), "4 channels, the store has 5"),
        ("small", ModalityInfo("log_mel", "1", {"hop_ms": 10.0}, 100.0, 4), "statistics of other features"),
        ("small", ModalityInfo("wav2vec", "1", {"hop_ms": 20.0}, 50.0, 4), "statistics of other features"),
    ],
)
def test_statistics_of_something_else_are_refused(values, corpus, info, problem):
    statistics = FeatureStatistics.of("small", "audio", INFO, ChannelSums.of(values))
    with pytest.raises(StoreError, match=problem):
        statistics.check(corpus, info)


@pytest.mark.parametrize(
    "change",
    [{"mean": None}, {"mean": [0.0]}, {"std": [1, 1, 1, 0]}, {"std": [1, 1, 1, float("inf")]}, {"mean": ["a"]}],
)
def test_broken_statistics_are_refused(values, change):
    content = FeatureStatistics.of("small", "audio", INFO, ChannelSums.of(values)).to_dict()
    with pytest.raises(StoreError, match="feature statistics"):
        FeatureStatistics.from_dict({**content, **change})


def test_clips_and_frames_do_not_change_the_provenance():
    assert INFO.provenance == ModalityInfo("log_mel", "1", {"hop_ms": 20.0}, 50.0, 4, (), 7, 8).provenance

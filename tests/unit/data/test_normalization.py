"""Normalization of features: common, and per speaker."""

from __future__ import annotations

import numpy as np

from vavl.data.normalization import Normaliser
from vavl.features import ChannelSums, Normalisation


def test_a_speaker_without_own_sums_gets_the_common_ones():
    one, two = (ChannelSums.of(np.random.default_rng(seed).normal(size=(9, 2)).astype(np.float32)) for seed in (0, 1))
    normaliser = Normaliser(Normalisation.from_sums(one), {3: Normalisation.from_sums(two)})
    values = np.ones((4, 2), np.float32)
    assert np.array_equal(normaliser.apply(values, 3), normaliser.by_speaker[3].apply(values))
    assert np.array_equal(normaliser.apply(values, 2), normaliser.common.apply(values))

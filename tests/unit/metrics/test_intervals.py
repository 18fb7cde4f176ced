"""Intervals over speakers."""

from __future__ import annotations

import numpy as np

from vavl.metrics.intervals import speaker_interval


def test_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    hits = 0
    for _ in range(100):
        # 20 speakers of different talent, 30 clips each; the truth is the mean talent, 0.6.
        talent = generator.uniform(0.4, 0.8, size=20)
        right = (generator.random((20, 30)) < talent[:, None]).astype(float).ravel()
        low, high = speaker_interval(
            right, [f"s{clip // 30}" for clip in range(600)], np.random.default_rng(1)
        )
        hits += low <= 0.6 <= high
    assert 85 <= hits <= 100


def test_speakers_not_clips_decide_the_width() -> None:
    # Two speakers, one always right and one always wrong: a thousand clips each make no certainty.
    right = np.repeat([1.0, 0.0], 1000)
    low, high = speaker_interval(right, ["a"] * 1000 + ["b"] * 1000, np.random.default_rng(0))
    assert (low, high) == (0.0, 1.0)
    alone = speaker_interval(right[:1000], ["a"] * 1000, np.random.default_rng(0))
    assert alone == (1.0, 1.0)

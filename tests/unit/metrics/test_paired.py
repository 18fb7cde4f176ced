"""Paired intervals against cases whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from vavl.metrics.paired import SpeakerSums, difference_interval, fold_scores, gather, score_interval, speaker_interval
from vavl.metrics.scores import class_measures

ACCURACY = class_measures()["accuracy"].statistic


def table(shares: np.ndarray, folds: int = 1) -> SpeakerSums:
    """Accuracies (speakers, seeds) as sums; speakers are dealt to the folds in turn."""
    sums = np.stack([shares, np.ones_like(shares)], axis=-1)
    speakers = [f"s{number:02d}" for number in range(len(shares))]
    return SpeakerSums(np.arange(len(shares)) % folds, speakers, tuple(range(shares.shape[1])), sums)


def test_score_is_the_mean_over_folds_of_the_mean_over_speakers():
    # Fold 0 has three speakers, fold 1 one: both folds count the same.
    runs = {
        (0, 0): {name: np.array([share, 1.0]) for name, share in (("a", 0.2), ("b", 0.4), ("c", 0.9))},
        (0, 1): {name: np.array([share, 1.0]) for name, share in (("a", 0.4), ("b", 0.4), ("c", 0.7))},
        (1, 0): {"d": np.array([1.0, 1.0])},
        (1, 1): {"d": np.array([0.8, 1.0])},
    }
    found = gather(runs)
    assert fold_scores(found, ACCURACY) == {0: pytest.approx(0.5), 1: pytest.approx(0.9)}
    assert score_interval(found, ACCURACY).value == pytest.approx(0.7)
    assert found.runs == 4


def test_one_fold_and_one_seed_agree_with_the_plain_bootstrap_over_speakers():
    shares = np.random.default_rng(0).uniform(0.4, 0.9, size=(24, 1))
    found = score_interval(table(shares), ACCURACY)
    names = [f"s{number}" for number in range(24)]
    low, high = speaker_interval(shares[:, 0], names, np.random.default_rng(1))
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.005)


def test_a_difference_that_is_the_same_for_every_speaker_is_known_exactly():
    shares = np.random.default_rng(1).uniform(0.2, 0.7, size=(16, 3))
    found = difference_interval(table(shares + 0.1, folds=4), table(shares, folds=4), ACCURACY)
    assert (found.value, found.low, found.high) == pytest.approx((0.1, 0.1, 0.1))
    assert found.excludes_zero
    # Unpaired, the two intervals overlap: pairing is what finds it.
    assert (
        score_interval(table(shares + 0.1, folds=4), ACCURACY).low
        < score_interval(table(shares, folds=4), ACCURACY).high
    )


def test_repeating_a_seed_makes_no_interval_narrower():
    scores = np.random.default_rng(2).normal(0.6, 0.1, size=(19, 1))
    one, five = (score_interval(table(values), ACCURACY) for values in (scores, np.repeat(scores, 5, axis=1)))
    assert five.high - five.low == pytest.approx(one.high - one.low, rel=0.05)


def test_equal_sets_differ_by_nothing():
    shares = np.random.default_rng(2).uniform(0.2, 0.7, size=(12, 2))
    found = difference_interval(table(shares, folds=3), table(shares, folds=3), ACCURACY)
    assert (found.value, found.low, found.high) == (0, 0, 0)
    assert not found.excludes_zero


def test_worse_is_found_as_well_as_better():
    shares = np.random.default_rng(3).uniform(0.4, 0.7, size=(12, 2))
    found = difference_interval(table(shares - 0.2), table(shares), ACCURACY)
    assert found.high < 0
    assert found.excludes_zero


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    # Speakers, runs and single values all vary; the truth of the difference is 0.05.
    generator = np.random.default_rng(4)
    hits = {"score": 0, "difference": 0}
    for _ in range(150):
        talent = generator.normal(0.6, 0.1, size=(20, 1)) + generator.normal(0, 0.02, size=(20, 3))
        gain = generator.normal(0.05, 0.04, size=(20, 1))
        first = table(talent + gain + generator.normal(0, 0.02, size=(20, 3)), folds=4)
        second = table(talent, folds=4)
        found = difference_interval(first, second, ACCURACY, draws=1000)
        hits["difference"] += found.low <= 0.05 <= found.high
        score = score_interval(second, ACCURACY, draws=1000)
        hits["score"] += score.low <= 0.6 <= score.high
    # Percentile intervals of 20 speakers are a little narrow.
    assert 0.87 * 150 <= hits["difference"] <= 149
    assert 0.87 * 150 <= hits["score"] <= 149


def test_a_run_that_is_bad_for_all_its_speakers_widens_the_interval():
    # Seeds are drawn for a whole fold: the speakers of one run share its luck.
    speakers = np.full((40, 3), 0.6)
    lucky = speakers + np.array([-0.1, 0.0, 0.1])
    steady = score_interval(table(speakers), ACCURACY)
    assert (steady.low, steady.high) == pytest.approx((0.6, 0.6))
    found = score_interval(table(lucky), ACCURACY)
    assert found.high - found.low > 0.1


def test_missing_runs_are_left_out_of_both_sides_of_a_difference():
    shares = np.random.default_rng(5).uniform(0.2, 0.7, size=(8, 3))
    gain = np.array([0.1, 0.1, 0.5])
    first, second = table(shares + gain, folds=2), table(shares, folds=2)
    second.sums[:, 2] = np.nan
    found = difference_interval(first, second, ACCURACY)
    assert (found.value, found.low, found.high) == pytest.approx((0.1, 0.1, 0.1))
    assert second.runs == 4
    second.sums[:] = np.nan
    assert np.isnan(difference_interval(first, second, ACCURACY).value)
    assert not difference_interval(first, second, ACCURACY).excludes_zero


def test_sets_of_other_seeds_and_folds_are_compared_on_what_they_share():
    shares = np.random.default_rng(6).uniform(0.2, 0.7, size=(8, 3))
    first, second = table(shares, folds=2), table(shares - 0.1, folds=2)
    second = SpeakerSums(second.folds[::2], second.speakers[::2], (0, 1), second.sums[::2, :2])
    found = difference_interval(first, second, ACCURACY)
    assert (found.value, found.low, found.high) == pytest.approx((0.1, 0.1, 0.1))


def test_the_same_call_gives_the_same_interval():
    shares = np.random.default_rng(7).uniform(size=(8, 2))
    assert score_interval(table(shares), ACCURACY) == score_interval(table(shares), ACCURACY)


def test_interval_covers_the_truth_about_as_often_as_it_says():
    generator = np.random.default_rng(0)
    hits = 0
    for _ in range(100):
        # 20 speakers of different talent, 30 clips each; the truth is the mean talent, 0.6.
        talent = generator.uniform(0.4, 0.8, size=20)
        right = (generator.random((20, 30)) < talent[:, None]).astype(float).ravel()
        low, high = speaker_interval(right, [f"s{clip // 30}" for clip in range(600)], np.random.default_rng(1))
        hits += low <= 0.6 <= high
    assert 85 <= hits <= 100


def test_speakers_not_clips_decide_the_width():
    # Two speakers, one always right and one always wrong: a thousand clips each make no certainty.
    right = np.repeat([1.0, 0.0], 1000)
    low, high = speaker_interval(right, ["a"] * 1000 + ["b"] * 1000, np.random.default_rng(0))
    assert (low, high) == (0.0, 1.0)
    alone = speaker_interval(right[:1000], ["a"] * 1000, np.random.default_rng(0))
    assert alone == (1.0, 1.0)

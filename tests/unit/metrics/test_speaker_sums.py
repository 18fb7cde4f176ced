"""Scores from sums over speakers agree with the scores of all clips at once."""

from __future__ import annotations

import numpy as np
import pytest

from vavl.metrics.attributes import absolute_errors, attribute_scores, concordance_of
from vavl.metrics.classes import brier_score, class_scores
from vavl.metrics.speaker_sums import (
    attribute_measures,
    attribute_measures_over_clips,
    class_measures,
    class_measures_over_clips,
)


@pytest.fixture
def predictions() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    predicted = generator.dirichlet(np.ones(4), size=90)
    target = np.eye(4)[generator.integers(3, size=90)]  # the last class never occurs
    return predicted, target, np.arange(90) % 5


@pytest.mark.parametrize("name", ["f1_macro", "uar", "accuracy"])
def test_class_scores(name: str, predictions: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    predicted, target, speaker = predictions
    measure = class_measures()[name]
    sums = sum(measure.sums(predicted[speaker == code], target[speaker == code]) for code in range(5))
    # Equal numbers of clips: accuracy by speaker is that of all clips.
    assert measure.statistic(sums) == pytest.approx(class_scores(predicted, target)[name])


def test_accuracy_counts_speakers_not_clips() -> None:
    measure = class_measures()["accuracy"]
    right, wrong = np.eye(2)[[0]], np.eye(2)[[1]]
    sums = measure.sums(np.repeat(right, 9, axis=0), np.repeat(right, 9, axis=0)) + measure.sums(right, wrong)
    assert measure.statistic(sums) == 0.5


def test_concordance() -> None:
    generator = np.random.default_rng(1)
    target = generator.normal(size=(60, 2))
    predicted = 0.5 * target + generator.normal(size=(60, 2)) + 0.3
    measures = attribute_measures(("arousal", "valence"))
    truth = concordance_of(predicted, target)
    for name, value in (("ccc_arousal", truth[0]), ("ccc_valence", truth[1]), ("ccc_mean", truth.mean())):
        measure = measures[name]
        sums = measure.sums(predicted[:20], target[:20]) + measure.sums(predicted[20:], target[20:])
        assert measure.statistic(sums) == pytest.approx(value)


def test_no_clip_gives_no_score() -> None:
    for name, measure in class_measures().items():
        width = 2 if name == "accuracy" else 9
        assert np.isnan(measure.statistic(np.zeros(width)))
    assert np.isnan(attribute_measures(("a",))["ccc_mean"].statistic(np.zeros(6)))


def test_measures_over_clips_are_the_scores_of_all_clips_though_speakers_have_unequal_many(
    predictions: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> None:
    predicted, target, _ = predictions
    expected = {**class_scores(predicted, target), "brier": brier_score(predicted, target)}
    for name, measure in class_measures_over_clips().items():
        sums = measure.sums(predicted[:7], target[:7]) + measure.sums(predicted[7:], target[7:])
        assert measure.statistic(sums) == pytest.approx(expected[name]), name
    values, names = target + 0.1 * predicted, ("arousal", "valence", "dominance", "power")
    expected = {**attribute_scores(predicted, values, names), **absolute_errors(predicted, values, names)}
    found = attribute_measures_over_clips(names)
    assert {"ccc_mean", "rmse_valence", "mae_power"} < set(found)
    for name, measure in found.items():
        sums = measure.sums(predicted[:7], values[:7]) + measure.sums(predicted[7:], values[7:])
        assert measure.statistic(sums) == pytest.approx(expected[name]), name

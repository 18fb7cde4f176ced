"""Scores of classes and attributes, and as functions of sums over speakers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    brier_score_loss,
    confusion_matrix,
    f1_score,
    log_loss,
    precision_recall_fscore_support,
)

from vavl.metrics.scores import (
    attribute_measures,
    attribute_measures_over_clips,
    attribute_scores,
    class_measures,
    class_measures_over_clips,
    class_scores,
    concordance_of,
    confusion_counts,
    scores_of_classes,
    scores_over_clips,
)


@pytest.fixture(params=range(4))
def drawn(request):
    """Draw probabilities (clips, 5) and targets; not every class need occur."""
    generator = np.random.default_rng(request.param)
    probabilities = generator.dirichlet(np.ones(5), size=40)
    target = np.eye(5)[generator.integers(0, 3 + request.param % 3, size=40)]
    return probabilities, target


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
def test_scores_are_those_of_scikit_learn(drawn):
    probabilities, target = drawn
    truth, predicted = target.argmax(1), probabilities.argmax(1)
    scores = class_scores(probabilities, target)
    assert scores["accuracy"] == pytest.approx(accuracy_score(truth, predicted))
    assert scores["uar"] == pytest.approx(balanced_accuracy_score(truth, predicted))
    for average in ("macro", "micro"):
        f1 = f1_score(truth, predicted, labels=np.arange(5), average=average, zero_division=0)
        assert scores[f"f1_{average}"] == pytest.approx(f1)
    assert scores["loss"] == log_loss(truth, probabilities, labels=np.arange(5))
    assert np.array_equal(confusion_counts(probabilities, target), confusion_matrix(truth, predicted, labels=range(5)))


def test_permuting_the_classes_changes_no_score(drawn):
    probabilities, target = drawn
    order = np.array([3, 0, 4, 1, 2])
    before, after = (class_scores(probabilities, target), class_scores(probabilities[:, order], target[:, order]))
    assert before.keys() == after.keys()
    for name, value in before.items():
        assert after[name] == pytest.approx(value, abs=1e-12), name
    turned = confusion_counts(probabilities[:, order], target[:, order])
    assert np.array_equal(turned, confusion_counts(probabilities, target)[np.ix_(order, order)])


def test_a_known_table():
    truth = [0, 0, 0, 1, 1, 2]
    predicted = [0, 0, 1, 1, 1, 0]
    probabilities = np.eye(3)[predicted] * 0.97 + 0.01
    scores = class_scores(probabilities, np.eye(3)[truth])
    assert scores["accuracy"] == pytest.approx(4 / 6)
    assert scores["uar"] == pytest.approx((2 / 3 + 1 + 0) / 3)
    assert scores["f1_macro"] == pytest.approx((2 / 3 + 0.8 + 0) / 3)
    table = confusion_counts(probabilities, np.eye(3)[truth])
    assert table.tolist() == [[2, 1, 0], [0, 2, 0], [1, 0, 0]]


def test_votes_count_by_their_majority():
    votes = np.array([[0.5, 0.3, 0.2], [0.1, 0.3, 0.6]])
    assert class_scores(np.eye(3)[[0, 2]] * 0.97 + 0.01, votes)["accuracy"] == 1


def test_the_table_has_all_classes_even_those_that_do_not_occur():
    assert confusion_counts(np.eye(4)[:1], np.eye(4)[:1]).shape == (4, 4)


def test_a_certain_and_wrong_prediction_has_a_finite_loss():
    scores = class_scores(np.array([[1.0, 0.0], [1.0, 0.0]]), np.array([[1.0, 0.0], [0.0, 1.0]]))
    assert np.isfinite(scores["loss"])
    assert scores["accuracy"] == 0.5


def test_no_clips_have_no_scores():
    assert class_scores(np.zeros((0, 3)), np.zeros((0, 3))) == {}
    assert attribute_scores(np.zeros((0, 2)), np.zeros((0, 2)), ["arousal", "valence"]) == {}


def test_perfectly_calibrated_predictions_have_no_calibration_error():
    confidence = np.repeat([0.6, 0.8], 10)
    right = np.r_[np.arange(10) < 6, np.arange(10) < 8]
    probabilities = np.stack([confidence, 1 - confidence], axis=1)
    truth = np.eye(2)[np.where(right, 0, 1)]
    assert class_scores(probabilities, truth)["calibration_error"] == pytest.approx(0, abs=1e-12)
    turned = class_scores(probabilities, 1 - truth)["calibration_error"]
    assert turned == pytest.approx(0.5 * (0.6 - 0.4) + 0.5 * (0.8 - 0.2))


def test_full_confidence_falls_into_the_last_bin():
    scores = class_scores(np.array([[1.0, 0.0]] * 4), np.eye(2)[[0, 0, 0, 1]])
    assert scores["calibration_error"] == pytest.approx(0.25)


def brier_score(probabilities, target):
    return scores_over_clips(class_measures_over_clips(), probabilities, target)["brier"]


def test_brier_score_by_hand_and_as_scikit_learn_says():
    probabilities = np.array([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8], [0.0, 1.0, 0.0]])
    target = np.eye(3)[[0, 1, 1]]
    by_hand = ((0.09 + 0.04 + 0.01) + (0.01 + 0.81 + 0.64) + 0) / 3
    assert brier_score(probabilities, target) == pytest.approx(by_hand)
    two = np.random.default_rng(0).dirichlet(np.ones(2), size=50)
    truth = np.random.default_rng(1).integers(0, 2, size=50)
    # scikit-learn states one class of two; both miss by the same.
    assert brier_score(two, np.eye(2)[truth]) == pytest.approx(2 * brier_score_loss(truth, two[:, 1]))


def test_scores_of_classes_are_those_of_scikit_learn(drawn):
    probabilities, target = drawn
    truth, predicted = target.argmax(1), probabilities.argmax(1)
    precision, recall, f1, clips = precision_recall_fscore_support(
        truth, predicted, labels=range(5), zero_division=np.nan
    )
    found = scores_of_classes(confusion_counts(probabilities, target))
    np.testing.assert_allclose([one.precision for one in found], precision)
    np.testing.assert_allclose([one.recall for one in found], recall)
    np.testing.assert_allclose([one.f1 for one in found], np.nan_to_num(f1))
    assert [one.clips for one in found] == clips.tolist()
    assert sum(one.predicted for one in found) == len(truth)


values = st.lists(st.tuples(st.floats(-5, 5), st.floats(-5, 5)), min_size=3, max_size=20)


@settings(derandomize=True, max_examples=50, deadline=None)
@given(values)
def test_it_is_at_most_the_correlation(pairs):
    p, y = (column[:, None] for column in np.array(pairs).T)
    ccc = concordance_of(p, y)[0]
    assert np.isfinite(ccc)
    if p.std() > 1e-3 and y.std() > 1e-3:
        assert abs(ccc) <= abs(np.corrcoef(p[:, 0], y[:, 0])[0, 1]) + 1e-9


def test_it_is_1_for_equal_values_and_below_1_for_others():
    y = np.random.default_rng(0).normal(size=(20, 3))
    np.testing.assert_allclose(concordance_of(y, y), 1)
    np.testing.assert_allclose(concordance_of(-y + 2 * y.mean(0), y), -1)
    for other in (y + 0.1, y * 1.1, y * 0.9):
        assert (concordance_of(other, y) < 1 - 1e-4).all()


@pytest.mark.parametrize("shift", [-2.0, 0.3, 5.0])
def test_a_shift_has_its_closed_form(shift):
    y = np.random.default_rng(0).normal(scale=1.7, size=(50, 1))
    expected = 1 / (1 + shift**2 / (2 * y.var()))
    assert concordance_of(y + shift, y)[0] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("constant", [0.0, 3.0])
def test_a_constant_prediction_scores_0(constant):
    y = np.random.default_rng(0).normal(size=(20, 1))
    assert concordance_of(np.full_like(y, constant), y)[0] == pytest.approx(0, abs=1e-12)
    assert concordance_of(np.full_like(y, constant), np.full_like(y, constant))[0] == 0


def test_scores_by_name():
    generator = np.random.default_rng(0)
    y, p = generator.normal(size=(2, 30, 2))
    scores = attribute_scores(p, y, ["arousal", "valence"])
    ccc = concordance_of(p, y)
    assert scores["ccc_arousal"] == ccc[0]
    assert scores["ccc_valence"] == ccc[1]
    assert scores["ccc_mean"] == pytest.approx(ccc.mean())
    assert scores["loss"] == pytest.approx((1 - ccc).sum())
    assert scores["rmse_valence"] == pytest.approx(np.sqrt(np.mean((p[:, 1] - y[:, 1]) ** 2)))


@pytest.fixture
def predictions():
    generator = np.random.default_rng(0)
    predicted = generator.dirichlet(np.ones(4), size=90)
    target = np.eye(4)[generator.integers(3, size=90)]  # the last class never occurs
    return predicted, target, np.arange(90) % 5


@pytest.mark.parametrize("name", ["f1_macro", "uar", "accuracy"])
def test_class_scores(name, predictions):
    predicted, target, speaker = predictions
    measure = class_measures()[name]
    sums = sum(measure.sums(predicted[speaker == code], target[speaker == code]) for code in range(5))
    # Equal numbers of clips: accuracy by speaker is that of all clips.
    assert measure.statistic(sums) == pytest.approx(class_scores(predicted, target)[name])


def test_accuracy_counts_speakers_not_clips():
    measure = class_measures()["accuracy"]
    right, wrong = np.eye(2)[[0]], np.eye(2)[[1]]
    sums = measure.sums(np.repeat(right, 9, axis=0), np.repeat(right, 9, axis=0)) + measure.sums(right, wrong)
    assert measure.statistic(sums) == 0.5


def test_concordance():
    generator = np.random.default_rng(1)
    target = generator.normal(size=(60, 2))
    predicted = 0.5 * target + generator.normal(size=(60, 2)) + 0.3
    measures = attribute_measures(("arousal", "valence"))
    truth = concordance_of(predicted, target)
    for name, value in (("ccc_arousal", truth[0]), ("ccc_valence", truth[1]), ("ccc_mean", truth.mean())):
        measure = measures[name]
        sums = measure.sums(predicted[:20], target[:20]) + measure.sums(predicted[20:], target[20:])
        assert measure.statistic(sums) == pytest.approx(value)


def test_no_clip_gives_no_score():
    for name, measure in class_measures().items():
        width = 2 if name == "accuracy" else 9
        assert np.isnan(measure.statistic(np.zeros(width)))
    assert np.isnan(attribute_measures(("a",))["ccc_mean"].statistic(np.zeros(6)))


def test_measures_over_clips_are_the_scores_of_all_clips_though_speakers_have_unequal_many(predictions):
    predicted, target, _ = predictions
    expected = {**class_scores(predicted, target), "brier": brier_score(predicted, target)}
    for name, measure in class_measures_over_clips().items():
        sums = measure.sums(predicted[:7], target[:7]) + measure.sums(predicted[7:], target[7:])
        assert measure.statistic(sums) == pytest.approx(expected[name]), name
    values, names = target + 0.1 * predicted, ("arousal", "valence", "dominance", "power")
    errors = np.abs(predicted - values).mean(axis=0)
    expected = {f"mae_{name}": error for name, error in zip(names, errors, strict=True)}
    expected |= attribute_scores(predicted, values, names)
    found = attribute_measures_over_clips(names)
    assert {"ccc_mean", "rmse_valence", "mae_power"} < set(found)
    for name, measure in found.items():
        sums = measure.sums(predicted[:7], values[:7]) + measure.sums(predicted[7:], values[7:])
        assert measure.statistic(sums) == pytest.approx(expected[name]), name

"""Scores of class predictions."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    brier_score_loss,
    f1_score,
    precision_recall_fscore_support,
    recall_score,
)

from vavl.metrics.classes import brier_score, calibration_error, class_scores, confusion_counts, scores_of_classes


@pytest.fixture(params=range(4))
def drawn(request):
    """Draw probabilities (clips, 5) and targets; not every class need occur."""
    generator = np.random.default_rng(request.param)
    probabilities = generator.dirichlet(np.ones(5), size=40)
    target = np.eye(5)[generator.integers(0, 3 + request.param % 3, size=40)]
    return probabilities, target


def test_f1_micro_equals_accuracy(drawn):
    scores = class_scores(*drawn)
    assert scores["f1_micro"] == pytest.approx(scores["accuracy"], abs=1e-12)


def test_uar_equals_macro_recall(drawn):
    probabilities, target = drawn
    truth, predicted = target.argmax(1), probabilities.argmax(1)
    occurring = np.unique(truth)
    expected = recall_score(truth, predicted, labels=occurring, average="macro")
    assert class_scores(probabilities, target)["uar"] == pytest.approx(expected, abs=1e-12)


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
def test_scores_are_those_of_scikit_learn(drawn):
    probabilities, target = drawn
    truth, predicted = target.argmax(1), probabilities.argmax(1)
    scores = class_scores(probabilities, target)
    assert scores["accuracy"] == pytest.approx(accuracy_score(truth, predicted))
    assert scores["uar"] == pytest.approx(balanced_accuracy_score(truth, predicted))
    macro = f1_score(truth, predicted, labels=np.arange(5), average="macro", zero_division=0)
    assert scores["f1_macro"] == pytest.approx(macro)
    likelihood = probabilities[np.arange(len(truth)), truth]
    assert scores["loss"] == pytest.approx(-np.log(likelihood).mean())


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


def test_perfectly_calibrated_predictions_have_no_calibration_error():
    confidence = np.repeat([0.6, 0.8], 10)
    right = np.r_[np.arange(10) < 6, np.arange(10) < 8]
    probabilities = np.stack([confidence, 1 - confidence], axis=1)
    truth = np.where(right, 0, 1)
    assert calibration_error(probabilities, truth) == pytest.approx(0, abs=1e-12)
    assert calibration_error(probabilities, 1 - truth) == pytest.approx(0.5 * (0.6 - 0.4) + 0.5 * (0.8 - 0.2))


def test_full_confidence_falls_into_the_last_bin():
    assert calibration_error(np.array([[1.0, 0.0]] * 4), np.array([0, 0, 0, 1])) == pytest.approx(0.25)


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

"""Labels from probabilities: classes left out, other class shares, and no label below a confidence."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import log_softmax, softmax

from vavl.errors import ConfigError
from vavl.models.settings import AttributeTask, ClassTask, DecisionSettings, decision_of, decision_settings

TASK = ClassTask(classes=("calm", "glad", "mad"))
STORED = (0.6, 0.3, 0.1)
ROWS = np.array([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7], [np.nan] * 3])


def decide(rows=ROWS, stored=STORED, **settings):
    decision = decision_of(DecisionSettings(**settings), TASK, stored)
    assert decision is not None
    return decision.apply(rows)


def test_nothing_asked_for_is_nothing_done():
    assert decision_of(DecisionSettings(), TASK, None) is None
    assert decision_of(DecisionSettings(), AttributeTask(), None) is None


def test_probabilities_are_those_of_the_chosen_classes_alone():
    values, labels, reasons = decide(classes=("mad", "glad"))
    np.testing.assert_allclose(values[:2], [[0, 0.6, 0.4], [0, 2 / 9, 7 / 9]])
    assert labels == ["glad", "mad", None]
    assert reasons == ["", "", ""]
    assert np.isnan(values[2]).all()


def test_below_the_confidence_there_is_no_label_and_a_reason():
    values, labels, reasons = decide(abstain_below=0.6)
    np.testing.assert_allclose(values[:2], ROWS[:2])
    assert labels == [None, "mad", None]
    assert reasons == ["below confidence (0.500 < 0.6)", "", ""]


def test_a_confidence_counts_after_the_other_two():
    _, labels, _ = decide(classes=("calm", "glad"), abstain_below=0.6)
    assert labels == ["calm", "glad", None]


@pytest.mark.parametrize("stored", [STORED, None])
def test_other_shares_are_the_adjustment_of_logits(stored):
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(50, 3)) * 3
    target = {"calm": 1, "glad": 1, "mad": 2}  # in any unit
    given = {} if stored else {"training_shares": dict(zip(TASK.classes, STORED, strict=True))}
    values, labels, _ = decide(softmax(logits, axis=1), stored, class_shares=target, **given)
    adjusted = logits - np.log(STORED) + np.log([0.25, 0.25, 0.5])
    np.testing.assert_allclose(values, softmax(adjusted, axis=1), atol=1e-12)
    assert labels == [TASK.classes[place] for place in adjusted.argmax(axis=1)]


def test_the_right_shares_make_a_shifted_sample_better_classified():
    """Bayes' rule on a made-up corpus: posteriors of one prior, clips of another."""
    generator = np.random.default_rng(1)
    target = np.array([0.1, 0.1, 0.8])
    truth = generator.choice(3, size=4000, p=target)
    seen = truth + generator.normal(size=4000) * 0.8
    likelihood = -((seen[:, None] - np.arange(3)) ** 2) / (2 * 0.8**2)
    posterior = np.exp(log_softmax(likelihood + np.log(STORED), axis=1))
    shares = dict(zip(TASK.classes, target, strict=True))
    right = [
        np.mean([TASK.classes.index(label) for label in labels] == truth)
        for _, labels, _ in (decide(posterior, abstain_below=1e-9), decide(posterior, class_shares=shares))
    ]
    assert right[1] > right[0] + 0.1


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"classes": ("calm", "gald")}, "no class 'gald'; it has calm, glad, mad\n  fix: did you mean 'glad'"),
        ({"class_shares": {"calm": 1, "made": 1}}, "no class 'made'.*\n.*'mad'"),
        ({"classes": ("calm", "calm")}, "a class stands there twice"),
        ({"class_shares": {"calm": 1, "mad": 1}}, "class_shares: no share of glad"),
        ({"class_shares": {"calm": 1, "mad": 1}, "classes": ("calm", "glad")}, "no share of glad"),
        ({"training_shares": {"calm": 1, "mad": 1, "glad": 1}}, "counts next to class_shares alone"),
    ],
)
def test_what_cannot_be_chosen_is_named(settings, problem):
    with pytest.raises(ConfigError, match=problem):
        decide(**settings)


def test_shares_need_those_of_the_training_run_and_a_model_of_classes():
    settings = DecisionSettings(class_shares={"calm": 1, "glad": 1, "mad": 1})
    with pytest.raises(ConfigError, match=r"does not state .*\n.*training_shares"):
        decision_of(settings, TASK, None)
    with pytest.raises(ConfigError, match="predicts attributes, not classes"):
        decision_of(settings, AttributeTask(), None)


def test_values_from_outside_are_checked():
    assert decision_settings({"abstain_below": 0.5}, "params").abstain_below == 0.5
    for given in ({"abstain_below": 2}, {"classes": ["calm"]}, {"class_shares": {"calm": 0}}, {"klasses": []}):
        with pytest.raises(ConfigError, match=f"params: {next(iter(given))}"):
            decision_settings(given, "params")

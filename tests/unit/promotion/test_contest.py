"""Two models on the same clips, unseen by both, and the rule: who wins, who does not, and what the reader is told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from vavl.config.load import validate
from vavl.errors import ConfigError, InputError, TrainingError
from vavl.evaluation.settings import ClipSelection
from vavl.metrics.names import CONDITIONS
from vavl.metrics.scores import concordance_of
from vavl.models.saved_model import SavedModel
from vavl.models.settings import AttributeTask, ClassTask
from vavl.promotion.contest import ConditionVerdict, Contestant, Verdict, judge, open_same_clips, predict_same_clips
from vavl.promotion.settings import PromotionRule
from vavl.training.evaluation import SplitPredictions

Trained = Callable[..., Any]
TASK = ClassTask(classes=("calm", "glad", "mad"))
SPEAKERS, EACH = 8, 30
NAMES = [f"s{number}" for number in np.repeat(np.arange(SPEAKERS), EACH)]
ALL = frozenset(CONDITIONS)


def says(right: dict[str, float], seed: int = 0, without: str = "") -> SplitPredictions:
    """Predictions that are right on a share of the clips, by condition; the labels are always the same."""
    clips = SPEAKERS * EACH
    truth = np.random.default_rng(99).integers(3, size=clips)
    generator = np.random.default_rng(seed)
    predicted = {}
    for condition in CONDITIONS:
        is_right = generator.random(clips) < right.get(condition, 0.6)
        predicted[condition] = np.eye(3)[np.where(is_right, truth, (truth + 1) % 3)]
    counts = {condition: np.full(clips, without not in condition or not without) for condition in CONDITIONS}
    return SplitPredictions(np.arange(clips), predicted, counts, np.eye(3)[truth])


def verdict_of(
    challenger: dict[str, float],
    champion: dict[str, float] | None,
    trained: tuple[frozenset[str], frozenset[str]] = (ALL, ALL),
    **rule: Any,
) -> Verdict:
    """The verdict on two models that are right on these shares of the clips."""
    other = None if champion is None else Contestant(says(champion, seed=2), trained[1])
    settings = validate(PromotionRule, rule, "rule")
    return judge(Contestant(says(challenger, seed=1), trained[0]), other, NAMES, TASK, settings)


def entry(verdict: Verdict, condition: str) -> ConditionVerdict:
    return next(one for one in verdict.conditions if one.condition == condition)


def test_better_with_both_and_worse_with_audio_alone_is_refused():
    verdict = verdict_of({"audio_video": 0.9, "audio": 0.4}, {"audio_video": 0.6, "audio": 0.6})
    assert not verdict.holds
    assert entry(verdict, "audio_video").holds
    assert entry(verdict, "audio").holds is False
    assert len([reason for reason in verdict.reasons if reason.startswith("audio: lower end -0.")]) == 1


def test_better_with_both_and_no_worse_otherwise_is_promoted():
    verdict = verdict_of({"audio_video": 0.9, "audio": 0.62, "video": 0.65}, {}, audio={"tolerated_loss": 0.1})
    assert verdict.holds
    assert verdict.reasons == ()
    measured = entry(verdict, "audio_video").measured
    assert measured.difference.value == pytest.approx(measured.challenger.value - measured.other.value)
    assert {(one.condition, one.metric) for one in verdict.differences} == {
        (condition, metric) for condition in CONDITIONS for metric in ("accuracy", "f1_macro", "uar")
    }


def test_the_lower_end_decides_and_not_the_difference():
    # 3 points more on 240 clips may be chance, however the rule is called.
    verdict = verdict_of({"audio_video": 0.63}, {"audio_video": 0.6}, audio=None, video=None)
    measured = entry(verdict, "audio_video").measured
    assert measured.difference.low < 0 < measured.difference.high
    assert not verdict.holds
    surely = {"audio_video": {"needed_gain": 0.1}, "audio": None, "video": None}
    assert verdict_of({"audio_video": 0.95}, {"audio_video": 0.6}, **surely).holds
    assert not verdict_of({"audio_video": 0.75}, {"audio_video": 0.6}, **surely).holds


def test_the_same_model_twice_neither_gains_nor_loses():
    same = Contestant(says({}), ALL)
    asks_gain = judge(same, same, NAMES, TASK, PromotionRule())
    assert [one.holds for one in asks_gain.conditions] == [False, True, True]
    losing = {name: {"tolerated_loss": 0.01} for name in CONDITIONS}
    assert judge(same, same, NAMES, TASK, validate(PromotionRule, losing, "rule")).holds


def test_confidence_and_metric_may_differ_by_condition():
    rule: dict[str, Any] = {
        "metric": "uar", "confidence": 0.9, "video": None,
        "audio": {"tolerated_loss": 0.2, "metric": "accuracy", "confidence": 0.6},
    }  # fmt: skip
    verdict = verdict_of({"audio_video": 0.9}, {}, **rule)
    assert [(one.metric, one.confidence) for one in verdict.conditions] == [
        ("uar", 0.9), ("accuracy", 0.6), ("uar", 0.9),
    ]  # fmt: skip
    wide = entry(verdict_of({"audio_video": 0.9}, {}, metric="uar", confidence=0.99), "audio_video").measured
    narrow = entry(verdict, "audio_video").measured
    assert wide.difference.low < narrow.difference.low
    assert entry(verdict, "video").holds is None
    assert entry(verdict, "video").reason == "shown, not asked"


@pytest.mark.parametrize(
    ("share", "first", "holds"),
    [(0.8, "beat_chance", True), (0.34, "beat_chance", False), (0.2, "promote", True), (0.9, "refuse", False)],
)
def test_the_first_champion(share, first, holds):
    verdict = verdict_of(dict.fromkeys(CONDITIONS, share), None, first=first)
    assert verdict.holds is holds
    assert verdict.is_first
    assert all(one.measured and one.measured.opponent == "constant" for one in verdict.conditions)
    if first != "beat_chance":
        assert f"rule.first is {first}" in verdict.reasons[0]


def test_a_constant_answer_is_the_most_frequent_class():
    verdict = verdict_of({}, None)
    measured = entry(verdict, "audio").measured
    truth = says({}).target.argmax(axis=1)
    assert measured.other.value == pytest.approx(np.bincount(truth).max() / len(truth))


def test_conditions_that_a_model_was_not_trained_for():
    pictures, no_pictures = ALL, frozenset({"audio"})
    rule = {"audio_video": {"tolerated_loss": 0.05}, "audio": {"needed_gain": 0}}
    lost = verdict_of({"audio": 0.9}, {}, (no_pictures, pictures), **rule)
    assert entry(lost, "video").reason == "the challenger was not trained for it"
    assert entry(lost, "video").measured is None
    assert [one.holds for one in lost.conditions] == [False, True, False]
    neither = verdict_of({"audio": 0.9}, {}, (no_pictures, no_pictures), **rule)
    assert [one.holds for one in neither.conditions] == [True, True, True]
    assert entry(neither, "video").reason == "neither model was trained for it"
    gained = verdict_of({"audio": 0.9, "video": 0.3}, {}, (pictures, no_pictures), **rule)
    # Nothing to lose against, but the challenger knows no more of pictures than a constant answer does.
    assert [one.holds for one in gained.conditions] == [True, True, False]
    assert "against one constant answer" in entry(gained, "video").reason


def test_too_few_speakers_promote_nothing():
    verdict = verdict_of({"audio_video": 0.9}, {}, least_speakers=9)
    assert not verdict.holds
    assert "8 speakers are too few, rule.least_speakers is 9" in verdict.reasons[0]


def test_a_condition_without_clips_cannot_hold():
    challenger, champion = (Contestant(says({"audio": 0.9}, seed, without="video"), ALL) for seed in (1, 2))
    verdict = judge(challenger, champion, NAMES, TASK, PromotionRule())
    assert entry(verdict, "video").reason == "no labeled clip has video"
    assert entry(verdict, "audio_video").holds is False


def test_attributes_are_compared_by_concordance():
    task = AttributeTask(attributes=("arousal", "valence"))
    generator = np.random.default_rng(0)
    target = generator.normal(size=(240, 2))

    def model(noise: float) -> Contestant:
        predicted = target + noise * generator.normal(size=target.shape)
        counts = {condition: np.ones(240, np.bool_) for condition in CONDITIONS}
        return Contestant(SplitPredictions(np.arange(240), dict.fromkeys(CONDITIONS, predicted), counts, target), ALL)

    better, worse = model(0.2), model(1.0)
    verdict = judge(better, worse, NAMES, task, PromotionRule())
    assert verdict.holds
    measured = entry(verdict, "audio").measured
    assert measured.metric == "ccc_mean"
    assert measured.challenger.value == pytest.approx(
        concordance_of(better.predictions.predicted["audio"], target).mean()
    )
    assert not judge(worse, better, NAMES, task, PromotionRule()).holds
    assert judge(better, None, NAMES, task, PromotionRule()).holds


def test_a_prediction_that_is_not_finite_is_no_score():
    broken = says({})
    broken.predicted["audio"][3] = np.nan
    with pytest.raises(TrainingError, match="a prediction is not finite"):
        judge(Contestant(broken, ALL), None, NAMES, TASK, PromotionRule())


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"audio": {}}, "give either needed_gain or tolerated_loss"),
        ({"audio": {"needed_gain": 0, "tolerated_loss": 0}}, "give either needed_gain or tolerated_loss"),
        ({"audio_video": None, "audio": None, "video": None}, "asks nothing of any condition"),
        ({"audio": {"tolerated_loss": -0.1}}, "greater than or equal to 0"),
    ],
)
def test_a_rule_that_says_nothing_clear_is_refused(rule, message):
    with pytest.raises(ConfigError, match=message):
        validate(PromotionRule, rule, "rule")


def test_a_metric_of_another_task_is_refused():
    with pytest.raises(ConfigError, match=r"ccc_mean is no metric of these models\n.* accuracy, f1_macro, uar"):
        verdict_of({}, {}, metric="ccc_mean")


@pytest.fixture
def model(trained):
    return trained().model()


@pytest.fixture
def store(trained):
    return trained().store


def with_provenance(model: SavedModel, **changes: Any) -> SavedModel:
    provenance = {**model.description.provenance, **changes}
    return SavedModel(model.network, model.description.model_copy(update={"provenance": provenance}))


def test_both_see_the_same_clips_and_their_hash_tells_them(trained, model):
    other = trained(training={"seed": 5}).model()
    clips = open_same_clips({"a": model, "b": other}, ClipSelection(store=trained().store, split="test"))
    assert clips.unknown == ()
    assert set(clips.speakers) == {"s6", "s7"}
    both = predict_same_clips({"a": model, "b": other}, clips)
    assert list(both) == ["a", "b"]
    assert np.array_equal(both["a"].predictions.rows, both["b"].predictions.rows)
    assert both["a"].trained == {"audio_video", "audio", "video"}
    again = open_same_clips({"b": other}, ClipSelection(store=trained().store, split="test"))
    assert again.hash == clips.hash
    validation = open_same_clips({"b": other}, ClipSelection(store=trained().store, split="validation"))
    assert validation.hash != clips.hash


@pytest.mark.parametrize("split", ["train", "all"])
def test_clips_that_a_model_was_trained_on_are_refused(model, store, split):
    with pytest.raises(InputError, match=r"b: data: was trained on \d+ of these \d+ clips \(fold 0\)"):
        open_same_clips({"b": model}, ClipSelection(store=store, split=split))


def test_what_another_corpus_shares_is_not_known(model, store):
    elsewhere = with_provenance(model, corpus="elsewhere")
    clips = open_same_clips({"a": model, "b": elsewhere}, ClipSelection(store=store, split="test"))
    assert clips.unknown == ("b",)


def test_models_of_other_things_are_not_compared(trained, model, store):
    measured = {"test": True, "select_by": ["validation/audio_video/ccc_mean"]}
    attributes = trained(data={"target": "attributes"}, evaluation=measured).model()
    with pytest.raises(InputError, match="b: task: predicts arousal, dominance, valence; a predicts calm, glad, mad"):
        open_same_clips({"a": model, "b": attributes}, ClipSelection(store=store, split="test"))

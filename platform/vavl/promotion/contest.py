"""Two models on the same clips, unseen by both: scores, paired differences under three conditions, and the verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from vavl.config.files import sha256_of_json
from vavl.corpora.manifest import TRAIN, VALIDATION
from vavl.errors import ConfigError, InputError, TrainingError
from vavl.evaluation.measure import MeasuredClips, open_clips, predict_clips
from vavl.evaluation.settings import ClipSelection
from vavl.metrics.names import CONDITIONS, MODALITIES_OF
from vavl.metrics.paired import Interval, SpeakerSums, difference_interval, gather, score_interval
from vavl.metrics.scores import SummedScore, attribute_measures, class_measures, sums_of_speakers
from vavl.models.saved_model import ModelDescription, SavedModel
from vavl.models.settings import ClassTask, Task
from vavl.promotion.settings import PromotionRule
from vavl.training.evaluation import SplitPredictions

Opponent = Literal["champion", "constant"]
CONSTANT_ANSWER = "one constant answer: the most frequent class, or the mean of each attribute"


@dataclass(frozen=True)
class Contestant:
    """What one model says of the clips."""

    predictions: SplitPredictions  # of all conditions; its target is in the order of the model's own classes
    trained: frozenset[str]  # conditions that it was trained for; what it says under the others means nothing


@dataclass(frozen=True)
class Difference:
    """One score of both models under one condition, with bootstrap intervals over speakers."""

    condition: str  # how the clips are predicted
    metric: str  # e.g. `uar`
    opponent: Opponent  # whom the challenger is compared with
    challenger: Interval  # challenger, other: scores of both
    other: Interval
    difference: Interval  # challenger minus opponent, paired: both under the same draws of speakers


@dataclass(frozen=True)
class ConditionVerdict:
    """What the rule makes of one condition."""

    condition: str  # how the clips are predicted
    metric: str  # that the rule looks at
    clips: int  # clips, speakers: that have the condition's modalities and a label
    speakers: int
    confidence: float  # of the intervals
    measured: Difference | None  # scores and difference; None where nothing can be measured
    threshold: float | None  # what the lower end of the difference must exceed; None where nothing is asked
    holds: bool | None  # None where nothing is asked
    reason: str  # one line for people


@dataclass(frozen=True)
class Verdict:
    """What the rule says of a challenger."""

    holds: bool  # the challenger may become champion
    is_first: bool  # there was no champion
    reasons: tuple[str, ...]  # why not, or why in spite of the scores
    conditions: tuple[ConditionVerdict, ...]  # in the order of every table
    differences: tuple[Difference, ...]  # of all measures, for the reader; only those in `conditions` count


def check_metrics(rule: PromotionRule, task: Task) -> None:
    """Refuse a rule whose metrics do not fit what is predicted.

    Raises:
        ConfigError: names the metrics that do.
    """
    known = _measures(task)
    for condition in CONDITIONS:
        metric = rule.metric_of(condition)
        if metric is not None and metric not in known:
            fix = f"choose one of {', '.join(known)}"
            raise ConfigError("configuration", f"rule.{condition}", f"{metric} is no metric of these models", fix)


def judge(
    challenger: Contestant, champion: Contestant | None, speakers: Sequence[str], task: Task, rule: PromotionRule
) -> Verdict:
    """Compare two models on the same clips and apply the rule.

    ``champion`` is None while there is none; its predictions are of the same clips in the same order.

    Raises:
        ConfigError: the rule names a metric that the task does not have.
        TrainingError: a prediction is not finite.
    """
    check_metrics(rule, task)
    contest = _Contest(challenger, champion, np.asarray(speakers), _measures(task), rule)
    conditions = tuple(contest.verdict(condition) for condition in CONDITIONS)
    failed = [f"{entry.condition.replace('_', ' + ')}: {entry.reason}" for entry in conditions if entry.holds is False]
    match rule.first if champion is None else None:
        case "promote":
            holds, reasons = (True, ["there is no champion yet, and rule.first is promote: scores do not count"])
        case "refuse":
            holds, reasons = False, ["there is no champion yet, and rule.first is refuse"]
        case _:
            holds, reasons = not failed, failed
    return Verdict(holds, champion is None, tuple(reasons), conditions, tuple(contest.differences.values()))


def _measures(task: Task) -> Mapping[str, SummedScore]:
    return class_measures() if isinstance(task, ClassTask) else attribute_measures(task.attributes)


@dataclass(frozen=True)
class _Contest:
    """Both models, and the rule that is applied to them."""

    challenger: Contestant
    champion: Contestant | None
    speakers: NDArray[np.str_]
    measures: Mapping[str, SummedScore]
    rule: PromotionRule

    def verdict(self, condition: str) -> ConditionVerdict:
        """Measure one condition and apply the rule to it."""
        counts = self.challenger.predictions.counts[condition]
        clips, speakers = int(counts.sum()), len(np.unique(self.speakers[counts]))
        metric = self.rule.metric_of(condition) or next(iter(self.measures))
        measured = self.differences.get((condition, metric))
        threshold = self._threshold(condition)
        level, holds, reason = self.rule.confidence_of(condition), None, "shown, not asked"
        if threshold is not None:
            holds, reason = self._decided(condition, measured, threshold, speakers)
        return ConditionVerdict(condition, metric, clips, speakers, level, measured, threshold, holds, reason)

    @cached_property
    def differences(self) -> Mapping[tuple[str, str], Difference]:
        """The differences of all measures under all conditions that can be measured, by condition and metric."""
        return {
            (condition, metric): self._measured(condition, metric)
            for condition in CONDITIONS
            if self._can(condition) and self.challenger.predictions.counts[condition].any()
            for metric in self.measures
        }

    def _measured(self, condition: str, metric: str) -> Difference:
        """Return the scores of both and their difference; against the constant answer where no champion can."""
        level, statistic = self.rule.confidence_of(condition), self.measures[metric].statistic
        own = self._sums(self.challenger.predictions, condition, metric)
        champion = self.champion if self._champion_can(condition) else None
        other = self._sums(champion.predictions if champion else self._constant(condition), condition, metric)
        return Difference(
            condition,
            metric,
            "champion" if champion else "constant",
            score_interval(own, statistic, level=level),
            score_interval(other, statistic, level=level),
            difference_interval(own, other, statistic, level=level),
        )

    def _can(self, condition: str) -> bool:
        return condition in self.challenger.trained

    def _champion_can(self, condition: str) -> bool:
        return self.champion is not None and condition in self.champion.trained

    def _threshold(self, condition: str) -> float | None:
        asked = self.rule.of_condition(condition)
        if asked is None or (self.champion is None and self.rule.first != "beat_chance"):
            return None
        # A champion that cannot predict has no score to lose against: the challenger must surely know something.
        return asked.threshold if self._champion_can(condition) or not self._can(condition) else 0.0

    def _decided(
        self, condition: str, measured: Difference | None, threshold: float, speakers: int
    ) -> tuple[bool, str]:
        """Return whether a condition holds, and why."""
        asked = self.rule.of_condition(condition)
        loss_only = asked is not None and asked.tolerated_loss is not None
        if not self._can(condition):
            nothing_lost = loss_only and self.champion is not None and not self._champion_can(condition)
            who = "neither model was" if nothing_lost else "the challenger was not"
            return nothing_lost, f"{who} trained for it"
        if measured is None:
            return False, f"no labeled clip has {' and '.join(MODALITIES_OF[condition])}"
        if speakers < self.rule.least_speakers:
            return (False, f"{speakers} speakers are too few, rule.least_speakers is {self.rule.least_speakers}")
        low = measured.difference.low
        holds = bool(low > threshold)
        against = "" if measured.opponent == "champion" else " against one constant answer"
        sign = ">" if holds else "not >"
        return holds, f"lower end {low:+.3f} is {sign} {threshold:+.3f}{against}"

    def _sums(self, predictions: SplitPredictions, condition: str, metric: str) -> SpeakerSums:
        counts = self.challenger.predictions.counts[condition]
        predicted, target = predictions.predicted[condition][counts], predictions.target[counts]
        if not np.isfinite(predicted).all():
            raise TrainingError(condition, metric, "a prediction is not finite", "look at the weights and the features")
        return gather({(0, 0): sums_of_speakers(self.measures[metric], predicted, target, self.speakers[counts])})

    def _constant(self, condition: str) -> SplitPredictions:
        """Return the predictions of a model that always says the same, the best that it can without looking."""
        predictions = self.challenger.predictions
        mean = predictions.target[predictions.counts[condition]].mean(axis=0)
        answer = np.tile(mean, (len(predictions.target), 1))
        return replace(predictions, predicted={condition: answer})


@dataclass(frozen=True)
class SameClips:
    """The clips of a contest, as each model sees them."""

    by_model: Mapping[str, MeasuredClips]  # title of a model -> its view, the challenger first; all of the same rows
    # titles of models that were trained on another corpus: what it shares with this one is not known
    unknown: tuple[str, ...]

    @property
    def first(self) -> MeasuredClips:
        """The view of the challenger."""
        return next(iter(self.by_model.values()))

    @property
    def speakers(self) -> Sequence[str]:
        """Speaker of each clip."""
        return [str(name) for name in self.first.speaker_names]

    @property
    def hash(self) -> str:
        """Sixteen hexadecimal digits over the names and the labels of the clips, in their order."""
        clips = self.first
        target = clips.collection.target[clips.rows].tolist()
        return sha256_of_json([clips.collection.manifest.corpus, clips.clip_ids, target])[:16]


def open_same_clips(models: Mapping[str, SavedModel], selection: ClipSelection) -> SameClips:
    """Open the clips of a selection for every model.

    The models are named by title, the challenger first, whose fold counts where the selection has none.

    Raises:
        InputError: the models predict different things, see different clips, or one was trained on some of them.
        StoreError, ConfigError: see ``open_clips``.
    """
    _check_tasks({title: model.description for title, model in models.items()})
    opened: dict[str, MeasuredClips] = {}
    unknown = []
    for title, model in models.items():
        opened[title] = open_clips(model, selection)
        # The others are to be measured on these very clips, whatever fold they were trained on.
        selection = selection.model_copy(update={"fold": opened[title].fold})
        if not _check_unseen(title, model.description, opened[title]):
            unknown.append(title)
    same = SameClips(opened, tuple(unknown))
    for title, clips in opened.items():
        if not np.array_equal(clips.rows, same.first.rows):
            problem = f"is measured on {len(clips.rows)} clips, the challenger on {len(same.first.rows)}"
            fix = "name the labels that both are to be measured on: data.label_set, data.labels"
            raise InputError(title, "clips", problem, fix)
    return same


def predict_same_clips(models: Mapping[str, SavedModel], clips: SameClips) -> dict[str, Contestant]:
    """Let every model predict the clips."""
    return {
        title: Contestant(predict_clips(models[title], own), frozenset(own.conditions))
        for title, own in clips.by_model.items()
    }


def _check_tasks(descriptions: Mapping[str, ModelDescription]) -> None:
    tasks = {title: entry.task for title, entry in descriptions.items()}
    (first, one), *others = (
        (title, frozenset(task.classes if isinstance(task, ClassTask) else task.attributes))
        for title, task in tasks.items()
    )
    for title, outputs in others:
        if outputs != one:
            problem = f"predicts {', '.join(sorted(outputs))}; {first} predicts {', '.join(sorted(one))}"
            fix = "register models of other classes or attributes under another name"
            raise InputError(title, "task", problem, fix)


def _check_unseen(title: str, description: ModelDescription, clips: MeasuredClips) -> bool:
    """Refuse clips that the model was trained on; return whether that can be known."""
    manifest, trained_on = clips.collection.manifest, description.provenance
    fold = trained_on.get("fold")
    if trained_on.get("corpus") != manifest.corpus or fold not in manifest.folds:
        return False
    trained = (TRAIN, VALIDATION) if trained_on.get("refit_steps") is not None else (TRAIN,)
    seen = int(np.isin(manifest.split(fold)[clips.rows], trained).sum())
    if seen:
        fix = "choose data.split=test, or the fold that both models were trained on: data.fold"
        raise InputError(title, "data", f"was trained on {seen} of these {len(clips.rows)} clips (fold {fold})", fix)
    return True

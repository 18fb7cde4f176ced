"""Who is stopped before the end: Optuna's pruners over the epochs of all trials of a sweep.

Optuna prunes studies of one objective only, so the judge keeps a study of its own in memory, whose value is the
mean of the objectives, and is told again after a restart what the journals of the trials hold.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import optuna
from optuna.pruners import BasePruner, MedianPruner, NopPruner, SuccessiveHalvingPruner
from optuna.trial import Trial, TrialState

from vavl.tuning.settings import Objective, PrunerSettings

Scores = Mapping[str, float | None]
"""Metrics of one epoch by name; None where a value was not finite."""


def score_of(objectives: Sequence[Objective], metrics: Scores) -> float | None:
    """Return the mean of the objectives with the sign that makes more better; None where one is missing."""
    values = [metrics.get(objective.metric) for objective in objectives]
    known = [value for value in values if value is not None and math.isfinite(value)]
    if len(known) < len(values):
        return None
    signed = [objective.sign * value for objective, value in zip(objectives, known, strict=True)]
    return sum(signed) / len(signed)


class Judge:
    """Decides after each epoch of a trial whether it goes on.

    What counts is the best epoch so far, since a trial is worth what its best epoch is worth.

    Args:
        settings: which rule.
        objectives: of the sweep.
        exempt: trials that run to their end whatever they score.
    """

    def __init__(
        self, settings: PrunerSettings, objectives: Sequence[Objective], exempt: frozenset[int] = frozenset()
    ) -> None:
        self._objectives, self._exempt = objectives, exempt
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._study = optuna.create_study(direction="maximize", pruner=pruner_of(settings))
        self._trials: dict[int, Trial] = {}
        self._best: dict[int, float] = {}
        self._epoch: dict[int, int] = {}
        self._stopped: set[int] = set()

    def best(self, number: int) -> float | None:
        """Return the best score of a trial so far."""
        return self._best.get(number)

    def stops(self, number: int, epoch: int, metrics: Scores) -> bool:
        """Take in an epoch; tell whether the trial is to be stopped. Epochs that were seen change nothing."""
        score = score_of(self._objectives, metrics)
        if number not in self._trials:
            self._trials[number] = self._study.ask()
        if score is None or epoch <= self._epoch.get(number, 0):
            return number in self._stopped
        self._epoch[number] = epoch
        self._best[number] = max(score, self._best.get(number, score))
        trial = self._trials[number]
        trial.report(self._best[number], epoch)
        # Asked for exempt trials too: others are compared with where they stood.
        if trial.should_prune() and number not in self._exempt:
            self._stopped.add(number)
        return number in self._stopped

    def ended(self, number: int, *, is_finished: bool) -> None:
        """Take in the end of a trial; the median rule compares with finished ones."""
        trial = self._trials.get(number)
        if trial is None:
            return
        best = self._best.get(number)
        if is_finished and best is not None:
            self._study.tell(trial, best, skip_if_finished=True)
        else:
            self._study.tell(trial, state=TrialState.PRUNED, skip_if_finished=True)


def pruner_of(settings: PrunerSettings) -> BasePruner:
    """Return Optuna's rule; a step is an epoch."""
    match settings.kind:
        case "asha":
            return SuccessiveHalvingPruner(
                min_resource=settings.first_epochs,
                reduction_factor=settings.reduction,
                min_early_stopping_rate=0,
            )
        case "median":
            return MedianPruner(
                n_startup_trials=settings.startup_trials, n_warmup_steps=settings.first_epochs
            )
        case "none":
            return NopPruner()

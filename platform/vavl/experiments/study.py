"""The Optuna study of a sweep, and who is stopped early; the only file that knows Optuna.

The study outlives the driver. A trial that a killed driver left is RUNNING there, and is resumed.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import optuna
from optuna import pruners, samplers
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from vavl.config.load import without_secrets
from vavl.errors import InputError
from vavl.experiments.sweep_settings import Axis, ChoiceAxis, Objective, Point, RangeAxis, SweepPlan, Value, name_of
from vavl.experiments.trials import State, TrialEnd

STUDY_FILE = "study.db"
BASE_TRIAL = 0
"""Number of the trial with the training configuration's own values, where there is one."""
_LEAST_SCORES = 4
_MEDIAN_AFTER = 4  # finished trials
_LEAST_STARTUP_TRIALS, _MOST_STARTUP_TRIALS = 3, 10

_STATES: dict[State, TrialState] = {
    "finished": TrialState.COMPLETE,
    "pruned": TrialState.PRUNED,
    "failed": TrialState.FAIL,
}


class Drawn(NamedTuple):
    """A trial to run: its number, from 0, and its values."""

    number: int
    point: Point


class SweepStudy:
    """Draws points and keeps what became of them.

    Raises:
        InputError: the storage cannot be opened.
    """

    def __init__(self, sweep: SweepPlan, name: str) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._sweep = sweep
        self._distributions = {path: distribution_of(axis) for path, axis in sweep.search.items()}
        self._storage = _open_storage(sweep)
        directions = ["maximize" if objective.mode == "max" else "minimize" for objective in sweep.objectives]
        self._study = optuna.create_study(
            study_name=name, storage=self._storage, directions=directions, load_if_exists=True
        )
        self._study_id = self._storage.get_study_id_from_name(name)
        with warnings.catch_warnings(action="ignore", category=ExperimentalWarning):
            self._study.set_metric_names([objective.metric for objective in sweep.objectives])
        # A sampler with its own seed would draw after a restart what it drew before it.
        self._study.sampler = sampler_of(sweep, drawn=len(self._study.trials))

    @property
    def is_new(self) -> bool:
        """True when nothing was drawn or asked for yet."""
        return not self._study.trials

    def try_first(self, points: Sequence[Point]) -> None:
        """Ask for points before any is drawn; call it on a new study only."""
        for point in points:
            values = {path: name_of(value) for path, value in point.items()}
            self._study.enqueue_trial(values, skip_if_exists=True)

    def interrupted(self) -> list[Drawn]:
        """Return the trials that were drawn and have no end; give up those that were not drawn to the end."""
        whole = self._trials(TrialState.RUNNING)
        for trial in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if trial not in whole:  # the driver was killed meanwhile; it never ran
                self._study.tell(trial.number, state=TrialState.FAIL)
        return [Drawn(trial.number, self._point(trial.params)) for trial in whole]

    def ended(self) -> dict[int, State]:
        """Return how the trials ended that have an end, by number; half-drawn ones left out."""
        states = {state: name for name, state in _STATES.items()}
        return {trial.number: states[trial.state] for trial in self._trials(*states)}

    def points(self) -> dict[int, Point]:
        """Return the values of all trials that were drawn."""
        return {trial.number: self._point(trial.params) for trial in self._trials()}

    def draw(self) -> Drawn:
        """Draw the next trial."""
        with warnings.catch_warnings(action="ignore", category=ExperimentalWarning):
            trial = self._study.ask(self._distributions)
        drawn = Drawn(trial.number, self._point(trial.params))
        trial.set_user_attr("overrides", json.dumps(drawn.point))  # for those who look at the study
        return drawn

    def note_epoch(self, number: int, epoch: int, value: float) -> None:
        """Keep the value of an epoch for those who look at the study; several objectives have none there."""
        if len(self._sweep.objectives) == 1:
            self._storage.set_trial_intermediate_value(self._id_of(number), epoch, value)

    def tell(self, number: int, state: State, values: Sequence[float | None] | None, reason: str = "") -> None:
        """Record the end of a trial; one that was recorded before stays as it is."""
        trial_id = self._id_of(number)
        if self._storage.get_trial(trial_id).state.is_finished():
            return
        if reason:
            self._storage.set_trial_user_attr(trial_id, "reason", reason)
        with warnings.catch_warnings(action="ignore", category=ExperimentalWarning):
            self._study.tell(number, values if state == "finished" else None, _STATES[state])

    def importances(self, scores: Mapping[int, float]) -> dict[str, float]:
        """Return how much each setting decides about the scores, adding up to 1 (PED-ANOVA).

        Watanabe et al., PED-ANOVA: Efficiently Quantifying Hyperparameter Importance in Arbitrary Subspaces,
        IJCAI 2023, as Optuna has it. Optuna itself looks at finished trials, which early stopping leaves few of.

        Returns:
            Empty with fewer different scores than tell anything.
        """
        if len(set(scores.values())) < _LEAST_SCORES:
            return {}
        scored = optuna.create_study(direction="maximize")
        for trial in self._trials():
            if (score := scores.get(trial.number)) is not None:
                scored.add_trial(create_trial(params=trial.params, distributions=self._distributions, value=score))
        with warnings.catch_warnings(action="ignore"):
            return dict(optuna.importance.get_param_importances(scored))

    def front(self) -> list[int]:
        """Return the finished trials that no other one beats in every objective."""
        return sorted(t.number for t in self._study.best_trials) if self._trials(TrialState.COMPLETE) else []

    def _trials(self, *states: TrialState) -> list[FrozenTrial]:
        """Return the trials all of whose values were drawn, in these states or in any."""
        found = self._study.get_trials(deepcopy=False, states=states or None)
        return [trial for trial in found if trial.params.keys() == self._distributions.keys()]

    def _point(self, params: Mapping[str, Any]) -> dict[str, Value]:
        return {path: value_of(axis, params[path]) for path, axis in self._sweep.search.items()}

    def _id_of(self, number: int) -> int:
        return int(self._storage.get_trial_id_from_study_id_trial_number(self._study_id, number))


def distribution_of(axis: Axis) -> BaseDistribution:
    """Return an axis as Optuna's distribution."""
    match axis:
        case ChoiceAxis():
            return CategoricalDistribution([name_of(value) for value in axis.choices])
        case RangeAxis(is_whole=True):
            return IntDistribution(int(axis.low), int(axis.last), log=axis.log, step=int(axis.step or 1))
        case RangeAxis():
            return FloatDistribution(axis.low, axis.last, log=axis.log, step=axis.step)


def value_of(axis: Axis, stored: Any) -> Value:
    """Return the value that a study holds, as the settings want it."""
    if isinstance(axis, ChoiceAxis):
        return next(value for value in axis.choices if name_of(value) == stored)
    return axis.typed(stored)


def sampler_of(sweep: SweepPlan, drawn: int) -> samplers.BaseSampler:
    """Return the sampler of a sweep that has drawn so many trials already."""
    seed = sweep.seed + 1000 * drawn
    start = max(_LEAST_STARTUP_TRIALS, min(_MOST_STARTUP_TRIALS, sweep.trials // 3))
    # Both options of TPE are marked as experimental.
    with warnings.catch_warnings(action="ignore", category=ExperimentalWarning):
        match sweep.sampler:
            case "tpe":
                return samplers.TPESampler(seed=seed, n_startup_trials=start, multivariate=True, constant_liar=True)
            case "cmaes":
                return samplers.CmaEsSampler(seed=seed, n_startup_trials=start)
            case "random":
                return samplers.RandomSampler(seed=seed)
            case "grid":
                grid = {path: list(map(name_of, axis.values)) for path, axis in sweep.search.items()}
                return _Grid(grid, seed=sweep.seed)


class _Grid(samplers.GridSampler):  # type: ignore[misc]
    """Optuna's grid, whose last trial may end outside ``optimize``; the sweep counts the points itself."""

    def after_trial(self, *_: Any) -> None:
        """Stop nothing."""


def study_name(sweep: SweepPlan, run_id: str) -> str:
    """Return the name of a sweep's study within its storage."""
    return f"{sweep.output_dir.name} {run_id}"


def storage_address(sweep: SweepPlan) -> str:
    """Return the address of the study's storage, without a password."""
    return sweep.storage or f"sqlite:///{(sweep.output_dir / STUDY_FILE).absolute()}"


def _open_storage(sweep: SweepPlan) -> RDBStorage:
    address = storage_address(sweep)
    try:
        return RDBStorage(address)
    except Exception as error:  # noqa: BLE001  SQLAlchemy's errors and Optuna's have no common base
        # What they print may hold an address.
        first = next(iter(without_secrets(str(error)).splitlines()), type(error).__name__)
        fix = "check address, server and PGPASSWORD; postgresql:// needs pip install 'psycopg[binary]'"
        raise InputError(address, "storage", f"cannot be opened: {first}", fix) from None


def score_of(objectives: Sequence[Objective], metrics: Mapping[str, float | None]) -> float | None:
    """Return the mean of the objectives with the sign that makes more better; None where one is missing or None."""
    values = [metrics.get(objective.metric) for objective in objectives]
    signed = [
        objective.sign * value
        for objective, value in zip(objectives, values, strict=True)
        if value is not None and math.isfinite(value)
    ]
    return sum(signed) / len(signed) if len(signed) == len(objectives) else None


def best_of(plan: SweepPlan, ends: Sequence[TrialEnd]) -> TrialEnd | None:
    """Return the finished trial with the best mean of the objectives, the first of equals."""
    scored = [
        (score, -end.number, end)
        for end in ends
        if end.state == "finished" and (score := score_of(plan.objectives, end.metrics)) is not None
    ]
    return max(scored, key=lambda entry: entry[:2])[2] if scored else None


class Judge:
    """Decides after each epoch of a trial whether it continues.

    What counts is the best epoch so far, since a trial is worth what its best epoch is worth. Optuna prunes
    studies of one objective only, so the judge has a study of its own in memory, whose value is the mean of the
    objectives; after a restart the journals of the trials fill it again.
    """

    def __init__(self, sweep: SweepPlan) -> None:
        self._objectives = sweep.objectives
        # It runs to its end whatever it scores.
        self._exempt = BASE_TRIAL if sweep.has_base else None
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._study = optuna.create_study(direction="maximize", pruner=pruner_of(sweep))
        self._trials: dict[int, Trial] = {}
        self._epoch: dict[int, int] = {}
        self._stopped: set[int] = set()
        self.best: dict[int, float] = {}

    def stops(self, number: int, epoch: int, metrics: Mapping[str, float | None]) -> bool:
        """Take in an epoch (None: not finite) and tell whether to stop the trial; epochs seen before change nothing."""
        score = score_of(self._objectives, metrics)
        if number not in self._trials:
            self._trials[number] = self._study.ask()
        if score is not None and epoch > self._epoch.get(number, 0):
            trial, self._epoch[number] = self._trials[number], epoch
            self.best[number] = max(score, self.best.get(number, score))
            trial.report(self.best[number], epoch)
            # Asked for the exempt trial too: others are compared with where it stood.
            if trial.should_prune() and number != self._exempt:
                self._stopped.add(number)
        return number in self._stopped

    def ended(self, number: int, *, is_finished: bool) -> None:
        """Take in the end of a trial; the median rule compares with finished ones."""
        if number in self._trials:
            best = self.best.get(number) if is_finished else None
            state = TrialState.PRUNED if best is None else TrialState.COMPLETE
            self._study.tell(self._trials[number], best, state, skip_if_finished=True)


def pruner_of(sweep: SweepPlan) -> pruners.BasePruner:
    """Return Optuna's rule; a step is an epoch."""
    settings, first = sweep.pruner, sweep.pruner.first_epochs
    match settings.kind:
        case "asha":
            return pruners.SuccessiveHalvingPruner(
                min_resource=first, reduction_factor=settings.reduction, min_early_stopping_rate=0
            )
        case "median":
            return pruners.MedianPruner(n_startup_trials=_MEDIAN_AFTER, n_warmup_steps=first)
        case "none":
            return pruners.NopPruner()

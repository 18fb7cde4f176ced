"""The Optuna study of a sweep: who is tried next, and what became of every trial; the only file that stores it.

The study outlives the driver. A trial that a killed driver left behind is RUNNING there, and is taken up again.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, CmaEsSampler, GridSampler, RandomSampler, TPESampler
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState

from vavl.config.load import without_secrets
from vavl.errors import InputError
from vavl.tuning.axes import Axis, ChoiceAxis, RangeAxis, Value, name_of
from vavl.tuning.settings import SweepPlan

STUDY_FILE = "study.db"
_LEAST_SCORES = 4
_LEAST_STARTUP_TRIALS, _MOST_STARTUP_TRIALS = 3, 10

State = Literal["finished", "pruned", "failed"]
_STATES: dict[State, TrialState] = {
    "finished": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL,
}  # fmt: skip


@dataclass(frozen=True)
class Drawn:
    """A trial that is to be run.

    Attributes:
        number: of the trial, from 0.
        point: values by dotted path.
    """

    number: int
    point: Mapping[str, Value]


class SweepStudy:
    """Draws points and keeps what became of them.

    Args:
        sweep: its settings.
        name: of the study within its storage.

    Raises:
        InputError: the storage cannot be opened.
    """

    def __init__(self, sweep: SweepPlan, name: str) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._sweep = sweep
        self._distributions = {path: distribution_of(axis) for path, axis in sweep.search.items()}
        storage = _open_storage(sweep)
        study = optuna.create_study(
            study_name=name, storage=storage, directions=sweep.directions, load_if_exists=True
        )
        # A sampler with its own seed would draw after a restart what it drew before it.
        study.sampler = sampler_of(sweep, drawn=len(study.trials))
        self._study = study

    @property
    def is_new(self) -> bool:
        """True when nothing was drawn or asked for yet."""
        return not self._study.trials

    @property
    def trials(self) -> int:
        """How many trials the sweep has in all; a grid may be smaller than what was asked for."""
        if self._sweep.sampler == "grid":
            return min(self._sweep.trials, self._sweep.grid_points)
        return self._sweep.trials

    def try_first(self, points: Sequence[Mapping[str, Value]]) -> None:
        """Ask for points before any is drawn; call it on a new study only."""
        for point in points:
            values = {path: name_of(value) for path, value in point.items()}
            self._study.enqueue_trial(values, skip_if_exists=True)

    def interrupted(self) -> list[Drawn]:
        """Return the trials that were drawn and whose end nobody has told."""
        running = self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        return [self._drawn(trial) for trial in running if trial.params.keys() == self._distributions.keys()]

    def drop_half_drawn(self) -> None:
        """Give up the trials whose values were not all drawn when the driver was killed; they never ran."""
        for trial in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if trial.params.keys() != self._distributions.keys():
                self._study.tell(trial.number, state=TrialState.FAIL)

    def ended(self) -> dict[int, State]:
        """Return what became of the trials that were told, by number; half-drawn ones left out."""
        states = {state: name for name, state in _STATES.items()}
        return {
            trial.number: states[trial.state]
            for trial in self._study.get_trials(deepcopy=False, states=tuple(states))
            if trial.params.keys() == self._distributions.keys()
        }

    def points(self) -> dict[int, Mapping[str, Value]]:
        """Return the values of all trials that were drawn."""
        return {
            trial.number: self._drawn(trial).point
            for trial in self._study.get_trials(deepcopy=False)
            if trial.params.keys() == self._distributions.keys()
        }

    def draw(self) -> Drawn:
        """Draw the next trial."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            trial = self._study.ask(self._distributions)
        return Drawn(trial.number, self._point(trial.params))

    def note_epoch(self, number: int, epoch: int, value: float) -> None:
        """Keep the value of an epoch for those who look at the study; several objectives have none there."""
        if len(self._sweep.objectives) == 1:
            trial = optuna.trial.Trial(self._study, self._id_of(number))
            trial.report(value, epoch)

    def tell(
        self, number: int, state: State, values: Sequence[float] | None, notes: Mapping[str, Any]
    ) -> None:
        """Record the end of a trial; one that was told before stays as it is.

        Args:
            number: of the trial.
            state: how it ended.
            values: of the objectives, for a finished trial.
            notes: attributes of the trial for those who look at the study, e.g. ``reason``.
        """
        storage, trial_id = self._study._storage, self._id_of(number)
        if storage.get_trial(trial_id).state.is_finished():
            return
        for name, value in notes.items():
            storage.set_trial_user_attr(trial_id, name, value)
        told = list(values) if state == "finished" and values is not None else None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            self._study.tell(number, told, _STATES[state])

    def importances(self, scores: Mapping[int, float]) -> dict[str, float]:
        """Return how much each setting decides about the scores, adding up to 1 (PED-ANOVA).

        Watanabe et al., PED-ANOVA: Efficiently Quantifying Hyperparameter Importance in Arbitrary Subspaces,
        IJCAI 2023, as Optuna has it. Optuna itself looks at finished trials, which early stopping leaves few of.

        Args:
            scores: by trial, more is better; of stopped trials that of the best epoch they reached.

        Returns:
            Empty with fewer different scores than tell anything.
        """
        if len(set(scores.values())) < _LEAST_SCORES:
            return {}
        points = {trial.number: trial.params for trial in self._study.get_trials(deepcopy=False)}
        scored = optuna.create_study(direction="maximize")
        for number, score in scores.items():
            scored.add_trial(
                optuna.trial.create_trial(
                    params=points[number], distributions=self._distributions, value=score
                )
            )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = optuna.importance.get_param_importances(scored)
        return {name: float(value) for name, value in found.items()}

    def front(self) -> list[int]:
        """Return the finished trials that no other one beats in every objective."""
        if not self._study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
            return []
        return sorted(trial.number for trial in self._study.best_trials)

    def _drawn(self, trial: FrozenTrial) -> Drawn:
        return Drawn(trial.number, self._point(trial.params))

    def _point(self, params: Mapping[str, Any]) -> dict[str, Value]:
        return {path: value_of(self._sweep.search[path], params[path]) for path in self._sweep.search}

    def _id_of(self, number: int) -> int:
        return int(
            self._study._storage.get_trial_id_from_study_id_trial_number(self._study._study_id, number)
        )


def distribution_of(axis: Axis) -> BaseDistribution:
    """Return an axis in Optuna's words."""
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


def sampler_of(sweep: SweepPlan, drawn: int) -> BaseSampler:
    """Return the sampler of a sweep that has drawn so many trials already."""
    seed = sweep.seed + 1000 * drawn
    startup = max(_LEAST_STARTUP_TRIALS, min(_MOST_STARTUP_TRIALS, sweep.trials // 3))
    with warnings.catch_warnings():
        # Both options of TPE are marked as experimental.
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        match sweep.sampler:
            case "tpe":
                return TPESampler(seed=seed, n_startup_trials=startup, multivariate=True, constant_liar=True)
            case "cmaes":
                return CmaEsSampler(seed=seed, n_startup_trials=startup)
            case "random":
                return RandomSampler(seed=seed)
            case "grid":
                grid = {
                    path: [name_of(value) for value in axis.values] for path, axis in sweep.search.items()
                }
                return _Grid(grid, seed=sweep.seed)


class _Grid(GridSampler):  # type: ignore[misc]
    """Optuna's grid, whose last trial may be told from outside ``optimize``; the sweep counts the points itself."""

    def after_trial(
        self, study: Any, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        """Stop nothing."""


def storage_address(sweep: SweepPlan) -> str:
    """Return the address of the study's storage, without a password."""
    return sweep.storage or f"sqlite:///{(sweep.output_dir / STUDY_FILE).absolute()}"


def _open_storage(sweep: SweepPlan) -> RDBStorage:
    address = storage_address(sweep)
    try:
        return RDBStorage(address)
    except ImportError as fault:
        raise InputError(
            address,
            "storage",
            f"its driver is not installed: {fault}",
            "pip install 'psycopg[binary]' for postgresql://",
        ) from None
    except Exception as fault:  # noqa: BLE001  see below
        # SQLAlchemy's errors and Optuna's have no common base; what they print may hold an address.
        first = without_secrets(str(fault)).splitlines()
        raise InputError(
            address, "storage", f"cannot be opened: {first[0] if first else type(fault).__name__}",
            "check address, server and PGPASSWORD",
        ) from None  # fmt: skip


def notes_of(point: Mapping[str, Value], reason: str) -> dict[str, Any]:
    """Return what a study keeps of a trial beside its values."""
    return {"overrides": json.dumps(dict(point)), **({"reason": reason} if reason else {})}

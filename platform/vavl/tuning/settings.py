"""What a sweep searches, how, and within which limits."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from vavl.config.base import FrozenConfig
from vavl.config.changes import leaves
from vavl.config.places import FROM_PROJECT, FROM_ROOT
from vavl.metrics.names import CONDITIONS, VALIDATION
from vavl.training.comparison_settings import Changes
from vavl.tuning.axes import ChoiceAxis, RangeAxis, Search, Value, is_prefix, name_of, overlapping

_OWN_KEYS = ("output_dir", "tracking", "evaluation.test", "training.launcher", "training.resume")
# Scores of trials could not be compared with each other.
_DECIDES_WHAT_IS_MEASURED = ("data.store", "data.fold", "data.labels", "data.target", "evaluation")
_MOST_GRID_POINTS = 10_000


class Objective(FrozenConfig):
    """A validation metric that the sweep improves."""

    metric: str = Field(description="validation/<condition>/<metric>")
    mode: Literal["max", "min"] = "max"

    @field_validator("metric")
    @classmethod
    def _is_of_validation(cls, name: str) -> str:
        split, _, rest = name.partition("/")
        condition, _, measure = rest.partition("/")
        if split != VALIDATION or condition not in CONDITIONS or not measure:
            raise ValueError(
                f"{name} is not validation/<condition>/<metric>; conditions: {', '.join(CONDITIONS)}"
            )
        return name

    @property
    def sign(self) -> int:
        """1 where more is better, else -1."""
        return 1 if self.mode == "max" else -1


class PrunerSettings(FrozenConfig):
    """When a trial is stopped that does worse than others did after as many epochs.

    asha: Li et al., A System for Massively Parallel Hyperparameter Tuning, MLSys 2020, as Optuna has it.
    median: worse than the median of the finished trials.
    """

    kind: Literal["asha", "median", "none"] = "asha"
    first_epochs: int = Field(4, ge=1, description="epochs before a trial is judged for the first time")
    reduction: int = Field(3, ge=2, description="asha: of so many trials one goes on at each rung")
    startup_trials: int = Field(4, ge=0, description="median: finished trials before the first is stopped")


class SweepPlan(FrozenConfig):
    """A training configuration, the settings of it that are searched, and how."""

    output_dir: Annotated[Path, FROM_ROOT] = Field(
        description="folder of the study and of all trials; starting again continues"
    )
    training: Annotated[Path, FROM_PROJECT] = Field(
        description="training configuration that all trials start from; counts from here"
    )
    overrides: Changes = Field({}, description="changes of the training configuration for all trials")
    search: Search = Field(description="dotted path -> {low, high, log | step, int} or {choices}")
    objectives: tuple[Objective, ...] = Field(
        (Objective(metric="validation/audio_video/accuracy"),), min_length=1
    )
    sampler: Literal["tpe", "cmaes", "random", "grid"] = "tpe"
    seed: int = Field(
        0, ge=0, description="of the sampler; that of the trainings stands in their configuration"
    )
    pruner: PrunerSettings = PrunerSettings()
    trials: int = Field(12, ge=1, description="trials in all, failed ones counted; a grid may have fewer")
    base_first: bool = Field(
        True, description="try the training configuration's own values first, to the end, as a yard-stick"
    )
    points_first: tuple[Changes, ...] = Field(
        (), description="points to try next; searched settings that a point leaves out are drawn"
    )
    seconds_per_trial: float | None = Field(None, gt=0, description="a trial that takes longer is stopped")
    at_once: int | None = Field(
        None, ge=1, description="trials side by side; null: by the places of Ray and the first trial's memory"
    )
    memory_share: float = Field(
        0.85, gt=0, le=1, description="share of Ray's memory that all trials may take together"
    )
    storage: str | None = Field(
        None,
        description="address of the study without password, e.g. postgresql://user@host/name with "
        "PGPASSWORD in the environment; null: study.db in output_dir",
    )
    give_up_after: int = Field(5, ge=1, description="failed trials in a row that end the sweep")

    @field_validator("pruner", mode="before")
    @classmethod
    def _by_its_name(cls, value: Any) -> Any:
        return {"kind": value} if isinstance(value, str) else value

    @field_validator("storage")
    @classmethod
    def _holds_no_password(cls, address: str | None) -> str | None:
        if address is None:
            return None
        if "://" not in address:
            raise ValueError(f"{address} is no address; write e.g. postgresql://user@host/name")
        if urlsplit(address).password is not None:
            raise ValueError("holds a password; give it by PGPASSWORD or ~/.pgpass")
        return address

    @property
    def directions(self) -> list[str]:
        """Optuna's words for the modes."""
        return ["maximize" if objective.mode == "max" else "minimize" for objective in self.objectives]

    @property
    def grid_points(self) -> int:
        """Points of the whole grid; 0 where an axis has any number in between."""
        return math.prod(len(axis.values) for axis in self.search.values())

    @property
    def first_points(self) -> list[dict[str, Value]]:
        """The points to try, by dotted path."""
        return [self._point(point) for point in self.points_first]

    def _point(self, point: Changes) -> dict[str, Value]:
        return {".".join(keys): value for keys, value in _leaves_on(point, self.search)}

    @model_validator(mode="after")
    def _paths_can_be_searched(self) -> Self:
        for path in self.search:
            for own in (*_OWN_KEYS, *_DECIDES_WHAT_IS_MEASURED):
                if is_prefix(own, path) or is_prefix(path, own):
                    raise ValueError(f"search: {path} cannot be searched, trials would not be comparable")
        if pair := overlapping(list(self.search)):
            raise ValueError(f"search: {pair[1]} lies in {pair[0]}")
        for keys, _ in leaves(self.overrides):
            for own in _OWN_KEYS:
                if is_prefix(own, ".".join(keys)):
                    raise ValueError(f"overrides: {own} belongs to the sweep and cannot be changed here")
        return self

    @model_validator(mode="after")
    def _points_are_on_the_axes(self) -> Self:
        for place, point in enumerate(self.first_points):
            for path, value in point.items():
                if path not in self.search:
                    raise ValueError(f"points_first.{place}: {path} is not searched")
                if not lies_on(self.search[path], value):
                    raise ValueError(f"points_first.{place}: {path}={value} does not lie on its axis")
        return self

    @model_validator(mode="after")
    def _objectives_differ(self) -> Self:
        names = [objective.metric for objective in self.objectives]
        if len(set(names)) < len(names):
            raise ValueError("objectives: a metric stands there twice")
        return self

    @model_validator(mode="after")
    def _cmaes_fits(self) -> Self:
        if self.sampler == "cmaes" and len(self.objectives) > 1:
            raise ValueError("sampler=cmaes takes one objective; tpe and random take several")
        if self.sampler == "cmaes" and sum(isinstance(axis, RangeAxis) for axis in self.search.values()) < 2:
            raise ValueError("sampler=cmaes needs two axes with low and high; take tpe")
        return self

    @model_validator(mode="after")
    def _grid_fits(self) -> Self:
        if self.sampler != "grid":
            return self
        for path, axis in self.search.items():
            if isinstance(axis, RangeAxis) and (axis.spacing is None or axis.log):
                raise ValueError(f"sampler=grid: {path} needs a step, or choices")
        if self.grid_points > _MOST_GRID_POINTS:
            raise ValueError(f"sampler=grid: {self.grid_points} points are more than {_MOST_GRID_POINTS}")
        if self.points_first:
            raise ValueError("sampler=grid tries every point; leave points_first out")
        return self


def lies_on(axis: RangeAxis | ChoiceAxis, value: Any) -> bool:
    """Tell whether an axis has the value."""
    if isinstance(axis, ChoiceAxis):
        return name_of(value) in [name_of(choice) for choice in axis.choices]
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return False
    step = axis.spacing
    places = 0.0 if step is None else (value - axis.low) / step
    return axis.low <= value <= axis.high and abs(places - round(places)) < 1e-6


def _leaves_on(point: Changes, search: Search) -> list[tuple[tuple[str, ...], Value]]:
    """Return the values of a point; where a path is searched as a whole, a section is one value."""
    found: list[tuple[tuple[str, ...], Value]] = []

    def visit(above: tuple[str, ...], section: Changes) -> None:
        for dotted, value in section.items():
            keys = (*above, *str(dotted).split("."))
            if isinstance(value, dict) and value and ".".join(keys) not in search:
                visit(keys, value)
            else:
                found.append((keys, value))

    visit((), point)
    return found

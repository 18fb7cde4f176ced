"""What a sweep searches, how, and within which limits."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import BeforeValidator, ConfigDict, Field, field_validator, model_validator

from vavl.config.base import FrozenConfig
from vavl.config.places import FROM_PROJECT, FROM_ROOT
from vavl.experiments.changes import Changes, changes_of_own_keys, is_prefix
from vavl.metrics.names import CONDITIONS, VALIDATION

Value = float | int | str | bool | None | list[Any] | dict[str, Any]
"""A value of a setting, as YAML holds it."""

Point = Mapping[str, Value]
"""Values by the dotted path of their setting."""

_OWN_KEYS = ("output_dir", "tracking", "evaluation.test", "training.launcher", "training.resume")
# With other clips, labels or measures the scores of trials could not be compared.
_NEVER_SEARCHED = (*_OWN_KEYS, "data.store", "data.fold", "data.labels", "data.target", "evaluation")
TRIALS_DIRECTORY = "trials"
_MOST_GRID_POINTS = 10_000
_MARKS = {"low", "high", "choices"}
_AXIS_KEYS = {*_MARKS, "log", "step", "int", "is_whole"}


class RangeAxis(FrozenConfig):
    """Numbers from ``low`` to ``high``, both included."""

    model_config = ConfigDict(populate_by_name=True)

    low: float = Field(description="least value")
    high: float = Field(description="greatest value")
    log: bool = Field(False, description="even over the logarithm; low must be above 0")
    step: float | None = Field(None, gt=0, description="null: any number in between, or whole ones")
    is_whole: bool = Field(False, alias="int", description="whole numbers only")

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"low={self.low:g} is not below high={self.high:g}")
        if self.log and self.low <= 0:
            raise ValueError(f"log: low={self.low:g} is not above 0")
        if self.log and self.step is not None:
            raise ValueError("write log or step, not both")
        if self.step is not None and self.step > self.high - self.low:
            raise ValueError(f"step={self.step:g} leads beyond high")
        if self.is_whole and any(number % 1 for number in (self.low, self.high, self.step or 1)):
            raise ValueError("int: low, high and step must be whole numbers")
        return self

    @property
    def spacing(self) -> float | None:
        """Distance of two values, None where any number in between is one."""
        return self.step or (1.0 if self.is_whole else None)

    @property
    def last(self) -> float:
        """The highest value; below ``high`` where the steps do not reach it."""
        if self.spacing is None:
            return self.high
        return self.low + math.floor((self.high - self.low) / self.spacing + 1e-9) * self.spacing

    @property
    def ends(self) -> list[Value]:
        """The first and the last value."""
        return [self.typed(self.low), self.typed(self.last)]

    @property
    def values(self) -> list[Value]:
        """All values, ascending; empty where any number in between is one."""
        if (step := self.spacing) is None:
            return []
        count = round((self.last - self.low) / step) + 1
        return [self.typed(self.low + index * step) for index in range(count)]

    def typed(self, number: float) -> int | float:
        """Return a number as a person would write it."""
        # 0.1 + 2 * 0.1 is not 0.3.
        return int(number) if self.is_whole else float(f"{number:.12g}")

    def contains(self, value: Any) -> bool:
        """Tell whether the axis has the value."""
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            return False
        steps = 0.0 if self.spacing is None else (value - self.low) / self.spacing
        return self.low <= value <= self.high and abs(steps - round(steps)) < 1e-6


class ChoiceAxis(FrozenConfig):
    """A list of values without an order."""

    choices: tuple[Value, ...] = Field(min_length=2, description="values to choose from")

    @model_validator(mode="after")
    def _differ(self) -> Self:
        names = [name_of(value) for value in self.choices]
        if len(set(names)) < len(names):
            raise ValueError("a choice stands there twice")
        return self

    @property
    def values(self) -> list[Value]:
        """All choices."""
        return list(self.choices)

    @property
    def ends(self) -> list[Value]:
        """All choices."""
        return self.values

    def contains(self, value: Any) -> bool:
        """Tell whether the axis has the value."""
        return name_of(value) in map(name_of, self.choices)


Axis = RangeAxis | ChoiceAxis


def name_of(value: Value) -> Any:
    """Return a value as a study holds it: plain ones as they are, lists and sections as JSON text."""
    return json.dumps(value, sort_keys=True) if isinstance(value, (list, tuple, dict)) else value


def flat_axes(search: Any) -> Any:
    """Turn nested sections into dotted paths; null removes an axis, a part of an axis changes that part."""
    if not isinstance(search, Mapping):
        return search
    found: dict[str, Any] = {}

    def visit(above: tuple[str, ...], section: Mapping[str, Any]) -> None:
        for key, value in section.items():
            path = (*above, str(key))
            dotted, is_mapping = ".".join(path), isinstance(value, Mapping)
            if is_mapping and not (_MARKS & value.keys() or value.keys() <= _AXIS_KEYS):
                visit(path, value)
            elif value is None:
                found.pop(dotted, None)
            else:
                # The command line changes single keys of an axis that the file gives.
                earlier = found.get(dotted)
                found[dotted] = {**earlier, **value} if is_mapping and isinstance(earlier, Mapping) else value

    visit((), search)
    return found


def _axis_of(value: Any) -> Any:
    """Choose the class by the keys, so that a message speaks of one of them."""
    if not isinstance(value, Mapping):
        return value
    return (ChoiceAxis if "choices" in value else RangeAxis).model_validate(dict(value))


Search = Annotated[
    dict[str, Annotated[Axis, BeforeValidator(_axis_of)]], BeforeValidator(flat_axes), Field(min_length=1)
]
"""Axes by the dotted path of the setting; read from dotted keys or sections, mixed as one likes."""


class Objective(FrozenConfig):
    """A validation metric that the sweep improves."""

    metric: str = Field(description="validation/<condition>/<metric>")
    mode: Literal["max", "min"] = Field("max", description="which direction is better")

    @field_validator("metric")
    @classmethod
    def _is_of_validation(cls, name: str) -> str:
        split, condition, measure, *_ = [*name.split("/", 2), "", ""]
        if split != VALIDATION or condition not in CONDITIONS or not measure:
            raise ValueError(f"{name} is not validation/<condition>/<metric>; conditions: {', '.join(CONDITIONS)}")
        return name

    @property
    def sign(self) -> int:
        """1 where more is better, else -1."""
        return 1 if self.mode == "max" else -1


class PrunerSettings(FrozenConfig):
    """When a trial is stopped that does worse than others did after as many epochs.

    asha: Li et al., A System for Massively Parallel Hyperparameter Tuning, MLSys 2020, as Optuna has it.
    median: worse than the median of the finished trials, once there are four.
    """

    kind: Literal["asha", "median", "none"] = Field("asha", description="rule that stops trials early")
    first_epochs: int = Field(4, ge=1, description="epochs before a trial is judged for the first time")
    reduction: int = Field(3, ge=2, description="asha: of so many trials one continues at each rung")


class SweepPlan(FrozenConfig):
    """A training configuration, the settings of it that are searched, and how."""

    output_dir: Annotated[Path, FROM_ROOT] = Field(
        description="directory of the study and of all trials; starting again continues"
    )
    training: Annotated[Path, FROM_PROJECT] = Field(
        description="training configuration that all trials start from; counts from here"
    )
    overrides: Changes = Field({}, description="changes of the training configuration for all trials")
    search: Search = Field(description="dotted path -> {low, high, log | step, int} or {choices}")
    objectives: tuple[Objective, ...] = Field((Objective(metric="validation/audio_video/accuracy"),), min_length=1)
    sampler: Literal["tpe", "cmaes", "random", "grid"] = Field("tpe", description="Optuna's")
    seed: int = Field(0, ge=0, description="of the sampler; that of the trials is in their configuration")
    pruner: PrunerSettings = PrunerSettings()
    trials: int = Field(12, ge=1, description="trials in all, failed ones counted; a grid may have fewer")
    base_first: bool = Field(
        True, description="try the training configuration's own values first, to the end, as a baseline"
    )
    points_first: tuple[Changes, ...] = Field(
        (), description="points to try next; searched settings that a point leaves out are drawn"
    )
    seconds_per_trial: float | None = Field(None, gt=0, description="a trial that takes longer is stopped")
    at_once: int | None = Field(
        None, ge=1, description="trials at the same time; null: by Ray's resources and the memory of a trial"
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
        if address is not None and "://" not in address:
            raise ValueError(f"{address} is no address; write e.g. postgresql://user@host/name")
        if address is not None and urlsplit(address).password is not None:
            raise ValueError("holds a password; give it by PGPASSWORD or ~/.pgpass")
        return address

    def trial_directory(self, number: int) -> Path:
        """Return the directory of a trial."""
        return self.output_dir / TRIALS_DIRECTORY / f"trial-{number:04d}"

    @property
    def has_base(self) -> bool:
        """True when trial 0 has the training configuration's own values; on a grid every point has its turn."""
        return self.base_first and self.sampler != "grid"

    @property
    def grid_points(self) -> int:
        """Points of the whole grid; 0 where an axis has any number in between."""
        return math.prod(len(axis.values) for axis in self.search.values())

    @property
    def most_trials(self) -> int:
        """Trials in all; a grid may have fewer points than were asked for."""
        return min(self.trials, self.grid_points) if self.sampler == "grid" else self.trials

    def scores_in_words(self, metrics: Mapping[str, float]) -> str:
        """Write the objectives among the metrics of a trial in one line."""
        return "  ".join(
            f"{goal.metric.partition('/')[2]} {metrics[goal.metric]:.3f}"
            for goal in self.objectives
            if goal.metric in metrics
        )

    @property
    def first_points(self) -> list[dict[str, Value]]:
        """The points to try, by dotted path."""
        return [dict(_leaves_on(point, self.search)) for point in self.points_first]

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        for find in (self._wrong_paths, self._wrong_points, self._wrong_objectives, self._wrong_grid):
            for problem in find():
                raise ValueError(problem)
        return self

    def _wrong_paths(self) -> Iterator[str]:
        for path in self.search:
            if any(is_prefix(own, path) or is_prefix(path, own) for own in _NEVER_SEARCHED):
                yield f"search: {path} cannot be searched, trials would not be comparable"
        for first, second in pairwise(sorted(self.search, key=lambda path: f"{path}.")):
            if is_prefix(first, second):
                yield f"search: {second} lies in {first}"
        yield from changes_of_own_keys("overrides", self.overrides, _OWN_KEYS, "sweep")

    def _wrong_points(self) -> Iterator[str]:
        for index, point in enumerate(self.first_points):
            for path, value in point.items():
                if path not in self.search:
                    yield f"points_first.{index}: {path} is not searched"
                elif not self.search[path].contains(value):
                    yield f"points_first.{index}: {path}={value} does not lie on its axis"

    def _wrong_objectives(self) -> Iterator[str]:
        if len({objective.metric for objective in self.objectives}) < len(self.objectives):
            yield "objectives: a metric stands there twice"
        if self.sampler == "cmaes" and len(self.objectives) > 1:
            yield "sampler=cmaes takes one objective; tpe and random take several"
        if self.sampler == "cmaes" and sum(isinstance(axis, RangeAxis) for axis in self.search.values()) < 2:
            yield "sampler=cmaes needs two axes with low and high; take tpe"

    def _wrong_grid(self) -> Iterator[str]:
        if self.sampler != "grid":
            return
        for path, axis in self.search.items():
            if isinstance(axis, RangeAxis) and (axis.spacing is None or axis.log):
                yield f"sampler=grid: {path} needs a step, or choices"
        if self.grid_points > _MOST_GRID_POINTS:
            yield f"sampler=grid: {self.grid_points} points are more than {_MOST_GRID_POINTS}"
        if self.points_first:
            yield "sampler=grid tries every point; leave points_first out"


def _leaves_on(point: Changes, search: Search, above: tuple[str, ...] = ()) -> Iterator[tuple[str, Value]]:
    """Yield the values of a point; where a path is searched as a whole, a section is one value."""
    for dotted, value in point.items():
        keys = (*above, *str(dotted).split("."))
        if isinstance(value, dict) and value and ".".join(keys) not in search:
            yield from _leaves_on(value, search, keys)
        else:
            yield ".".join(keys), value


def words_of(point: Point) -> str:
    """Write the values of a trial in one line, the last part of each path alone."""

    def short(value: Value) -> str:
        if isinstance(value, float):
            return f"{value:.4g}"
        return value if isinstance(value, str) else json.dumps(value)

    return ", ".join(f"{path.rpartition('.')[2]}={short(value)}" for path, value in point.items())

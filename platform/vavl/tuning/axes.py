"""The values that a searched setting may take."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, ConfigDict, Field, model_validator

from vavl.config.base import FrozenConfig

Value = float | int | str | bool | None | list[Any] | dict[str, Any]
"""A value of a setting, as YAML holds it."""

_MARKS = {"low", "high", "choices"}
_AXIS_KEYS = {*_MARKS, "log", "step", "int", "is_whole"}


class RangeAxis(FrozenConfig):
    """Numbers from ``low`` to ``high``, both included."""

    model_config = ConfigDict(populate_by_name=True)

    low: float
    high: float
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
    def ends(self) -> list[Value]:
        """The first and the last value."""
        return [self.typed(self.low), self.typed(self.last)]

    @property
    def last(self) -> float:
        """The highest value; below ``high`` where the steps do not reach it."""
        step = self.spacing
        return (
            self.high if step is None else self.low + math.floor((self.high - self.low) / step + 1e-9) * step
        )

    @property
    def values(self) -> list[Value]:
        """All values, ascending; empty where any number in between is one."""
        step = self.spacing
        if step is None:
            return []
        return [
            self.typed(self.low + place * step) for place in range(round((self.last - self.low) / step) + 1)
        ]

    def typed(self, number: float) -> int | float:
        """Return a number as a person would write it."""
        # 0.1 + 2 * 0.1 is not 0.3.
        return int(number) if self.is_whole else float(f"{number:.12g}")


class ChoiceAxis(FrozenConfig):
    """A list of values without an order."""

    choices: tuple[Value, ...] = Field(min_length=2)

    @model_validator(mode="after")
    def _differ(self) -> Self:
        names = [name_of(value) for value in self.choices]
        if len(set(names)) < len(names):
            raise ValueError("a choice stands there twice")
        return self

    @property
    def ends(self) -> list[Value]:
        """All choices."""
        return list(self.choices)

    @property
    def values(self) -> list[Value]:
        """All choices."""
        return list(self.choices)


Axis = RangeAxis | ChoiceAxis


def name_of(value: Value) -> Any:
    """Return a value as a study holds it: plain ones as they are, lists and sections as JSON text."""
    if isinstance(value, (list, tuple, dict)):
        return json.dumps(value, sort_keys=True)
    return value


def flat_axes(search: Any) -> Any:
    """Turn nested sections into dotted paths; null takes an axis away, a part of an axis changes that part."""
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


def is_prefix(first: str, second: str) -> bool:
    """Tell whether the setting ``second`` is ``first`` or lies in it."""
    return f"{second}.".startswith(f"{first}.")


def overlapping(paths: list[str]) -> tuple[str, str] | None:
    """Return two paths of which one leads through the other, None where there are none."""
    ordered = sorted(paths, key=lambda path: f"{path}.")
    return next(((first, second) for first, second in pairwise(ordered) if is_prefix(first, second)), None)

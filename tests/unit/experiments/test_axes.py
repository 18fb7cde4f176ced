"""Searched values: how YAML gives them, where an axis ends, and what lies on it."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from vavl.experiments.sweep_settings import ChoiceAxis, RangeAxis, flat_axes, name_of


def test_sections_and_dotted_keys_mean_the_same_and_null_takes_an_axis_away():
    axis, choices = {"low": 1, "high": 2}, {"choices": [1, 2]}
    nested = {"training": {"optimizer": {"learning_rate": axis}, "seed": None}, "model.width": choices}
    assert flat_axes(nested) == {"training.optimizer.learning_rate": axis, "model.width": choices}


def test_the_command_line_changes_a_part_of_an_axis_or_takes_it_away():
    given = {"model.dropout": {"low": 0, "high": 0.4}, "model.width": {"choices": [1, 2]}}
    words = {"model": {"dropout": {"step": 0.2, "high": 0.2}, "width": None}}
    assert flat_axes({**given, **words}) == {"model.dropout": {"low": 0, "high": 0.2, "step": 0.2}}


@pytest.mark.parametrize(
    ("axis", "ends", "values"),
    [
        (RangeAxis(low=0.1, high=0.5, step=0.2), [0.1, 0.5], [0.1, 0.3, 0.5]),
        (RangeAxis(low=0.1, high=0.4, step=0.2), [0.1, 0.3], [0.1, 0.3]),
        (RangeAxis(low=1, high=3, is_whole=True), [1, 3], [1, 2, 3]),
        (RangeAxis(low=1, high=8, log=True), [1.0, 8.0], []),
        (ChoiceAxis(choices=("a", None, [1, 2])), ["a", None, [1, 2]], ["a", None, [1, 2]]),
    ],
)
def test_an_axis_knows_its_ends_and_its_values(axis, ends, values):
    assert axis.ends == ends
    assert axis.values == values
    assert all(axis.contains(value) for value in axis.ends)
    assert [type(end) for end in axis.ends] == [type(end) for end in ends]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"low": 2, "high": 1}, "low=2 is not below high=1"),
        ({"low": 0, "high": 1, "log": True}, "low=0 is not above 0"),
        ({"low": 1, "high": 2, "log": True, "step": 1}, "log or step"),
        ({"low": 0, "high": 1, "step": 2}, "step=2 leads beyond high"),
        ({"low": 0.5, "high": 2, "int": True}, "whole numbers"),
        ({"low": 0, "high": 1, "steps": 1}, "Extra inputs"),
    ],
)
def test_a_range_that_is_none_is_refused(content, message):
    with pytest.raises(ValidationError, match=message):
        RangeAxis.model_validate(content)


def test_equal_choices_are_refused():
    with pytest.raises(ValidationError, match="stands there twice"):
        ChoiceAxis(choices=([1, 2], [1, 2]))


@pytest.mark.parametrize("value", [0.25, -0.1, 0.7, "0.2", True, float("nan"), None])
def test_what_does_not_lie_on_steps_is_told(value):
    assert not RangeAxis(low=0, high=0.6, step=0.2).contains(value)


def test_lists_are_named_by_json_text():
    assert name_of([1, {"b": 2}]) == '[1, {"b": 2}]'
    assert name_of(None) is None

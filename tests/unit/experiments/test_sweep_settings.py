"""What a sweep's settings refuse before anything is read."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from vavl.experiments.sweep_settings import ChoiceAxis, RangeAxis, SweepPlan, flat_axes, name_of

RATE = {"low": 1e-4, "high": 1e-2, "log": True}
SEARCH = {"training.optimizer.learning_rate": RATE, "model.width": {"choices": [16, 32]}}


def plan(**changes):
    return SweepPlan.model_validate({"output_dir": "out", "training": "train.yaml", "search": SEARCH, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"search": {}}, "at least 1"),
        ({"search": {"output_dir": {"choices": ["a", "b"]}}}, "output_dir cannot be searched"),
        ({"search": {"data.fold": {"low": 0, "high": 1, "int": True}}}, "data.fold cannot be searched"),
        ({"search": {"evaluation.batch_size": {"choices": [1, 2]}}}, "cannot be searched"),
        ({"search": {"training": {"choices": [{}, None]}}}, "training cannot be searched"),
        ({"search": {"model": {"choices": [1, 2]}, "model.width": {"choices": [1, 2]}}}, "model.width lies in model"),
        ({"search": {"model.width": 3}}, "model.width"),
        ({"overrides": {"training": {"launcher": "in_process"}}}, "training.launcher belongs to the sweep"),
        ({"overrides": {"evaluation.test": True}}, "evaluation.test belongs to the sweep"),
        ({"objectives": [{"metric": "test/audio/accuracy"}]}, "is not validation"),
        ({"objectives": [{"metric": "validation/audio/uar"}] * 2}, "stands there twice"),
        ({"points_first": [{"model.width": 64}]}, "model.width=64 does not lie on its axis"),
        ({"points_first": [{"model": {"dropout": 0.1}}]}, "model.dropout is not searched"),
        ({"sampler": "cmaes"}, "two axes with low and high"),
        ({"sampler": "cmaes", "objectives": [{"metric": f"validation/{name}/uar"} for name in ("audio", "video")]},
         "takes one objective"),
        ({"sampler": "grid"}, "learning_rate needs a step"),
        ({"sampler": "grid", "search": {"model.dropout": {"low": 0, "high": 0.9, "step": 0.00001}}}, "more than 10000"),
        ({"storage": "postgresql://me:secret@host/vavl"}, "holds a password"),
        ({"storage": "study.db"}, "is no address"),
        ({"pruner": "hyperband"}, "'asha', 'median' or 'none'"),
    ],
)  # fmt: skip
def test_a_sweep_that_makes_no_sense_is_refused(changes, message):
    with pytest.raises(ValidationError, match=message):
        plan(**changes)


def test_paths_that_only_begin_alike_do_not_overlap():
    axis = {"choices": [1, 2]}
    assert plan(search={"model.width_x": axis, "model.width": axis}).search.keys() == {"model.width", "model.width_x"}


def test_a_pruner_may_be_given_by_its_name():
    assert plan(pruner="median").pruner.kind == "median"


def test_a_grid_counts_its_points_and_points_keep_their_sections():
    grid = plan(
        sampler="grid",
        search={"model.dropout": {"low": 0, "high": 0.3, "step": 0.1}, "model.width": {"choices": [16, 32]}},
    )
    assert grid.grid_points == 8
    whole = plan(
        search={"objectives.hgr": {"choices": [None, {"weight": 0.1}]}},
        points_first=[{"objectives": {"hgr": {"weight": 0.1}}}],
    )
    assert whole.first_points == [{"objectives.hgr": {"weight": 0.1}}]


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

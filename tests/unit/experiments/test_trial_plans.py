"""The search space against the settings of a training, before the first trial."""

from __future__ import annotations

import pytest

from vavl.errors import ConfigError
from vavl.experiments.trial_plans import corners, plans_of


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"search": {"model.widht": {"choices": [16, 32]}}}, "did you mean `width`"),
        ({"search": {"model.width": {"low": 16, "high": 32}}}, None),  # 16.0 is a whole number
        ({"search": {"model.width": {"low": 16, "high": 32.5}}}, "search.model.width: 32.5: .*integer"),
        ({"search": {"training.seed": {"choices": [True, 2]}}}, "True becomes 1|search.training.seed"),
        ({"search": {"model.dropout": {"low": 0.5, "high": 1.5}}}, "search.model.dropout: 1.5"),
        ({"search": {"model.width": {"choices": [16, 20]}, "model.attention_heads": {"choices": [2, 4]}}},
         "do not go together"),
        ({"overrides": {"training.workers": [1, 2]}}, "training.workers: a range"),
        ({"overrides": {"training.optimizer.learning_rate": 1.0}}, "1.0 of the training configuration does not lie"),
        ({"objectives": [{"metric": "validation/audio/accurracy"}]}, "accurracy is no metric"),
    ],
)  # fmt: skip
def test_a_space_that_no_training_takes_is_refused_with_its_path(changes, message, sweep_plan):
    plan = sweep_plan(**changes)
    if message is None:
        plan = sweep_plan(**changes, base_first=False)
        assert plans_of(plan).plan_of(1, {"model.width": 16.0}).model.width == 16
        return
    with pytest.raises(ConfigError, match=message):
        plans_of(plan)


def test_every_fault_is_named_at_once(sweep_plan):
    plan = sweep_plan(search={"model.widht": {"choices": [1, 2]}, "modle.width": {"choices": [1, 2]}})
    with pytest.raises(ConfigError, match=r"(?s)widht.*modle"):
        plans_of(plan)


def test_a_trial_is_a_full_training_that_never_measures_the_test_split(sweep_plan, tmp_path):
    plans = plans_of(sweep_plan(overrides={"training.max_epochs": 3, "model.dropout": 0.2}))
    plan = plans.plan_of(7, {"training.optimizer.learning_rate": 0.01, "model.dropout": 0.0})
    assert (plan.training.launcher, plan.training.engine, plan.evaluation.test) == ("ray", "deepspeed", False)
    assert plan.output_dir == tmp_path / "sweep/trials/trial-0007"
    assert (plan.training.optimizer.learning_rate, plan.model.dropout, plan.training.max_epochs) == (
        0.01,
        0.0,
        3,
    )
    assert plans.tracking == {"experiment": "of the training", "model_name": "trained"}


def test_a_section_is_one_value_that_replaces_what_was_there(sweep_plan):
    search = {"objectives.pseudo_label": {"choices": [None, {"weight": 0.5, "threshold": 0.9}]}}
    plans = plans_of(sweep_plan(search=search, overrides={"objectives.pseudo_label": None}))
    assert plans.own_point == {"objectives.pseudo_label": None}
    with_section = plans.plan_of(0, {"objectives.pseudo_label": {"weight": 0.5, "threshold": 0.9}})
    assert with_section.objectives.pseudo_label.threshold == 0.9
    assert plans.plan_of(1, {"objectives.pseudo_label": None}).objectives.pseudo_label is None


def test_the_training_configurations_own_values_are_tried_first(sweep_plan):
    plans = plans_of(sweep_plan(points_first=[{"model.dropout": 0.0}]))
    own = {"training.optimizer.learning_rate": 0.001, "model.dropout": 0.2}
    assert plans.first_points == [own, {"model.dropout": 0.0}]


def test_of_many_corners_a_fixed_draw_is_checked(sweep_plan):
    few = list(corners(sweep_plan()))
    assert len(few) == 4
    axes = {f"model.x{number}": {"low": 0, "high": 1} for number in range(12)}
    many = list(corners(sweep_plan(search=axes)))
    assert len(many) == 64
    assert set(many[0].values()) == {0.0}
    assert set(many[1].values()) == {1.0}
    assert many == list(corners(sweep_plan(search=axes)))

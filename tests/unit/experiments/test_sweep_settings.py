"""What a sweep's settings refuse before anything is read."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from vavl.experiments.sweep_settings import SweepPlan

RATE = {"low": 1e-4, "high": 1e-2, "log": True}
SEARCH = {"training.optimizer.learning_rate": RATE, "model.width": {"choices": [16, 32]}}


def plan(**changes):
    return SweepPlan.model_validate(
        {"output_dir": "out", "training": "train.yaml", "search": SEARCH, **changes}
    )


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
    assert plan(search={"model.width_x": axis, "model.width": axis}).search.keys() == {
        "model.width",
        "model.width_x",
    }


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

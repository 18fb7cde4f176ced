"""The grid of a comparison: which runs it has, what they are given, and what cannot exist."""

from __future__ import annotations

import datetime as dt
import logging

import pytest
import yaml
from copied_store import copy_store, relabelled_copy

from vavl.errors import ConfigError, VavlError
from vavl.experiments.comparison_grid import Cell, plan_grid
from vavl.experiments.comparison_settings import ComparisonPlan
from vavl.store.store_push import push_store
from vavl.training.run_folder import claim_run_folder


@pytest.fixture
def comparison(plan, tmp_path):
    """Return a function that makes a comparison of a plain and a smoothed set."""
    base = tmp_path / "train.yaml"
    content = plan(corpus={"clips_per_speaker": 20}).model_dump(mode="json")
    base.write_text(yaml.safe_dump({**content, "tracking": {"experiment": "ignored"}}))

    def make(**changes):
        sets = {"plain": None, "smooth": {"objectives.supervised.label_smoothing": 0.1}}
        return ComparisonPlan.model_validate(
            {"output_dir": tmp_path / "out", "training": base, "objective_sets": sets, **changes}
        )

    return make


def test_every_run_has_its_place_of_the_grid_and_one_process(comparison, tmp_path):
    grid = plan_grid(comparison(labelled_fractions=(0.25, 1.0), unpaired_shares=(0.0, 0.5), seeds=(3, 4)))
    assert len(grid.runs) == 2 * 2 * 2 * 2
    assert not grid.left_out
    cell = Cell("smooth", 0.25, 0.5, 0, 4)
    plan = grid.plans["smooth/labels-25_unpaired-50/fold-0_seed-4"]
    assert plan.output_dir == tmp_path / "out" / "runs" / cell.name
    chosen = plan.data.partitions
    assert (chosen.labelled_fraction, chosen.audio_only_share, chosen.video_only_share) == (0.25, 0.25, 0.25)
    assert (plan.training.seed, chosen.seed) == (4, 4)  # the draw of labels varies with the seed
    assert (plan.training.launcher, plan.training.engine, plan.training.workers) == ("in_process", "torch", 1)
    assert plan.objectives.supervised.label_smoothing == 0.1
    assert not plan.evaluation.test
    # An interrupted comparison has all sets of its first seed.
    assert [run.cells[0].seed for run in grid.runs] == [3] * 8 + [4] * 8


def test_a_set_wins_over_the_grid_and_equal_settings_are_trained_once(comparison):
    audio = {
        "data.partitions": {"audio_only_share": 1.0, "video_only_share": 0.0},
        "evaluation.select_by": ["validation/audio/accuracy"],
    }
    grid = plan_grid(comparison(unpaired_shares=(0.0, 0.5), objective_sets={"plain": {}, "audio": audio}))
    runs = {run.cells[0].objective_set: run for run in grid.runs if run.cells[0].objective_set == "audio"}
    assert runs["audio"].plan.data.partitions.audio_only_share == 1
    assert [cell.unpaired_share for cell in runs["audio"].cells] == [0.0, 0.5]
    assert len(grid.runs) == 3


def test_one_draw_for_all_seeds_can_be_asked_for(comparison):
    grid = plan_grid(comparison(seeds=(1, 2), partition_seed=9))
    assert {run.plan.data.partitions.seed for run in grid.runs} == {9}


def test_what_cannot_exist_is_left_out_with_the_reason(comparison, caplog):
    sets = {"plain": {}, "pseudo": {"objectives.pseudo_label.weight": 1.0}}
    with caplog.at_level(logging.INFO):
        grid = plan_grid(comparison(objective_sets=sets, labelled_fractions=(0.5, 1.0)))
    assert [(entry.cell.objective_set, entry.cell.labelled_fraction) for entry in grid.left_out] == [
        ("pseudo", 1.0)
    ]
    assert "every training clip has a label" in grid.left_out[0].reason
    assert len(grid.runs) == 3
    assert "clips by split" not in caplog.text


def test_wrong_settings_of_all_sets_are_named_at_once(comparison):
    sets = {"a": {"objectives.hgr.wieght": 1}, "b": {"model.widht": 3}, "c": {}}
    with pytest.raises(ConfigError, match=r"(?s)objective_sets\.a.*`weight`.*objective_sets\.b.*`width`"):
        plan_grid(comparison(objective_sets=sets))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"folds": (5,)}, "has no fold 5"),
        ({"overrides": {"data.store": "/nowhere"}}, "no feature store"),
        (
            {"overrides": {"evaluation.select_by": ["validation/audio/loss"]}},
            "no run of the comparison is possible",
        ),
    ],
)
def test_faults_of_all_runs_are_errors(comparison, changes, message):
    with pytest.raises(VavlError, match=message):
        plan_grid(comparison(**changes))


def test_pairs_are_the_reference_and_what_is_asked_for(comparison):
    chosen = comparison(reference="smooth", further_pairs=(("smooth", "plain"), ("plain", "smooth")))
    assert chosen.pairs == (("plain", "smooth"), ("smooth", "plain"))
    assert comparison().pairs == (("smooth", "plain"),)


def test_all_runs_of_a_comparison_have_one_version_of_the_latest_store(comparison, plan, tmp_path):
    place, noon = (tmp_path / "pushed").as_uri(), dt.datetime(2026, 3, 1, 12, tzinfo=dt.UTC)
    store = plan(corpus={"clips_per_speaker": 20}).data.store
    first = push_store(copy_store(store, tmp_path / "whole"), place, noon)
    latest = comparison(overrides={"data.store": f"{place}/small@latest"}, seeds=(3, 4))
    grid = plan_grid(latest)
    assert {run.plan.data.store for run in grid.runs} == {first.place}
    claim_run_folder(grid.runs[0].plan)
    newer = relabelled_copy(store, tmp_path / "newer")
    second = push_store(newer, place, noon + dt.timedelta(hours=1))
    assert {run.plan.data.store for run in plan_grid(latest).runs} == {first.place}
    elsewhere = latest.model_copy(update={"output_dir": tmp_path / "other"})
    assert {run.plan.data.store for run in plan_grid(elsewhere).runs} == {second.place}

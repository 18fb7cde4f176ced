"""The grid of a comparison: which runs it has, what they are given, and what cannot exist."""

from __future__ import annotations

import datetime as dt
import logging

import pytest
import yaml
from copied_store import copy_store, relabelled_copy

from vavl.config.files import read_json, write_json
from vavl.errors import ConfigError, TrainingError, VavlError
from vavl.experiments.comparison_grid import Cell, plan_grid
from vavl.experiments.comparison_settings import ComparisonPlan
from vavl.experiments.runner import run_trial
from vavl.experiments.trials import read_end
from vavl.store.store_versions import push_store
from vavl.training.launch import launch_training
from vavl.training.run_directory import claim_run_directory


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


def plans_of(grid):
    return {run.name: run.plan for run in grid.runs}


def test_every_run_has_its_place_of_the_grid_and_one_process(comparison, tmp_path):
    grid = plan_grid(comparison(labelled_fractions=(0.25, 1.0), unpaired_shares=(0.0, 0.5), seeds=(3, 4)))
    assert len(grid.runs) == 2 * 2 * 2 * 2
    assert not grid.left_out
    cell = Cell("smooth", 0.25, 0.5, 0, 4)
    plan = plans_of(grid)["smooth/labels-25_unpaired-50/fold-0_seed-4"]
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
    assert [(entry.cell.objective_set, entry.cell.labelled_fraction) for entry in grid.left_out] == [("pseudo", 1.0)]
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
        ({"overrides": {"evaluation.select_by": ["validation/audio/loss"]}}, "no run of the comparison is possible"),
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
    claim_run_directory(grid.runs[0].plan)
    newer = relabelled_copy(store, tmp_path / "newer")
    second = push_store(newer, place, noon + dt.timedelta(hours=1))
    assert {run.plan.data.store for run in plan_grid(latest).runs} == {first.place}
    elsewhere = latest.model_copy(update={"output_dir": tmp_path / "other"})
    assert {run.plan.data.store for run in plan_grid(elsewhere).runs} == {second.place}


@pytest.fixture
def train(logs):
    """Return a function that trains the next run of a grid in this process; it fails at an epoch if it is told to."""

    def go(grid, fail_at=None):
        trial = grid.next_trial(0)
        log = logs.of(trial.name, {})

        def launch(plan, folder, report):
            def checked(records):
                report(records)
                if any(record["kind"] == "epoch" and record["epoch"] == fail_at for record in records):
                    raise TrainingError("step", "loss", "is not finite", "lower the rate")

            launch_training(plan, folder, checked)

        run_trial(trial.number, trial.plan, log, lambda epoch: None, launch=launch)
        return trial.plan, grid.trial_ended(trial.number)

    return go


def test_a_run_that_failed_is_tried_again_from_its_checkpoint_and_a_finished_one_is_kept(comparison, train, logs):
    one = {"objective_sets": {"plain": {}}, "overrides": {"training": {"max_epochs": 3}}}
    first = plan_grid(comparison(**one))
    assert (first.kept, first.done, first.total) == ((), 0, 1)
    plan, failed = train(first, fail_at=2)
    assert (failed.state, first.done) == ("failed", 1)
    assert "is not finite" in failed.reason
    assert "FAILED: step: loss: is not finite" in first.line_of(failed)
    assert (plan.output_dir / "checkpoints").exists()

    second = plan_grid(comparison(**one))
    assert second.kept == ()
    _, done = train(second)
    assert done.state == "finished"
    assert [record["epoch"] for record in logs.made["plain/labels-100_unpaired-00/fold-0_seed-0"].records
            if record["kind"] == "epoch"] == [1, 2, 2, 3]  # fmt: skip
    assert f"validation audio_video {done.metrics['validation/audio_video/accuracy']:.3f}" in second.line_of(done)
    assert not (plan.output_dir / "checkpoints").exists()

    third = plan_grid(comparison(**one))
    assert (third.kept, third.done, third.next_trial(0)) == ((0,), 1, None)
    assert read_end(plan.output_dir) == done


def test_finished_means_the_same_settings_on_the_same_features(comparison, train, small_store, small_corpus):
    one = {"objective_sets": {"plain": {}}}
    short = {"training.max_epochs": 1}
    plan, _ = train(plan_grid(comparison(**one, overrides=short)))
    assert plan_grid(comparison(**one, overrides=short)).kept == (0,)
    assert plan_grid(comparison(**one, overrides={"training.max_epochs": 2})).kept == ()
    other = str(small_store(small_corpus(seed=5)))
    assert plan_grid(comparison(**one, overrides={**short, "data.store": other})).kept == ()
    state = read_json(plan.output_dir / "run.json")
    write_json(plan.output_dir / "run.json", {**state, "state": "running"})
    assert plan_grid(comparison(**one, overrides=short)).kept == ()
    write_json(plan.output_dir / "run.json", state)
    (plan.output_dir / "outcome.json").unlink()  # what a run that was stopped lacks
    assert plan_grid(comparison(**one, overrides=short)).kept == ()


def test_a_run_of_an_earlier_version_is_kept(comparison, train):
    one = {"objective_sets": {"plain": {}}, "overrides": {"training.max_epochs": 1}}
    plan, _ = train(plan_grid(comparison(**one)))
    summary = read_json(plan.output_dir / "summary.json")
    new = {"number", "state", "reason", "epochs_run", "epochs_full", "memory_gb"}  # that version 0.1 did not write
    old = {name: value for name, value in summary.items() if name not in new}
    write_json(plan.output_dir / "summary.json", old)
    assert plan_grid(comparison(**one)).kept == (0,)

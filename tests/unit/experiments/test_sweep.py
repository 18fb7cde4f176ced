"""A whole sweep with acted training runs: what is told, what a killed driver leaves, and what is refused."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from vavl.errors import ConfigError, InputError
from vavl.experiments.runner import run_trial
from vavl.experiments.study import best_of
from vavl.experiments.sweep import corners, open_sweep, plans_of, trials_at_once
from vavl.experiments.sweep_result import SweepResult, winning_settings
from vavl.experiments.sweep_settings import words_of
from vavl.experiments.trials import TrialEnd
from vavl.training.settings import TrainingSettings

METRIC = "validation/audio_video/accuracy"
RATE = "training.optimizer.learning_rate"
GB = 2.0**30


@pytest.fixture
def drive(sweep_plan, logs):
    """A function that runs a sweep in this process, one trial after the other, and returns the sweep."""

    def run(actor, **changes):
        with open_sweep(sweep_plan(**changes)) as sweep:
            sweep.resume(logs)
            while trial := sweep.next_trial(0):

                def tell(epoch, number=trial.number):
                    sweep.epoch_ended(number, epoch)

                run_trial(trial.number, trial.plan, logs.of(trial.name, {}), tell, launch=actor)
                sweep.trial_ended(trial.number)
            return sweep

    return run


def test_a_sweep_tries_the_base_first_stops_the_worse_and_finds_the_best(drive, actor):
    result = SweepResult.of(
        drive(actor(epoch_seconds=0.05, epochs=8), trials=5, pruner={"kind": "asha", "first_epochs": 1, "reduction": 2})
    )
    assert len(result.ends) == 5
    assert result.points[0] == {RATE: 0.001, "model.dropout": 0.2}
    assert result.base.number == 0
    assert result.base.epochs_run == 8
    assert result.best.metrics[METRIC] >= result.base.metrics[METRIC]
    assert result.count("pruned") >= 1
    run, full = result.epochs
    assert full == 5 * 8
    assert run < full
    assert result.saved_share == pytest.approx(1 - run / full)


def test_a_killed_sweep_goes_on_without_repeating_what_was_trained(drive, actor, killed, logs):
    first = actor(epochs=4, killed_in=2)
    with pytest.raises(killed):
        drive(first, pruner="none", trials=4)
    second = actor(epochs=4)
    sweep = drive(second, pruner="none", trials=4)
    assert sorted(sweep.ends) == [0, 1, 2, 3]
    assert {end.state for end in sweep.ends.values()} == {"finished"}
    # Two whole trials, two epochs of the third, and then the rest: nothing was trained twice.
    assert first.trained == [1, 2, 3, 4, 1, 2, 3, 4, 1, 2]
    assert second.trained == [3, 4, 1, 2, 3, 4]
    assert [record["epoch"] for record in logs.of("trial-0002", {}).epochs()] == [1, 2, 3, 4]
    third = actor(epochs=4)
    assert len(drive(third, pruner="none", trials=5).ends) == 5  # more trials may be asked for later
    assert len(third.trained) == 4


def test_an_end_that_nobody_told_is_told_at_the_next_start(drive, actor, sweep_plan, logs):
    with open_sweep(sweep_plan(trials=2)) as sweep:
        sweep.resume(logs)
        trial = sweep.next_trial(0)
        run_trial(0, trial.plan, logs.of(trial.name, {}), lambda epoch: None, launch=actor())
    again = actor()
    sweep = drive(again, trials=2)
    assert sorted(sweep.ends) == [0, 1]
    assert len(again.trained) == 9


def test_failures_are_recorded_and_too_many_in_a_row_end_the_sweep(drive, actor):
    sweep = drive(actor(fails_after=1), give_up_after=3)
    assert [end.reason for end in sweep.ends.values()] == ["RuntimeError: the machine is gone"] * 3
    assert sweep.gave_up
    assert SweepResult.of(sweep).best is None
    repaired = drive(actor(), give_up_after=3)
    assert repaired.done == repaired.total  # the others follow


def test_a_trial_without_an_objective_is_a_failed_one(drive, actor):
    goal = {"metric": "validation/audio_video/uar"}
    sweep = drive(actor(), objectives=[goal], trials=1)
    assert sweep.ends[0].state == "failed"
    assert sweep.ends[0].reason == "validation/audio_video/uar is not measured"


def test_a_process_that_dies_without_a_word_is_a_failed_trial(sweep_plan, logs):
    with open_sweep(sweep_plan(trials=1)) as sweep:
        sweep.resume(logs)
        trial = sweep.next_trial(0)
        end = sweep.trial_ended(trial.number, "its process died twice")
    assert (end.state, end.reason) == ("failed", "its process died twice")


def test_a_folder_keeps_its_axes_and_belongs_to_one_driver(drive, actor, sweep_plan):
    drive(actor(epochs=1), trials=1)
    other = sweep_plan(search={RATE: {"low": 1e-4, "high": 1e-1, "log": True}})
    with pytest.raises(ConfigError, match="holds a sweep of other axes"):
        plans_of(other)
    plans_of(sweep_plan(sampler="random", pruner="median", trials=50, seconds_per_trial=5))
    with (
        open_sweep(sweep_plan()),
        pytest.raises(InputError, match="another driver is at work there"),
        open_sweep(sweep_plan()),
    ):
        pass


def test_trials_without_their_study_are_not_overwritten(drive, actor, sweep_plan, tmp_path):
    drive(actor(epochs=1), trials=1)
    with pytest.raises(ConfigError, match="the study of this directory lies in sqlite"):
        plans_of(sweep_plan(storage=f"sqlite:///{tmp_path}/other.db"))
    (tmp_path / "sweep/study.db").unlink()
    with pytest.raises(InputError, match="their study is gone"), open_sweep(sweep_plan()):
        pass


def test_the_winner_is_a_training_of_its_own(drive, actor):
    result = SweepResult.of(drive(actor(epochs=3), trials=3, pruner="none"))
    content = winning_settings(result, {"experiment": "of the sweep"})
    assert content["training"]["optimizer"]["learning_rate"] == result.points[result.best.number][RATE]
    assert content["output_dir"].endswith("sweep/winner")
    assert content["tracking"]["model_name"] == "trained"
    assert content["evaluation"]["test"] is False


def test_of_equal_trials_the_first_is_the_best(sweep_plan):
    ends = [TrialEnd(number, "finished", metrics={METRIC: value}) for number, value in enumerate((0.4, 0.6, 0.6))]
    assert best_of(sweep_plan(), ends).number == 1
    assert best_of(sweep_plan(), []) is None
    assert words_of({RATE: 0.00123456, "model.x": None}) == "learning_rate=0.001235, x=null"


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
    assert (plan.training.optimizer.learning_rate, plan.model.dropout, plan.training.max_epochs) == (0.01, 0.0, 3)
    assert plans.tracking == {"experiment": "of the training", "model_name": "trained"}


def test_a_section_is_one_value_that_replaces_what_was_there(sweep_plan):
    search = {"objectives.pseudo_label": {"choices": [None, {"weight": 0.5, "kind": "hard", "threshold": 0.9}]}}
    plans = plans_of(sweep_plan(search=search, overrides={"objectives.pseudo_label": None}))
    assert plans.own_point == {"objectives.pseudo_label": None}
    with_section = plans.plan_of(0, {"objectives.pseudo_label": {"weight": 0.5, "kind": "hard", "threshold": 0.9}})
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


def at_once(machines, at_once=None, memory_gb=None, *, is_shared=False, seconds=None, **settings):
    """Count the trials for machines of (CPUs, GB)."""
    plan = SimpleNamespace(at_once=at_once, seconds_per_trial=seconds)
    resources = [{"CPU": float(cpus), "memory": memory * GB} for cpus, memory in machines]
    return trials_at_once(resources, TrainingSettings(**settings), plan, memory_gb, is_shared=is_shared)


@pytest.mark.parametrize(
    ("settings", "trials"),
    [
        ({"workers": 1}, 12),
        ({"workers": 2}, 6),
        ({"workers": 5}, 2),
        ({"workers": 3, "placement": "strict_pack"}, 2),
        ({"workers": 1, "cpus_per_worker": 3}, 3),
        ({"workers": 1, "gpus_per_worker": 1}, 1),  # none fits; the sweep has to end all the same
    ],
)
def test_resources_are_counted_for_whole_trials(settings, trials):
    assert at_once([(8, 16), (4, 8)], 99, **settings) == trials


def test_memory_of_the_first_trial_bounds_the_others():
    assert at_once([(8, 10)]) == 1  # nothing is known yet
    assert at_once([(8, 10)], memory_gb=2) == 4
    assert at_once([(8, 10)], memory_gb=0.1) == 8
    assert at_once([(8, 10)], memory_gb=100) == 1
    assert at_once([(8, 10)], 5) == 5


def test_on_a_cluster_one_trial_waits_for_machines_that_an_autoscaler_may_add():
    assert at_once([(2, 10)], 5) == 2
    assert at_once([(2, 10)], 5, is_shared=True) == 3
    assert at_once([(2, 10)], 2, is_shared=True) == 2
    assert at_once([], 5, is_shared=True) == 1
    assert at_once([(2, 10)], memory_gb=0.1, is_shared=True) == 3
    assert at_once([(2, 10)], memory_gb=4, is_shared=True) == 2
    assert at_once([(2, 10)], 5, is_shared=True, seconds=60) == 2  # the waiting would be a part of its time

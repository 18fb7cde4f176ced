"""A whole sweep with acted trainings: what is told, what a killed driver leaves, and what is refused."""

from __future__ import annotations

from collections import defaultdict

import pytest

from vavl.errors import ConfigError, InputError
from vavl.experiments.sweep import SweepResult, best_of, open_sweep, winning_settings, words_of
from vavl.experiments.trial import TrialEnd, run_trial
from vavl.experiments.trial_plans import plans_of

METRIC = "validation/audio_video/accuracy"
RATE = "training.optimizer.learning_rate"


@pytest.fixture
def logs(memory_log):
    return defaultdict(memory_log)


@pytest.fixture
def drive(sweep_plan, logs):
    """A function that runs a sweep in this process, one trial after the other, and returns the sweep."""

    def run(actor, **changes):
        with open_sweep(sweep_plan(**changes)) as sweep:
            sweep.resume(lambda number: logs[number])
            while trial := sweep.next_trial(0):

                def tell(epoch, number=trial.number):
                    sweep.epoch_ended(number, epoch)

                run_trial(trial.number, trial.plan, logs[trial.number], actor, tell)
                sweep.trial_ended(trial.number)
            return sweep

    return run


def test_a_sweep_tries_the_base_first_stops_the_worse_and_finds_the_best(drive, actor):
    result = SweepResult(
        drive(
            actor(epoch_seconds=0.05, epochs=8),
            trials=5,
            pruner={"kind": "asha", "first_epochs": 1, "reduction": 2},
        )
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
    assert [record["epoch"] for record in logs[2].epochs()] == [1, 2, 3, 4]
    third = actor(epochs=4)
    assert len(drive(third, pruner="none", trials=5).ends) == 5  # more trials may be asked for later
    assert len(third.trained) == 4


def test_an_end_that_nobody_told_is_told_at_the_next_start(drive, actor, sweep_plan, logs):
    with open_sweep(sweep_plan(trials=2)) as sweep:
        sweep.resume(lambda number: logs[number])
        trial = sweep.next_trial(0)
        run_trial(trial.number, trial.plan, logs[0], actor(), lambda epoch: None)
    again = actor()
    sweep = drive(again, trials=2)
    assert sorted(sweep.ends) == [0, 1]
    assert len(again.trained) == 9


def test_failures_are_recorded_and_too_many_in_a_row_end_the_sweep(drive, actor):
    sweep = drive(actor(fails_after=1), give_up_after=3)
    assert [end.reason for end in sweep.ends.values()] == ["RuntimeError: the machine is gone"] * 3
    assert sweep.gave_up
    assert SweepResult(sweep).best is None
    assert drive(actor(), give_up_after=3).left == 0  # repaired: the others follow


def test_a_trial_without_an_objective_is_a_failed_one(drive, actor):
    goal = {"metric": "validation/audio_video/uar"}
    sweep = drive(actor(), objectives=[goal], trials=1)
    assert sweep.ends[0].state == "failed"
    assert sweep.ends[0].reason == "validation/audio_video/uar is not measured"


def test_a_process_that_dies_without_a_word_is_a_failed_trial(sweep_plan, logs):
    with open_sweep(sweep_plan(trials=1)) as sweep:
        sweep.resume(lambda number: logs[number])
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
        pytest.raises(InputError, match="another process works on this sweep"),
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
    result = SweepResult(drive(actor(epochs=3), trials=3, pruner="none"))
    content = winning_settings(result, {"experiment": "of the sweep"})
    assert content["training"]["optimizer"]["learning_rate"] == result.points[result.best.number][RATE]
    assert content["output_dir"].endswith("sweep/winner")
    assert content["tracking"]["model_name"] == "trained"
    assert content["evaluation"]["test"] is False


def test_of_equal_trials_the_first_is_the_best(sweep_plan):
    ends = [
        TrialEnd(number, "finished", metrics={METRIC: value}) for number, value in enumerate((0.4, 0.6, 0.6))
    ]
    assert best_of(sweep_plan(), ends).number == 1
    assert best_of(sweep_plan(), []) is None
    assert words_of({RATE: 0.00123456, "model.x": None}) == "learning_rate=0.001235, x=null"

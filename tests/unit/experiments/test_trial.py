"""One trial in its process: how it ends, and that its end is written down."""

from __future__ import annotations

import pytest

from vavl.experiments.trial import best_epoch_metrics, read_end, run_trial
from vavl.experiments.trial_plans import plans_of
from vavl.training.stop import ask_to_stop

METRIC = "validation/audio_video/accuracy"


@pytest.fixture
def plan(sweep_plan):
    return plans_of(sweep_plan()).plan_of(3, {"training.optimizer.learning_rate": 1e-3})


@pytest.fixture
def trial(plan, memory_log):
    log = memory_log()

    def run(launch, seconds=None, tell=lambda epoch: None):
        return run_trial(3, plan, log, launch, tell, seconds)

    run.log = log
    return run


def test_a_finished_trial_tells_every_epoch_and_leaves_its_end(trial, plan, actor):
    told = []
    (plan.output_dir / "checkpoints").mkdir(parents=True)
    end = trial(actor(epochs=4), tell=told.append)
    assert [epoch["epoch"] for epoch in told] == [1, 2, 3, 4]
    assert told[0].keys() == {"epoch", "total_epochs", "metrics"}
    assert (end.state, end.epochs_run, end.epochs_full, end.number) == ("finished", 4, 4, 3)
    assert end.metrics[METRIC] == pytest.approx(0.9 * (1 - 0.5**4))
    assert end.memory_gb > 0.5
    assert read_end(plan.output_dir) == end
    assert trial.log.status == ["FINISHED"]
    assert not (plan.output_dir / "checkpoints").exists()


def test_a_trial_that_is_asked_to_stop_keeps_its_best_epoch(trial, plan, actor):
    def stop_it(epoch):
        if epoch["epoch"] == 2:
            ask_to_stop(plan.output_dir, "stop", "asha: stopped after epoch 2")

    end = trial(actor(epochs=200, epoch_seconds=0.02), tell=stop_it)
    assert (end.state, end.reason) == ("pruned", "asha: stopped after epoch 2")
    assert 2 <= end.epochs_run < 200
    assert end.metrics.keys() == {METRIC}
    assert trial.log.status == ["KILLED"]


def test_a_trial_that_takes_too_long_is_stopped(trial, actor):
    end = trial(actor(epochs=400, epoch_seconds=0.02), seconds=0.4)
    assert (end.state, end.reason) == ("pruned", "longer than 0.4 s")


def test_a_failure_is_written_down_and_the_checkpoints_stay(trial, plan, actor):
    (plan.output_dir / "checkpoints").mkdir(parents=True)
    end = trial(actor(fails_after=2))
    assert (end.state, end.reason, end.epochs_run) == ("failed", "RuntimeError: the machine is gone", 2)
    assert read_end(plan.output_dir) == end
    assert trial.log.status == ["FAILED"]
    assert (plan.output_dir / "checkpoints").exists()


def test_a_trial_that_goes_on_tells_the_new_epochs_alone(trial, actor):
    trial.log(
        [{"kind": "epoch", "epoch": epoch, "total_epochs": 5, "metrics": {METRIC: 0.1}} for epoch in (1, 2)]
    )
    told = []
    end = trial(actor(epochs=5), tell=told.append)
    assert [epoch["epoch"] for epoch in told] == [3, 4, 5]
    assert end.epochs_run == 5


def test_a_request_that_comes_after_the_end_changes_nothing(trial, plan, actor):
    def act(*words):
        actor(epochs=2)(*words)
        ask_to_stop(plan.output_dir, "stop", "too late")

    assert trial(act).state == "finished"


def test_the_best_epoch_is_the_first_of_equals_and_needs_all_its_metrics():
    epochs = [
        {"metrics": {METRIC: 0.5, "validation/audio_video/loss": 1.0}},
        {"metrics": {METRIC: 0.7, "train/loss/total": 2.0}},
        {"metrics": {METRIC: 0.7, "validation/audio_video/loss": 3.0}},
        {"metrics": {METRIC: None}},
    ]
    assert best_epoch_metrics(epochs, [METRIC]) == {METRIC: 0.7}
    assert (
        best_epoch_metrics(epochs, [METRIC, "validation/audio_video/loss"])["validation/audio_video/loss"]
        == 3.0
    )
    assert best_epoch_metrics([], [METRIC]) == {}

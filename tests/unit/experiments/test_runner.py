"""How trials run: one in its process to its end, and how Ray Tune gets the next ones."""

from __future__ import annotations

import json
import pickle

import pytest

from vavl.experiments.runner import _Searcher, best_epoch_metrics, resources_of_trial, run_trial
from vavl.experiments.sweep import open_sweep, plans_of
from vavl.experiments.trials import TrialEnd, read_end, write_end
from vavl.training.driver_lock import LOCK_FILE, only_driver
from vavl.training.settings import TrainingSettings
from vavl.training.stop import ask_to_stop

METRIC = "validation/audio_video/accuracy"
GB = 2.0**30


@pytest.fixture
def ended():
    return []


@pytest.fixture
def searcher_of(sweep_plan, logs, ended, monkeypatch):
    """A function that opens a sweep and gives its searcher; the sweep stays open until the test ends."""
    opened = []
    nodes = [{"Alive": True, "Resources": {"CPU": 2.0, "memory": 10 * GB}}, {"Alive": False, "Resources": {"CPU": 9.0}}]
    monkeypatch.setattr("ray.nodes", lambda: nodes)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)

    def searcher(**changes):
        context = open_sweep(sweep_plan(**changes))
        sweep = context.__enter__()
        opened.append(context)
        sweep.resume(logs)
        return sweep, _Searcher(sweep, lambda trial, end: ended.append(end))

    yield searcher
    for context in opened:
        context.__exit__(None, None, None)


def epoch(number, score, memory=0.1):
    metrics = {METRIC: score, "system/run_memory_gb": memory}
    return {"vavl_epoch": json.dumps({"epoch": number, "total_epochs": 9, "metrics": metrics})}


def finish(sweep, number):
    write_end(
        sweep.plan.trial_directory(number),
        TrialEnd(number, "finished", metrics={METRIC: 0.5}, epochs_run=9, epochs_full=9),
    )


def test_the_first_trial_runs_alone_until_its_memory_is_known(searcher_of, ended):
    sweep, searcher = searcher_of()
    first = searcher.suggest("a")
    assert first["number"] == 0
    assert json.loads(first["plan"])["output_dir"] == str(sweep.plan.trial_directory(0).absolute())
    assert searcher.suggest("b") is None
    searcher.on_trial_result("a", epoch(1, 0.3))
    assert searcher.suggest("b")["number"] == 1
    assert searcher.suggest("c") is None  # no further CPU


def test_trials_that_take_much_memory_run_one_after_the_other(searcher_of):
    _, searcher = searcher_of()
    searcher.suggest("a")
    searcher.on_trial_result("a", epoch(1, 0.3, memory=6.0))
    assert searcher.suggest("b") is None


def test_a_sweep_is_over_when_its_trials_have_ended(searcher_of, ended):
    sweep, searcher = searcher_of(trials=2, at_once=2)
    assert [searcher.suggest(name)["number"] for name in "ab"] == [0, 1]
    assert searcher.suggest("c") is None  # both may still fail for Tune's own reasons
    sweep.plan.trial_directory(0).mkdir(parents=True)
    finish(sweep, 0)
    searcher.on_trial_complete("a", {})
    searcher.on_trial_complete("b", error=True)
    assert searcher.suggest("c") == "FINISHED"
    assert [(end.number, end.state) for end in ended] == [(0, "finished"), (1, "failed")]
    assert "died twice" in ended[1].reason


def test_an_epoch_that_does_worse_asks_the_trial_to_stop(searcher_of):
    sweep, searcher = searcher_of(at_once=2)
    for name, score in (("a", 0.6), ("b", 0.2)):
        number = searcher.suggest(name)["number"]
        sweep.plan.trial_directory(number).mkdir(parents=True, exist_ok=True)
        for place in (1, 2):
            searcher.on_trial_result(name, epoch(place, score))
    assert not (sweep.plan.trial_directory(0) / "stop.json").exists()
    assert "asha: stopped after epoch 2" in (sweep.plan.trial_directory(1) / "stop.json").read_text()
    searcher.on_trial_result("unknown", epoch(1, 0.1))
    searcher.on_trial_result("a", {"done": True})


def test_what_tune_saves_of_it_holds_nothing(searcher_of, tmp_path):
    _, searcher = searcher_of()
    assert len(pickle.dumps(searcher)) < 200
    searcher.save(str(tmp_path / "state"))
    assert (tmp_path / "state").read_text() == "{}"
    with pytest.raises(NotImplementedError):  # a sweep is continued by its study
        searcher.restore(str(tmp_path / "state"))


@pytest.fixture
def plan(sweep_plan):
    return plans_of(sweep_plan()).plan_of(3, {"training.optimizer.learning_rate": 1e-3})


@pytest.fixture
def trial(plan, memory_log):
    log = memory_log()

    def run(launch, seconds=None, tell=lambda epoch: None):
        return run_trial(3, plan, log, tell, seconds, launch)

    run.log = log
    return run


def test_a_trial_holds_its_directory(trial, plan):
    seen = []
    trial(lambda *_: seen.append((plan.directory / LOCK_FILE).exists()))
    assert seen == [True]
    assert not (plan.directory / LOCK_FILE).exists()
    with only_driver(plan.output_dir):
        end = trial(lambda *_: seen.append("trained"))
    assert seen == [True]
    assert end.state == "failed"
    assert "another driver is at work there" in end.reason


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
    assert trial.log.states == ["finished"]
    assert not (plan.output_dir / "checkpoints").exists()


def test_a_trial_that_is_asked_to_stop_keeps_its_best_epoch(trial, plan, actor):
    def stop_it(epoch):
        if epoch["epoch"] == 2:
            ask_to_stop(plan.output_dir, "stop", "asha: stopped after epoch 2")

    end = trial(actor(epochs=200, epoch_seconds=0.02), tell=stop_it)
    assert (end.state, end.reason) == ("pruned", "asha: stopped after epoch 2")
    assert 2 <= end.epochs_run < 200
    assert end.metrics.keys() == {METRIC}
    assert trial.log.states == ["pruned"]


def test_a_trial_that_takes_too_long_is_stopped(trial, actor):
    end = trial(actor(epochs=400, epoch_seconds=0.02), seconds=0.4)
    assert (end.state, end.reason) == ("pruned", "longer than 0.4 s")


def test_a_failure_is_written_down_and_the_checkpoints_stay(trial, plan, actor):
    (plan.output_dir / "checkpoints").mkdir(parents=True)
    end = trial(actor(fails_after=2))
    assert (end.state, end.reason, end.epochs_run) == ("failed", "RuntimeError: the machine is gone", 2)
    assert read_end(plan.output_dir) == end
    assert trial.log.states == ["failed"]
    assert (plan.output_dir / "checkpoints").exists()


def test_a_trial_that_goes_on_tells_the_new_epochs_alone(trial, actor):
    trial.log([{"kind": "epoch", "epoch": epoch, "total_epochs": 5, "metrics": {METRIC: 0.1}} for epoch in (1, 2)])
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
    assert best_epoch_metrics(epochs, [METRIC, "validation/audio_video/loss"])["validation/audio_video/loss"] == 3.0
    assert best_epoch_metrics([], [METRIC]) == {}


def test_a_trial_asks_for_all_that_its_process_takes_and_for_next_to_nothing_where_workers_ask_themselves():
    asked = {"cpus_per_worker": 2, "resources_per_worker": {"memory": 3e9, "studio": 1}}
    alone = TrainingSettings.model_validate({"launcher": "in_process", "engine": "torch", **asked})
    assert resources_of_trial(alone) == {"CPU": 2, "memory": 3e9, "studio": 1}
    on_ray = TrainingSettings.model_validate({"launcher": "ray", "gpus_per_worker": 1, **asked})
    assert resources_of_trial(on_ray) == {"memory": 2**28}

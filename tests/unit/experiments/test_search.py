"""How Ray Tune gets the trials of a sweep: as many as there is room for, and what it hands back."""

from __future__ import annotations

import json
import pickle
from collections import defaultdict
from types import SimpleNamespace

import pytest

from vavl.experiments.search import _SweepSearcher, trials_at_once
from vavl.experiments.sweep import open_sweep
from vavl.experiments.trial import TrialEnd, write_end
from vavl.training.settings import TrainingSettings

METRIC = "validation/audio_video/accuracy"
GB = 2.0**30


@pytest.fixture
def heard():
    return defaultdict(list)


@pytest.fixture
def searcher_of(sweep_plan, memory_log, heard, monkeypatch):
    """A function that opens a sweep and gives its searcher; the sweep stays open until the test ends."""
    opened = []
    nodes = [
        {"Alive": True, "Resources": {"CPU": 2.0, "memory": 10 * GB}},
        {"Alive": False, "Resources": {"CPU": 9.0}},
    ]
    monkeypatch.setattr("vavl.experiments.search.ray.nodes", lambda: nodes)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)

    def searcher(**changes):
        context = open_sweep(sweep_plan(**changes))
        sweep = context.__enter__()
        opened.append(context)
        sweep.resume(lambda number: memory_log())
        settings = sweep.plans.plan_of(0, {}).training
        return sweep, _SweepSearcher(sweep, settings, heard["started"].append, [heard["ended"].append])

    yield searcher
    for context in opened:
        context.__exit__(None, None, None)


def epoch(number, score, memory=0.1):
    metrics = {METRIC: score, "system/run_memory_gb": memory}
    return {"vavl_epoch": json.dumps({"epoch": number, "total_epochs": 9, "metrics": metrics})}


def end(sweep, number):
    write_end(
        sweep.folder_of(number),
        TrialEnd(number, "finished", metrics={METRIC: 0.5}, epochs_run=9, epochs_full=9),
    )


def at_once(machines, at_once=None, memory_gb=None, *, is_shared=False, seconds=None, **settings):
    """Count the trials for machines of (CPUs, GB)."""
    plan = SimpleNamespace(at_once=at_once, memory_share=0.8, seconds_per_trial=seconds)
    sweep = SimpleNamespace(plan=plan, memory_gb=memory_gb)
    resources = [{"CPU": float(cpus), "memory": memory * GB} for cpus, memory in machines]
    return trials_at_once(resources, TrainingSettings(**settings), sweep, is_shared=is_shared)


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


def test_the_first_trial_runs_alone_until_its_memory_is_known(searcher_of, heard):
    sweep, searcher = searcher_of()
    first = searcher.suggest("a")
    assert first["number"] == 0
    assert json.loads(first["plan"])["output_dir"] == str(sweep.folder_of(0).absolute())
    assert searcher.suggest("b") is None
    searcher.on_trial_result("a", epoch(1, 0.3))
    assert searcher.suggest("b")["number"] == 1
    assert searcher.suggest("c") is None  # no further CPU
    assert [trial.number for trial in heard["started"]] == [0, 1]


def test_trials_that_take_much_memory_run_one_after_the_other(searcher_of):
    _, searcher = searcher_of()
    searcher.suggest("a")
    searcher.on_trial_result("a", epoch(1, 0.3, memory=6.0))
    assert searcher.suggest("b") is None


def test_a_sweep_is_over_when_its_trials_have_ended(searcher_of, heard):
    sweep, searcher = searcher_of(trials=2, at_once=2)
    assert [searcher.suggest(name)["number"] for name in "ab"] == [0, 1]
    assert searcher.suggest("c") is None  # both may still fail for Tune's own reasons
    sweep.folder_of(0).mkdir(parents=True)
    end(sweep, 0)
    searcher.on_trial_complete("a", {})
    searcher.on_trial_complete("b", error=True)
    assert searcher.suggest("c") == "FINISHED"
    assert [(ended.number, ended.state) for ended in heard["ended"]] == [(0, "finished"), (1, "failed")]
    assert "died twice" in heard["ended"][1].reason


def test_an_epoch_that_does_worse_asks_the_trial_to_stop(searcher_of):
    sweep, searcher = searcher_of(at_once=2)
    for name, score in (("a", 0.6), ("b", 0.2)):
        number = searcher.suggest(name)["number"]
        sweep.folder_of(number).mkdir(parents=True, exist_ok=True)
        for place in (1, 2):
            searcher.on_trial_result(name, epoch(place, score))
    assert not (sweep.folder_of(0) / "stop.json").exists()
    assert "asha: stopped after epoch 2" in (sweep.folder_of(1) / "stop.json").read_text()
    searcher.on_trial_result("unknown", epoch(1, 0.1))
    searcher.on_trial_result("a", {"done": True})


def test_what_tune_saves_of_it_holds_nothing(searcher_of, tmp_path):
    _, searcher = searcher_of()
    assert len(pickle.dumps(searcher)) < 200
    searcher.save(str(tmp_path / "state"))
    assert (tmp_path / "state").read_text() == "{}"
    with pytest.raises(NotImplementedError):  # a sweep is continued by its study
        searcher.restore(str(tmp_path / "state"))

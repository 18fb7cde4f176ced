"""How Ray Tune gets the trials of a sweep: as many as there is room for, and what it hands back."""

from __future__ import annotations

import json
import pickle
from collections import defaultdict

import pytest

from vavl.tuning.places import Room
from vavl.tuning.run import _SweepSearcher
from vavl.tuning.sweep import open_sweep
from vavl.tuning.trial import TrialEnd, write_end

METRIC = "validation/audio_video/accuracy"
GB = 2.0**30


@pytest.fixture
def heard():
    return defaultdict(list)


@pytest.fixture
def searcher_of(sweep_plan, memory_log, heard):
    """A function that opens a sweep and gives its searcher; the sweep stays open until the test ends."""
    opened = []

    def searcher(room=None, **changes):
        context = open_sweep(sweep_plan(**changes))
        sweep = context.__enter__()
        opened.append(context)
        sweep.take_up(lambda number: memory_log())
        room = room or Room(2, 10 * GB)
        return sweep, _SweepSearcher(sweep, lambda: room, heard["started"].append, [heard["ended"].append])

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


def test_the_first_trial_runs_alone_until_its_memory_is_known(searcher_of, heard):
    sweep, searcher = searcher_of()
    first = searcher.suggest("a")
    assert first["number"] == 0
    assert json.loads(first["plan"])["output_dir"] == str(sweep.folder_of(0).absolute())
    assert searcher.suggest("b") is None
    searcher.on_trial_result("a", epoch(1, 0.3))
    assert searcher.suggest("b")["number"] == 1
    assert searcher.suggest("c") is None  # no further place
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
    with pytest.raises(NotImplementedError, match="start the job again"):
        searcher.restore(str(tmp_path / "state"))

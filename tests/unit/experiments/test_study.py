"""The Optuna study: what it draws, what it remembers over a restart, and how ends are recorded."""

from __future__ import annotations

import json
from types import SimpleNamespace
from wsgiref.util import setup_testing_defaults

import optuna
import pytest

from vavl.errors import InputError
from vavl.experiments.study import Judge, SweepStudy, distribution_of, score_of, storage_address, value_of
from vavl.experiments.sweep_settings import ChoiceAxis, Objective, PrunerSettings

RATE = "training.optimizer.learning_rate"
METRIC = "validation/audio/accuracy"
GOAL = Objective(metric=METRIC)


@pytest.fixture
def study_of(sweep_plan, tmp_path):
    def study(**changes):
        plan = sweep_plan(**changes)
        plan.output_dir.mkdir(exist_ok=True)
        return SweepStudy(plan, "the sweep")

    return study


def loaded_study(plan):
    return optuna.load_study(study_name="the sweep", storage=storage_address(plan))


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_a_restart_draws_other_points_and_knows_who_was_interrupted(sampler, study_of):
    first = study_of(sampler=sampler)
    assert first.is_new
    drawn = [first.draw() for _ in range(3)]
    first.tell(0, "finished", [0.5])
    again = study_of(sampler=sampler)
    assert not again.is_new
    assert again.interrupted() == drawn[1:]
    assert again.ended() == {0: "finished"}
    assert again.draw().point[RATE] not in [entry.point[RATE] for entry in drawn]


def test_ends_are_recorded_as_what_they_were(study_of, sweep_plan):
    study = study_of()
    for _ in range(4):
        study.draw()
    study.note_epoch(1, 1, 0.25)
    study.tell(0, "finished", [0.5])
    study.tell(1, "pruned", None, "asha")
    study.tell(2, "failed", None, "out of memory")
    study.tell(2, "finished", [0.9])  # what was told stays
    loaded = loaded_study(sweep_plan())
    assert [trial.state.name for trial in loaded.trials] == ["COMPLETE", "PRUNED", "FAIL", "RUNNING"]
    assert study.ended() == {0: "finished", 1: "pruned", 2: "failed"}
    assert loaded.trials[2].user_attrs["reason"] == "out of memory"
    assert loaded.trials[1].intermediate_values == {1: 0.25}


def test_the_dashboard_shows_the_study(study_of, sweep_plan):
    """Its own server, asked as a browser asks it."""
    dashboard = pytest.importorskip("optuna_dashboard", reason="pip install optuna-dashboard")
    study = study_of()
    study.draw()
    study.note_epoch(0, 1, 0.25)
    study.tell(0, "finished", [0.5])
    server = dashboard.wsgi(storage_address(sweep_plan()))

    def answer(path):
        started = []
        asked = {}
        setup_testing_defaults(asked)
        body = b"".join(server({**asked, "PATH_INFO": path}, lambda status, *_: started.append(status)))
        assert started == ["200 OK"], body
        return json.loads(body)

    (shown,) = answer("/api/studies")["study_summaries"]
    assert shown["study_name"] == "the sweep"
    details = answer(f"/api/studies/{shown['study_id']}")
    assert details["objective_names"] == [sweep_plan().objectives[0].metric]
    (trial,) = details["trials"]
    assert (trial["state"], trial["values"]) == ("Complete", [0.5])
    assert [point["value"] for point in trial["intermediate_values"]] == [0.25]
    assert {param["name"] for param in trial["params"]} == {RATE, "model.dropout"}


def test_a_trial_that_was_killed_while_it_was_drawn_is_given_up(study_of, sweep_plan):
    study = study_of()
    loaded_study(sweep_plan()).ask()
    again = study_of()
    assert again.interrupted() == []
    assert again.interrupted() == []
    assert again.ended() == {}
    assert study.draw().number == 1


def test_points_come_first_and_their_gaps_are_drawn(study_of):
    study = study_of()
    study.try_first([{RATE: 1e-3, "model.dropout": 0.2}, {"model.dropout": 0.0}])
    assert study.draw().point == {RATE: 1e-3, "model.dropout": 0.2}
    assert study.draw().point["model.dropout"] == 0.0


def test_a_grid_visits_every_point_once(study_of, sweep_plan):
    search = {"model.x": {"choices": [None, [64, 32]]}, "model.y": {"low": 0, "high": 0.1, "step": 0.1}}
    grid = {"sampler": "grid", "search": search, "trials": 100}
    study = study_of(**grid)
    assert sweep_plan(**grid).most_trials == 4
    seen = []
    for _ in range(4):
        drawn = study.draw()
        seen.append(drawn.point)
        study.tell(drawn.number, "finished", [0.1])
    assert sorted(map(str, seen)) == sorted(
        str({"model.x": x, "model.y": y}) for x in (None, [64, 32]) for y in (0.0, 0.1)
    )


@pytest.mark.parametrize("value", [None, True, 3, 0.5, "text", [64, 32], {"weight": 0.1}])
def test_a_choice_of_any_kind_comes_back_as_it_was(value):
    axis = ChoiceAxis(choices=("other", value))
    stored = distribution_of(axis).choices[1]
    assert isinstance(stored, (type(None), bool, int, float, str))
    assert value_of(axis, stored) == value


def test_cmaes_draws_within_the_axes(study_of):
    search = {RATE: {"low": 1e-5, "high": 1e-1, "log": True}, "model.dropout": {"low": 0, "high": 0.5}}
    study = study_of(sampler="cmaes", search=search)
    for _ in range(4):
        drawn = study.draw()
        assert 1e-5 <= drawn.point[RATE] <= 1e-1
        study.tell(drawn.number, "finished", [drawn.point["model.dropout"]])


def test_several_objectives_have_a_front_and_their_names(study_of, sweep_plan):
    goals = [{"metric": "validation/audio/accuracy"}, {"metric": "validation/video/loss", "mode": "min"}]
    study = study_of(objectives=goals)
    assert loaded_study(sweep_plan()).metric_names == [goal["metric"] for goal in goals]
    for values in ([0.5, 1.0], [0.6, 2.0], [0.4, 1.5]):
        drawn = study.draw()
        study.note_epoch(drawn.number, 1, 0.1)  # Optuna keeps none of them
        study.tell(drawn.number, "finished", values)
    assert study.front() == [0, 1]


def test_importances_want_different_results(study_of):
    study = study_of()
    assert study.importances({}) == {}
    assert study.importances({0: 0.5, 1: 0.5, 2: 0.5, 3: 0.6}) == {}
    assert study.front() == []
    for place in range(5):
        drawn = study.draw()
        study.tell(drawn.number, "finished", [0.1 * place])
    found = study.importances({number: 0.1 * number for number in range(5)})
    assert found.keys() == {RATE, "model.dropout"}
    assert sum(found.values()) == pytest.approx(1)


def test_a_storage_that_cannot_be_opened_is_told_without_its_secrets(study_of):
    with pytest.raises(InputError, match=r"cannot be opened|not installed"):
        study_of(storage="postgresql+nothing://me@host/vavl")


def judge(kind, *, has_base=False):
    pruner = PrunerSettings(kind=kind, first_epochs=2, reduction=2)
    return Judge(SimpleNamespace(pruner=pruner, objectives=[GOAL], has_base=has_base))


def run(chosen, number, values, *, is_finished=True):
    """Give the epochs of a trial to a judge; return the epoch after which it was stopped, None if never."""
    for epoch, value in enumerate(values, start=1):
        if chosen.stops(number, epoch, {METRIC: value}):
            chosen.ended(number, is_finished=False)
            return epoch
    chosen.ended(number, is_finished=is_finished)
    return None


def test_asha_stops_the_worse_half_at_each_rung_and_lets_the_first_one_pass():
    chosen = judge("asha")
    assert run(chosen, 0, [0.1, 0.5, 0.5, 0.5, 0.5]) is None
    assert run(chosen, 1, [0.1, 0.4, 0.4, 0.4, 0.4]) == 2
    assert run(chosen, 2, [0.1, 0.6, 0.6, 0.4, 0.4]) is None  # the best epoch so far counts
    assert run(chosen, 3, [0.1, 0.6, 0.6, 0.55, 0.6]) is None
    assert run(chosen, 4, [0.6, 0.3, 0.3, 0.3]) is None


def test_median_waits_for_finished_trials():
    chosen = judge("median")
    for number, level in enumerate((0.5, 0.1, 0.4, 0.3)):  # fewer than four finished ones say nothing yet
        assert run(chosen, number, [level] * 3) is None
    assert run(chosen, 4, [0.45] * 3) is None
    assert run(chosen, 5, [0.05] * 3) == 2


def test_none_stops_nobody_and_the_base_runs_to_its_end():
    assert run(judge("none"), 0, [0.0] * 9) is None
    chosen = judge("asha", has_base=True)
    run(chosen, 1, [0.5] * 4)
    assert run(chosen, 0, [0.1] * 4) is None
    assert run(chosen, 2, [0.05] * 4) == 2


def test_a_judge_that_hears_everything_again_decides_as_before():
    first = judge("asha")
    for number, level in enumerate((0.5, 0.7, 0.6)):
        run(first, number, [level] * 3)
    again = judge("asha")
    for number, level in enumerate((0.5, 0.7, 0.6)):
        run(again, number, [level] * 3)
    for number, level in ((3, 0.55), (4, 0.8)):
        assert run(again, number, [level] * 5) == run(first, number, [level] * 5)


def test_epochs_that_were_seen_change_nothing_and_a_stop_stays():
    chosen = judge("asha")
    run(chosen, 0, [0.5] * 3)
    assert [chosen.stops(1, epoch, {METRIC: 0.1}) for epoch in (1, 2)] == [False, True]
    assert chosen.stops(1, 1, {METRIC: 0.9})
    assert chosen.best[1] == 0.1


def test_a_value_that_is_missing_is_no_score():
    goals = [GOAL, Objective(metric="validation/audio/loss", mode="min")]
    assert score_of(goals, {METRIC: 0.5, "validation/audio/loss": 0.3}) == pytest.approx(0.1)
    assert score_of(goals, {METRIC: 0.5}) is None
    assert score_of([GOAL], {METRIC: None}) is None
    assert score_of([GOAL], {METRIC: float("nan")}) is None
    assert not judge("asha").stops(0, 1, {METRIC: None})

"""The Optuna study: what it draws, what it remembers over a restart, and how ends are recorded."""

from __future__ import annotations

import optuna
import pytest

from vavl.errors import InputError
from vavl.experiments.study import SweepStudy, distribution_of, storage_address, value_of
from vavl.experiments.sweep_settings import ChoiceAxis

RATE = "training.optimizer.learning_rate"


@pytest.fixture
def study_of(sweep_plan, tmp_path):
    def study(**changes):
        plan = sweep_plan(**changes)
        plan.output_dir.mkdir(exist_ok=True)
        return SweepStudy(plan, "the sweep")

    return study


def states(study, sweep_plan):
    loaded = optuna.load_study(study_name="the sweep", storage=storage_address(sweep_plan()))
    return [trial.state.name for trial in loaded.trials]


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
    assert states(study, sweep_plan) == ["COMPLETE", "PRUNED", "FAIL", "RUNNING"]
    assert study.ended() == {0: "finished", 1: "pruned", 2: "failed"}
    loaded = optuna.load_study(study_name="the sweep", storage=storage_address(sweep_plan()))
    assert loaded.trials[2].user_attrs["reason"] == "out of memory"
    assert loaded.trials[1].intermediate_values == {1: 0.25}


def test_a_trial_that_was_killed_while_it_was_drawn_is_given_up(study_of, sweep_plan):
    study = study_of()
    optuna.load_study(study_name="the sweep", storage=storage_address(sweep_plan())).ask()
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


def test_a_grid_visits_every_point_once(study_of):
    search = {"model.x": {"choices": [None, [64, 32]]}, "model.y": {"low": 0, "high": 0.1, "step": 0.1}}
    study = study_of(sampler="grid", search=search, trials=100)
    assert study.trials == 4
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


def test_several_objectives_have_a_front(study_of):
    goals = [{"metric": "validation/audio/accuracy"}, {"metric": "validation/video/loss", "mode": "min"}]
    study = study_of(objectives=goals)
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

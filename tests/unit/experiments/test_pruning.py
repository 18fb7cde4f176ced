"""Who is stopped early: the rules over acted epochs."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from vavl.experiments.study import Judge, score_of
from vavl.experiments.sweep_settings import Objective, PrunerSettings

METRIC = "validation/audio/accuracy"
GOAL = Objective(metric=METRIC)


def judge(kind, *, has_base=False):
    pruner = PrunerSettings(kind=kind, first_epochs=2, reduction=2, startup_trials=2)
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
    assert run(chosen, 0, [0.5, 0.5, 0.5]) is None
    assert run(chosen, 1, [0.1, 0.1, 0.1]) is None  # one finished trial says nothing yet
    assert run(chosen, 2, [0.4, 0.4, 0.4]) is None
    assert run(chosen, 3, [0.05, 0.05, 0.05]) == 2


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

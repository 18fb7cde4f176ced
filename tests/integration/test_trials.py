"""Trials, each in an actor of Ray Tune: one whose process dies takes no other with it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
from tiny_plans import tiny_plan

from vavl.experiments.comparison_grid import Cell, Grid, PlannedRun
from vavl.experiments.runner import run_trials
from vavl.training.settings import TrainingPlan

pytestmark = [pytest.mark.ray]


def logs() -> Any:
    """Return what records nothing, and ends the process of a run whose name begins with ``dies``.

    Classes within a function: Ray's workers get them whole, and need not find this module.
    """

    @dataclass(frozen=True)
    class Log:
        kill: bool

        def start(self, plan: TrainingPlan, folder: Any) -> None:
            if self.kill:
                os._exit(1)

        def __call__(self, records: Sequence[dict[str, Any]]) -> None:
            pass

        def epochs(self) -> list[dict[str, Any]]:
            return []

        def end(self, state: str, metrics: Mapping[str, float]) -> None:
            pass

    class Logs:
        def of(self, name: str, tags: Mapping[str, str]) -> Log:
            return Log(name.startswith("dies"))

    return Logs()


def test_a_process_that_dies_takes_no_other_run_with_it(small_store, small_corpus, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    store = small_store(small_corpus())
    runs = [
        PlannedRun(tiny_plan(tmp_path / name, store, training={"max_epochs": 1}), (Cell(name, 1.0, 0.0, 0, 0),))
        for name in ("dies", "lives")
    ]
    grid = Grid(runs, [], SimpleNamespace(split="validation", at_once=1))
    recorded = []
    parent = SimpleNamespace(directory=tmp_path, logs=logs(), trial_ended=lambda trial, end: recorded.append(end))
    run_trials(grid, parent)
    dead, alive = (grid.ends[number] for number in (0, 1))
    assert (dead.state, alive.state) == ("failed", "finished")
    assert "its process died twice" in dead.reason
    assert {end.number for end in recorded} == {0, 1}
    assert not (tmp_path / "tune").exists()

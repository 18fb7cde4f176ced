"""Plans of runs that take a second, without Ray."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from killed_training import Killed, dying
from tiny_plans import tiny_plan

from vavl.training.checkpoint_files import LoopState
from vavl.training.loop import train
from vavl.training.run import TrainingRun, prepare_run
from vavl.training.settings import TrainingPlan

# Paired, audio-only, video-only and unlabeled clips; 40 training clips, 10 rows per step.
MIXED = {"without_audio": (0,), "without_video": (1,), "without_label": (1, 2)}


class Records:
    """Collects what a run reports."""

    def __init__(self) -> None:
        self.all: list[dict[str, Any]] = []

    def __call__(self, records: Sequence[dict[str, Any]]) -> None:
        self.all.extend(records)

    def of(self, kind: str) -> list[dict[str, Any]]:
        """Return the records of one kind in order."""
        return [record for record in self.all if record["kind"] == kind]

    def losses(self) -> list[float]:
        """Return the total loss of each step."""
        return [record["metrics"]["train/loss/total"] for record in self.of("step")]


@pytest.fixture
def records() -> type[Records]:
    """Return the class of the collector."""
    return Records


@pytest.fixture
def plan(
    small_store: Callable[..., Path], small_corpus: Callable[..., Any], tmp_path: Path
) -> Callable[..., TrainingPlan]:
    """Return a function that makes a plan; sections are merged over those of a tiny run."""

    def make(name: str = "run", corpus: dict[str, Any] | None = None, **sections: Any) -> TrainingPlan:
        store = small_store(small_corpus(**(MIXED if corpus is None else corpus)))
        return tiny_plan(tmp_path / name, store, **sections)

    return make


TrainFrom = Callable[..., tuple[TrainingRun, LoopState, LoopState | None, Records]]


@pytest.fixture
def train_from(records: type[Records]) -> TrainFrom:
    """Return a function that resumes a plan or starts it, and dies at a step if asked."""

    def go(plan: TrainingPlan, die_at: int | None = None) -> tuple[TrainingRun, LoopState, LoopState | None, Records]:
        run, seen = prepare_run(plan), records()
        if die_at is not None:
            run = replace(run, engine=dying(run.engine, die_at))
        try:
            return run, run.start, train(run, run.start, seen).state, seen
        except Killed:
            # A killed process takes its writer along; here it would write into the next attempt.
            run.checkpoints.finish()
            return run, run.start, None, seen

    return go

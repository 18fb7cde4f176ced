"""Runs that take a second, without Ray: their plans, what they report, how they die, and the models that they leave."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from tiny_plans import tiny_plan
from torch import Tensor

from vavl.models.saved_model import SavedModel, load_model
from vavl.training.checkpoint_files import LoopState
from vavl.training.engine import Engine
from vavl.training.loop import train
from vavl.training.run import TrainingRun, prepare_run
from vavl.training.settings import TrainingPlan
from vavl.training.worker import read_outcome, train_on_worker

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


class Killed(BaseException):
    """What a kill looks like from inside: no handler of the platform sees it."""


def dying(engine: Engine, steps: int) -> Engine:
    """Let an engine die at its n-th step."""
    calls, real_step = itertools.count(1), engine.step

    def step(learning_rate: float) -> Tensor:
        if next(calls) == steps:
            raise Killed
        return real_step(learning_rate)

    engine.step = step
    return engine


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


# Of the session's trained models; few rows lack a side.
_TRAINED_ON = {"without_audio": (0,), "without_video": (1,), "without_label": (2,)}


@dataclass(frozen=True)
class Trained:
    """A finished training.

    Attributes:
        folder: of the run.
        store: that it trained on.
        metrics: that it measured of its best epoch.
    """

    folder: Path
    store: Path
    metrics: dict[str, float]

    def model(self) -> SavedModel:
        """Return what it trained."""
        return load_model(self.folder / "best")


@pytest.fixture(scope="session")
def trained(
    small_store: Callable[..., Path], small_corpus: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Trained]:
    """Return a function that trains on a mixed store and measures test; sections as in ``tiny_plan``."""
    made: dict[str, Trained] = {}

    def train(corpus: dict[str, Any] | None = None, **sections: Any) -> Trained:
        key = repr((corpus, sections))
        if key not in made:
            store = small_store(small_corpus(**(_TRAINED_ON if corpus is None else corpus)))
            folder = tmp_path_factory.mktemp("trained")
            plan = tiny_plan(folder, store, **{"evaluation": {"test": True}, **sections})
            train_on_worker(plan, lambda records: None)
            made[key] = Trained(folder, store, read_outcome(folder)["metrics"])
        return made[key]

    return train

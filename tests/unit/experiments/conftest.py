"""A small sweep on a synthetic store, whose training runs are acted out instead of computed."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from tiny_plans import write_small_training

from vavl.config.files import write_json
from vavl.experiments.sweep_settings import SweepPlan
from vavl.training.launch import stopped
from vavl.training.run_directory import RunDirectory
from vavl.training.settings import TrainingPlan
from vavl.training.stop import clear_stop, stop_request

METRIC = "validation/audio_video/accuracy"
RATE = "training.optimizer.learning_rate"


@dataclass
class MemoryLog:
    """Keeps what a trial reports, for tests in one process."""

    records: list[dict[str, Any]] = field(default_factory=list)
    states: list[str] = field(default_factory=list)

    def start(self, plan: TrainingPlan, folder: RunDirectory) -> None:
        """Nothing is kept of the start."""

    def __call__(self, records: Sequence[Mapping[str, Any]]) -> None:
        self.records += [dict(record) for record in records]

    def epochs(self) -> list[dict[str, Any]]:
        found = {record["epoch"]: record for record in self.records if record["kind"] == "epoch"}
        return [found[epoch] for epoch in sorted(found)]

    def end(self, state: str, metrics: Mapping[str, float]) -> None:
        self.states.append(state)


@dataclass
class MemoryLogs:
    """Gives the logs of trials, the same one for the same name."""

    made: dict[str, MemoryLog] = field(default_factory=dict)

    def of(self, name: str, tags: Mapping[str, Any]) -> MemoryLog:
        return self.made.setdefault(name, MemoryLog())


class Killed(BaseException):
    """The process dies: nobody catches it."""


@dataclass
class Actor:
    """Acts a training out: its accuracy grows over the epochs to what its learning rate deserves."""

    epochs: int = 9
    epoch_seconds: float = 0.0
    fails_after: int | None = None
    killed_in: int | None = None
    trained: list[int] = field(default_factory=list)

    def __call__(self, plan: TrainingPlan, folder: RunDirectory, log: MemoryLog) -> None:
        clear_stop(plan.output_dir)
        rate = plan.training.optimizer.learning_rate
        metrics = dict(log.epochs()[-1]["metrics"]) if log.epochs() else {}
        best = 0.9 - 0.2 * abs(math.log10(rate / 1e-3))
        for epoch in range(len(log.epochs()) + 1, self.epochs + 1):
            metrics = {METRIC: best * (1 - 0.5**epoch), "system/run_memory_gb": 0.5}
            log([{"kind": "epoch", "epoch": epoch, "total_epochs": self.epochs, "metrics": metrics}])
            self.trained.append(epoch)
            time.sleep(self.epoch_seconds)
            if self.fails_after == epoch:
                raise RuntimeError("the machine is gone")
            if plan.output_dir.name == f"trial-{self.killed_in or -1:04d}" and epoch == 2:
                raise Killed
            if stop_request(plan.output_dir):
                raise stopped(plan.output_dir)
        write_json(plan.output_dir / "outcome.json", {"metrics": {METRIC: metrics[METRIC]}})


@pytest.fixture(autouse=True)
def _quick_looks(monkeypatch):
    monkeypatch.setattr("vavl.experiments.runner._LOOK_SECONDS", 0.01)


@pytest.fixture
def killed():
    """What a killed driver looks like."""
    return Killed


@pytest.fixture
def actor():
    """The class of acted training runs: test modules cannot import this file."""
    return Actor


@pytest.fixture
def memory_log():
    """The class of logs in memory."""
    return MemoryLog


@pytest.fixture
def logs():
    """Logs of the trials of a comparison or a sweep."""
    return MemoryLogs()


@pytest.fixture
def training_file(small_store, small_corpus, tmp_path):
    """A training configuration of the small corpus."""
    return write_small_training(
        tmp_path / "train.yaml",
        small_store(small_corpus(clips_per_speaker=20)),
        training={"max_epochs": 9, "optimizer": {"learning_rate": 1e-3}},
        tracking={"experiment": "of the training", "model_name": "trained"},
    )


@pytest.fixture
def sweep_plan(training_file, tmp_path):
    """A function that gives the settings of a sweep over the learning rate, with changes."""

    def plan(**changes: Any) -> SweepPlan:
        content = {
            "output_dir": tmp_path / "sweep", "training": training_file, "trials": 6,
            "search": {RATE: {"low": 1e-5, "high": 1e-1, "log": True}, "model.dropout": {"choices": [0.0, 0.2]}},
            "overrides": {"model.dropout": 0.2},
            "pruner": {"kind": "asha", "first_epochs": 2, "reduction": 2},
        }  # fmt: skip
        return SweepPlan.model_validate({**content, **changes})

    return plan

"""Many trainings, each in a process of Ray: one that dies takes no other with it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import ray

from vavl.experiments.many import train_many
from vavl.training.settings import TrainingPlan

pytestmark = [pytest.mark.ray]


@dataclass(frozen=True)
class Log:
    """Records nothing; ends its process at the start of a run if it is told to."""

    kill: bool

    def start(self, plan: TrainingPlan, folder: Any) -> None:
        if self.kill:
            os._exit(1)

    def __call__(self, records: Sequence[dict[str, Any]]) -> None:
        pass

    def end(self, status: str, metrics: Mapping[str, float]) -> None:
        pass


def test_a_process_that_dies_takes_no_other_run_with_it(small_store, small_corpus, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    store = small_store(small_corpus())
    plans = {
        name: TrainingPlan.model_validate(
            {
                "output_dir": tmp_path / name,
                "data": {"store": store, "composition": {"batch_size": 10}},
                "model": {"preset": "small", "width": 8, "attention_heads": 2},
                "training": {"launcher": "in_process", "engine": "torch", "max_epochs": 1},
            }
        )
        for name in ("dies", "lives")
    }
    try:
        ends = {end.name: end for end in train_many(plans, lambda name: Log(name == "dies"), at_once=1)}
    finally:
        ray.shutdown()
    assert ends["lives"].state == "finished"
    assert ends["dies"].state == "failed"
    assert "its process ended" in ends["dies"].reason

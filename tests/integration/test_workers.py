"""Training on real Ray workers: the number of workers does not change the result."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray

from vavl.errors import InputError, TrainingError
from vavl.training.launch import launch_training
from vavl.training.run_folder import claim_run_folder
from vavl.training.settings import TrainingPlan
from vavl.training.worker import read_outcome

pytestmark = [pytest.mark.ray]

# 160 clips of 8 speakers; every partition but audio-only labelled has clips, and 16 rows do not
# divide by three micro-batches of two workers.
STEPS = 50

Make = Callable[..., TrainingPlan]
Train = Callable[[TrainingPlan], np.ndarray]


@pytest.fixture(scope="module", autouse=True)
def _ray_ends() -> Iterator[None]:
    yield
    ray.shutdown()


@pytest.fixture
def plan(small_store: Callable[..., Path], small_corpus: Callable[..., Any], tmp_path: Path) -> Make:
    store = small_store(
        small_corpus(clips_per_speaker=20, without_audio=(0,), without_video=(1,), without_label=(1, 2))
    )

    def make(name: str, **training: Any) -> TrainingPlan:
        return TrainingPlan.model_validate(
            {
                "output_dir": tmp_path / name,
                "data": {"store": store, "composition": {"batch_size": 16}},
                "model": {"preset": "small", "width": 16, "attention_heads": 2, "dropout": 0, "head_dropout": 0},
                "training": {
                    "max_epochs": 20, "max_steps": STEPS, "checkpoint_every_epochs": 5,
                    "optimizer": {"learning_rate": 1e-3}, **training,
                },
                "evaluation": {"test": True},
            }
        )  # fmt: skip

    return make


@pytest.fixture
def train(file_sink: type[Any]) -> Train:
    """Return a function that trains a plan and gives the loss of every step."""

    def train_it(plan: TrainingPlan) -> np.ndarray:
        sink = file_sink(plan.output_dir.with_suffix(".jsonl"))
        launch_training(plan, claim_run_folder(plan), sink)
        losses = {
            record["step"]: record["metrics"]["train/loss/total"]
            for record in sink.records()
            if record["kind"] == "step"
        }
        assert sorted(losses) == list(range(len(losses)))
        return np.array([losses[step] for step in sorted(losses)])

    return train_it


def test_two_workers_give_the_loss_curve_and_the_scores_of_one(plan: Make, train: Train) -> None:
    one, two = plan("one", workers=1, zero_stage=0), plan("two", workers=2, zero_stage=2, micro_batches=3)
    alone, together = train(one), train(two)
    assert len(alone) == len(together) == STEPS
    assert np.ptp(alone) > 0.1  # the curve moves: equality of constants would show nothing
    np.testing.assert_allclose(together, alone, rtol=1e-5)
    scores = [read_outcome(run.output_dir)["metrics"] for run in (one, two)]
    assert scores[0].keys() == scores[1].keys()
    for name, value in scores[0].items():
        assert scores[1][name] == pytest.approx(value, abs=1e-4), name


def test_an_error_in_a_worker_keeps_its_class_and_message(plan: Make, train: Train) -> None:
    broken = plan("broken", workers=2)
    missing = broken.data.model_copy(update={"store": broken.output_dir / "nowhere"})
    with pytest.raises(InputError, match="no feature store"):
        train(broken.model_copy(update={"data": missing}))


def test_more_workers_than_cpus_are_refused_at_once(plan: Make, train: Train) -> None:
    with pytest.raises(
        TrainingError, match="500 workers with 1 CPUs each are asked for, this machine has place for"
    ):
        train(plan("many", workers=500))

"""Training on real Ray workers: their number does not change the result, a bug ends the run, a lost worker does not."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch

from vavl.errors import InputError, TrainingError
from vavl.training.launch import launch_training
from vavl.training.run_directory import claim_run_directory
from vavl.training.settings import TrainingPlan
from vavl.training.worker import read_outcome

pytestmark = [pytest.mark.ray]

# 160 clips of 8 speakers; every partition but audio-only labeled has clips, and 16 rows do not
# divide by three micro-batches of two workers.
STEPS = 30

Make = Callable[..., TrainingPlan]
Train = Callable[[TrainingPlan], np.ndarray]


@pytest.fixture
def plan(small_store: Callable[..., Path], small_corpus: Callable[..., Any], tmp_path: Path) -> Make:
    # Workers of Ray import this module for its functions, and find no support of tests.
    from tiny_plans import tiny_plan

    store = small_store(
        small_corpus(clips_per_speaker=20, without_audio=(0,), without_video=(1,), without_label=(1, 2))
    )

    def make(name: str, **training: Any) -> TrainingPlan:
        steps = {"max_epochs": 20, "max_steps": STEPS, "checkpoint_every_epochs": 5}
        return tiny_plan(
            tmp_path / name,
            store,
            data={"composition": {"batch_size": 16}},
            training={"launcher": "ray", "engine": "deepspeed", **steps, **training},
            evaluation={"test": True},
        )

    return make


@pytest.fixture
def train(file_sink: type[Any]) -> Train:
    """Return a function that trains a plan and gives the loss of every step."""

    def train_it(plan: TrainingPlan) -> np.ndarray:
        sink = file_sink(plan.output_dir.with_suffix(".jsonl"))
        launch_training(plan, claim_run_directory(plan), sink)
        losses = {
            record["step"]: record["metrics"]["train/loss/total"]
            for record in sink.records()
            if record["kind"] == "step"
        }
        assert sorted(losses) == list(range(len(losses)))
        return np.array([losses[step] for step in sorted(losses)])

    return train_it


@pytest.mark.parametrize(
    "how", [{"zero_stage": 2}, pytest.param({"engine": "torch"}, marks=pytest.mark.slow)], ids=["deepspeed", "torch"]
)
def test_two_workers_give_the_loss_curve_and_the_scores_of_one(plan: Make, train: Train, how: dict[str, Any]) -> None:
    one = plan("one", launcher="in_process", engine="torch")
    two = plan("two", workers=2, clips_per_forward=3, **how)  # three micro-batches each
    alone, together = train(one), train(two)
    assert len(alone) == len(together) == STEPS
    assert np.ptp(alone) > 0.1  # the curve moves: equality of constants would show nothing
    np.testing.assert_allclose(together, alone, rtol=1e-5)
    scores = [read_outcome(run.output_dir)["metrics"] for run in (one, two)]
    assert scores[0].keys() == scores[1].keys()
    for name, value in scores[0].items():
        assert scores[1][name] == pytest.approx(value, abs=1e-4), name


@pytest.mark.slow
def test_an_error_in_a_worker_keeps_its_class_and_message(plan: Make, train: Train) -> None:
    broken = plan("broken", workers=2)
    missing = broken.data.model_copy(update={"store": broken.output_dir / "nowhere"})
    with pytest.raises(InputError, match="no feature store"):
        train(broken.model_copy(update={"data": missing}))


def test_more_workers_than_cpus_are_refused_at_once(plan: Make, train: Train) -> None:
    with pytest.raises(TrainingError, match="500 workers with 1 CPUs each are asked for, this machine can hold"):
        train(plan("many", workers=500))


FAILING_STEP = 7


def train_and_fail(fail: Callable[[], None], plan: TrainingPlan, run_id: str) -> dict[str, Any]:
    """Be a worker of Ray whose rank 1 does something in the middle of training."""
    from vavl.training import loop, ray_worker
    from vavl.training.collectives import rank_and_world_size

    take_step = loop.train_step
    rank = rank_and_world_size()[0]
    with (plan.output_dir / f"attempts-{rank}").open("a") as file:
        file.write("x")

    def step_or_fail(run: Any, step: int, *rest: Any) -> Any:
        if rank == 1 and step == FAILING_STEP:
            fail()
        return take_step(run, step, *rest)

    with patch.object(loop, "train_step", step_or_fail):
        return ray_worker.train_on_ray_worker(plan, run_id)


def attempts(plan: TrainingPlan) -> list[int]:
    return [len((plan.output_dir / f"attempts-{rank}").read_text()) for rank in (0, 1)]


def raise_it(error: Exception) -> None:
    raise error


@pytest.mark.parametrize(
    ("error", "message"),
    [
        pytest.param(RuntimeError("boom"), "RuntimeError: boom", marks=pytest.mark.slow),
        pytest.param(
            ZeroDivisionError("division by zero"), "ZeroDivisionError: division by zero", marks=pytest.mark.slow
        ),
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB."),
            r"clips_per_forward: out of memory with 3 per forward pass: CUDA out of memory",
        ),
    ],
    ids=["bug", "another bug", "memory"],
)
def test_an_exception_of_a_living_worker_ends_the_run_at_once(
    plan: Make, train: Train, monkeypatch: pytest.MonkeyPatch, error: Exception, message: str
) -> None:
    failing = partial(train_and_fail, partial(raise_it, error))
    monkeypatch.setattr("vavl.training.launch.train_on_ray_worker", failing)
    broken = plan("broken", workers=2, clips_per_forward=3, engine="torch")
    with pytest.raises(TrainingError, match=message) as raised:
        train(broken)
    assert raised.value.exit_code == 1
    assert attempts(broken) == [1, 1]


def die_once(marker: Path) -> None:
    """Die as a lost machine does, in the first attempt."""
    if not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.slow
def test_a_lost_worker_is_replaced_and_the_run_ends_as_if_nothing_had_happened(
    plan: Make, train: Train, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, file_sink: type[Any]
) -> None:
    """Its peer raises what gloo says when a connection is gone, which is no reason to end the run."""
    ways = {"workers": 2, "engine": "torch", "checkpoint_every_steps": 5}
    expected = train(plan("undisturbed", **ways))
    failing = partial(train_and_fail, partial(die_once, tmp_path / "died"))
    monkeypatch.setattr("vavl.training.launch.train_on_ray_worker", failing)
    disturbed = plan("disturbed", **ways)
    np.testing.assert_array_equal(train(disturbed), expected)
    assert attempts(disturbed) == [2, 2]
    records = file_sink(disturbed.output_dir.with_suffix(".jsonl")).records()
    events = [record for record in records if record["kind"] == "event"]
    assert [event["what"] for event in events] == ["restarted", "resumed"]
    assert "workers were lost" in events[0]["message"]
    assert events[1]["step"] == 5

"""Two workers of a GPU each, as far as a machine without one shows it: Ray's logical GPUs."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest
import ray
import ray.train.torch
from ray.train import ScalingConfig
from ray.train.torch import TorchConfig
from ray.train.v2._internal.callbacks import accelerators
from tiny_plans import tiny_plan

from vavl.errors import TrainingError
from vavl.training import launch
from vavl.training.run_directory import claim_run_directory
from vavl.training.settings import TrainingPlan

pytestmark = [pytest.mark.ray]

Make = Callable[..., TrainingPlan]


class FakeWorker:
    """A worker on one machine that sees one GPU until Ray shares them."""

    def __init__(self, gpu: str) -> None:
        self.metadata = SimpleNamespace(node_id="machine", accelerator_ids={"GPU": [gpu]})
        self.visible = gpu

    def execute_async(self, set_ids: Callable[[str], None], accelerator_ids: str) -> None:
        self.visible = accelerator_ids


@pytest.fixture
def plan(small_store: Callable[..., Path], small_corpus: Callable[..., Any], tmp_path: Path) -> TrainingPlan:
    training = {"launcher": "ray", "engine": "deepspeed", "workers": 2, "gpus_per_worker": 1, "max_steps": 2}
    return tiny_plan(tmp_path / "run", small_store(small_corpus()), training=training)


@pytest.fixture
def logical_gpus() -> Iterator[None]:
    """Start Ray as on a machine with two GPUs."""
    ray.shutdown()
    ray.init("local", num_cpus=2, num_gpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def test_our_trainer_shares_the_gpus_of_a_machine_among_its_workers(
    plan: TrainingPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: dict[str, Any] = {}

    class Trainer:
        def __init__(self, *arguments: Any, **options: Any) -> None:
            built.update(options)

        def fit(self) -> Any:
            return SimpleNamespace(return_value={"is_stopped": False, "step": 2})

    monkeypatch.setattr(launch, "TorchTrainer", Trainer)
    monkeypatch.setattr(launch, "prepare_ray", lambda settings: None)
    monkeypatch.setattr(launch, "wait_for_workers", lambda settings, check: 2)
    monkeypatch.setattr(accelerators.ray, "get", lambda futures: None)
    launch.launch_training(plan, claim_run_directory(plan), print)
    assert type(built["torch_config"]) is TorchConfig
    assert built["torch_config"].backend == "cpu:gloo,cuda:nccl"
    scaling: ScalingConfig = built["scaling_config"]
    assert (scaling.num_workers, scaling.use_gpu, scaling.resources_per_worker["GPU"]) == (2, True, 1)
    workers = [FakeWorker("0"), FakeWorker("1")]
    callback = accelerators.AcceleratorSetupCallback(built["torch_config"], scaling)
    callback.before_init_train_context(workers)
    assert [worker.visible for worker in workers] == ["0,1", "0,1"]


def note_device(plan: TrainingPlan, run_id: str) -> dict[str, Any]:
    """Be a worker that only notes what it is given; torch is made to believe in GPUs."""
    from vavl.training.ray_worker import RayContext

    rank = ray.train.get_context().get_world_rank()
    with patch("torch.cuda.is_available", return_value=True):
        device = RayContext(plan).device(plan.training)
    found = {"visible": os.environ["CUDA_VISIBLE_DEVICES"], "device": str(device)}
    (plan.output_dir / f"rank-{rank}.json").write_text(json.dumps(found))
    return {"is_stopped": False, "step": 0}


@pytest.mark.slow
def test_two_workers_on_one_machine_get_different_devices(
    logical_gpus: None, plan: TrainingPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "GPU_BACKEND", "gloo")  # NCCL wants real ones
    monkeypatch.setattr(launch, "train_on_ray_worker", note_device)
    launch.launch_training(plan, claim_run_directory(plan), print)
    found = [json.loads((plan.output_dir / f"rank-{rank}.json").read_text()) for rank in (0, 1)]
    assert [one["visible"] for one in found] == ["0,1", "0,1"]
    assert sorted(one["device"] for one in found) == ["cuda:0", "cuda:1"]


@pytest.mark.slow
def test_a_torch_that_sees_no_gpu_ends_the_run_with_the_setting_that_helps(
    logical_gpus: None, plan: TrainingPlan
) -> None:
    with pytest.raises(TrainingError, match="gpus_per_worker: is above 0, and "):
        launch.launch_training(plan, claim_run_directory(plan), print)

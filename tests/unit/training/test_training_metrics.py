"""What a training run measures of itself and its GPUs reaches MLflow, the summary and nobody twice."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from mlflow.system_metrics.metrics import gpu_monitor
from synthetic_store import write_synthetic_store
from tiny_plans import tiny_plan

from vavl.tracking.run import machine_sampler
from vavl.tracking.settings import TrackingSettings
from vavl.training.launch import launch_training
from vavl.training.progress import TrainingProgress
from vavl.training.run_directory import claim_run_directory
from vavl.training.throughput import system_records
from vavl.training.training_result import TrackedTraining, dataset_note, training_summary
from vavl.training.worker import read_outcome

GPU_SAMPLES = [
    {"system/gpu_0_utilization_percentage": 93.0, "system/gpu_0_temperature_celsius": 61.0},
    {"system/node_1/gpu_0_utilization_percentage": 12.0},
]


@pytest.fixture
def tracked(
    tmp_path: Path, tracking: TrackingSettings, tracking_client: Any, caplog: pytest.LogCaptureFixture
) -> tuple[TrackedTraining, dict[str, Any], dict[str, float]]:
    """Train 21 steps in this process; return the run, what its end told, and its metrics in MLflow."""
    store = write_synthetic_store(tmp_path / "store", clips=110, speakers=10)
    plan = tiny_plan(tmp_path / "run", store, training={"max_epochs": 3})
    folder = claim_run_directory(plan)
    run = TrackedTraining(plan.output_dir, tracking)
    with run, TrainingProgress(run.journal, "validation/audio_video/accuracy"), caplog.at_level("INFO"):
        run.start(plan, plan.config_hash, folder.run_id, dataset_note(plan))
        launch_training(plan, folder, run.sink)
        run.sink(system_records(GPU_SAMPLES))
        outcome = read_outcome(plan.output_dir)
        end = run.finish(outcome)
    return run, outcome, tracking_client.get_run(end["mlflow_run_id"]).data.metrics


def test_forecast_and_gpus_arrive(tracked: tuple[TrackedTraining, dict[str, Any], dict[str, float]]) -> None:
    run, outcome, metrics = tracked
    assert metrics["train/seconds_per_step"] > 0
    for sample in GPU_SAMPLES:
        assert sample.items() <= metrics.items()
    assert "train/mfu" not in metrics
    summary = training_summary(outcome, run.journal, 1.5)
    assert summary["expected_seconds"] == pytest.approx(metrics["train/expected_seconds"])
    assert summary["mfu"] is None
    assert summary["seconds_to_first_step"] == 1.5
    assert summary["seconds"] > 0


def test_the_driver_leaves_the_gpus_to_the_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tracking: TrackingSettings
) -> None:
    class OfDriver:
        def clear_metrics(self) -> None:
            self.measured = False

        def collect_metrics(self) -> None:
            self.measured = True

        def aggregate_metrics(self) -> dict[str, float]:
            assert self.measured
            return {name.removeprefix("system/"): value for name, value in GPU_SAMPLES[0].items()}

    monkeypatch.setattr(gpu_monitor, "GPUMonitor", OfDriver)
    assert GPU_SAMPLES[0].items() <= machine_sampler(tmp_path)().items()
    sampling = tracking.model_copy(update={"system_metrics": True, "system_metrics_seconds": 0.05})
    run = TrackedTraining(tmp_path, sampling)
    run._follow(tmp_path)
    deadline = time.monotonic() + 20
    while not list(run.journal.read()) and time.monotonic() < deadline:
        time.sleep(0.05)
    run._end("FINISHED", {})
    records = [record for record in run.journal.read() if record.kind == "system"]
    assert records
    for record in records:
        assert "system/cpu_utilization_percentage" in record.payload["metrics"]
        assert not any("gpu" in name for name in record.payload["metrics"])

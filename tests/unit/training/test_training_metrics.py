"""What a training run measures of itself and its GPUs reaches MLflow, the summary and nobody twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from synthetic_store import write_synthetic_store
from tiny_plans import tiny_plan

from vavl.tracking.journal import JournalSink
from vavl.tracking.settings import TrackingSettings
from vavl.training.launch import launch_training
from vavl.training.progress import TrainingProgress
from vavl.training.run_directory import claim_run_directory
from vavl.training.throughput import GpuSampler
from vavl.training.training_result import TrackedTraining, training_summary
from vavl.training.worker import read_outcome

GPU_SAMPLES = [
    {"system/gpu_0_utilization_percentage": 93.0, "system/gpu_0_temperature_celsius": 61.0},
    {"system/node_1/gpu_0_utilization_percentage": 12.0},
]


@pytest.fixture
def tracked(
    tmp_path: Path, tracking: TrackingSettings, tracking_client: Any, caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> tuple[TrackedTraining, dict[str, Any], dict[str, float]]:  # fmt: skip
    """Train 21 steps in this process; return the run, what its end told, and its metrics in MLflow."""
    monkeypatch.setattr(GpuSampler, "sample", lambda self: GPU_SAMPLES[0] | GPU_SAMPLES[1])
    store = write_synthetic_store(tmp_path / "store", clips=110, speakers=10)
    plan = tiny_plan(tmp_path / "run", store, training={"max_epochs": 3})
    folder = claim_run_directory(plan)
    run = TrackedTraining(plan.output_dir, tracking)
    with run, TrainingProgress(run.journal, "validation/audio_video/accuracy"), caplog.at_level("INFO"):
        run.start(plan, folder.run_id)
        launch_training(plan, folder, JournalSink(run.journal))
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

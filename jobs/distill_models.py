"""Train a student on what teachers predict, in rounds: python jobs/distill_models.py CONFIG.yaml [key=value ...]."""

from __future__ import annotations

from pathlib import Path

from vavl.config.command_line import run_job
from vavl.config.files import read_json, write_json
from vavl.experiments.distillation import student_content, validated, write_predictions
from vavl.job_config import DistillModelsJob, TrainModelJob
from vavl.serving.model_address import resolve_model
from vavl.training.driver_lock import only_driver
from vavl.training.launch import train_and_report
from vavl.training.run_data import check_run
from vavl.training.run_directory import finished_hash, resolved


def distill_models(job: DistillModelsJob) -> None:
    """Let teachers predict the training clips, train the student on that, and let it teach the next round."""
    with only_driver(job.output_dir):
        teachers = _teachers(job)
        rounds = []
        for number in range(1, job.rounds + 1):
            plan = _plan(job, number, None)
            if teachers:
                plan = _plan(job, number, write_predictions(teachers, plan, job.output_dir))
            if finished_hash(plan.directory) != resolved(plan).config_hash:
                check_run(plan)
                train_and_report(plan, plan.tracking)
            summary, name = read_json(plan.directory / "summary.json"), str(plan.directory)
            rounds.append({"output_dir": name, "teachers": list(teachers), "metrics": summary["metrics"]})
            teachers = {name: plan.directory / "best"}
        last = {name: summary[name] for name in ("metrics", "model_name", "model_version", "mlflow_run_id")}
        write_json(job.output_dir / "summary.json", {**last, "rounds": rounds})


def check(job: DistillModelsJob) -> None:
    """Find the teachers, and check the student's settings and clips."""
    _teachers(job)
    check_run(_plan(job, 1, None))


def _teachers(job: DistillModelsJob) -> dict[str, Path]:
    return {name: resolve_model(name, job.tracking).directory for name in job.teachers}


def _plan(job: DistillModelsJob, number: int, predictions: Path | None) -> TrainModelJob:
    plan = validated(TrainModelJob, student_content(job, number, predictions), job)
    assert isinstance(plan, TrainModelJob)
    return plan


def main() -> int:
    """Run the job."""
    return run_job("Train a student on what teachers predict.", DistillModelsJob, distill_models, check)


if __name__ == "__main__":
    raise SystemExit(main())

"""Train a student on what teachers predict, in rounds: python jobs/distill_models.py CONFIG.yaml [key=value ...]."""

from __future__ import annotations

from pathlib import Path

from vavl.config.command_line import run_job
from vavl.config.files import read_json, write_json
from vavl.config.progress import process_seconds
from vavl.experiments.distillation import PREDICTIONS, UNTAUGHT, student_plan, write_predictions
from vavl.job_config import DistillModelsJob, TrainModelJob
from vavl.serving.model_address import resolve_model
from vavl.training.driver_lock import only_driver
from vavl.training.launch import check_training, train_and_report
from vavl.training.run_directory import is_finished, resolved


def distill_models(job: DistillModelsJob) -> None:
    """Let teachers predict the training clips, train the student on that, and let it teach the next round."""
    with only_driver(job.output_dir):
        teachers = _teachers(job)
        rounds = []
        for number in range(1, job.rounds + 1):
            plan = student_plan(TrainModelJob, job, number)
            if teachers:
                untaught = student_plan(TrainModelJob, job, number, UNTAUGHT)
                changes = {PREDICTIONS: str(write_predictions(teachers, untaught, job.output_dir))}
                plan = student_plan(TrainModelJob, job, number, changes)
            if not is_finished(resolved(plan)):
                check_training(plan, plan.tracking)
                train_and_report(plan, plan.tracking, since=process_seconds())
            summary, name = read_json(plan.directory / "summary.json"), str(plan.directory)
            rounds.append({"output_dir": name, "teachers": list(teachers), "metrics": summary["metrics"]})
            teachers = {name: plan.directory / "best"}
        last = {name: summary[name] for name in ("metrics", "model_name", "model_version", "mlflow_run_id")}
        write_json(job.output_dir / "summary.json", {**last, "rounds": rounds})


def check(job: DistillModelsJob) -> None:
    """Find the teachers, and check the student's settings and clips."""
    plan = student_plan(TrainModelJob, job, 1, UNTAUGHT if _teachers(job) else None)
    check_training(plan, plan.tracking)


def _teachers(job: DistillModelsJob) -> dict[str, Path]:
    return {name: resolve_model(name, job.tracking).directory for name in job.teachers}


def main() -> int:
    """Run the job."""
    return run_job("Train a student on what teachers predict.", DistillModelsJob, distill_models, check)


if __name__ == "__main__":
    raise SystemExit(main())

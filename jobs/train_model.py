"""Train a VAVL model and register it: python jobs/train_model.py CONFIG.yaml [dotted.key=value ...]."""

from __future__ import annotations

from vavl.config.command_line import run_job
from vavl.job_config import TrainModelJob


def train_model(job: TrainModelJob) -> None:
    """Train, measure the best epoch, write the report, register the model."""
    from vavl.training.launch import train_and_report

    train_and_report(job, job.tracking)


def check_and_import(job: TrainModelJob) -> None:
    """Check the run, and import what training it takes."""
    from vavl.tracking.mlflow_writer import import_mlflow
    from vavl.training.launch import check_training

    check_training(job, job.tracking)
    import_mlflow()


def main() -> int:
    """Run the job."""
    return run_job("Train a VAVL model and register it.", TrainModelJob, train_model, check_and_import)


if __name__ == "__main__":
    raise SystemExit(main())

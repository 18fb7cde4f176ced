"""Train a VAVL model and register it: python jobs/train_model.py CONFIG.yaml [dotted.key=value ...]."""

from __future__ import annotations

import shlex

from vavl.config.command_line import print_table, run_job
from vavl.config.files import write_json
from vavl.job_config import TrainModelJob


def train_model(job: TrainModelJob) -> None:
    """Train, measure the best epoch, write the report, register the model."""
    from vavl.training.driver_lock import only_driver
    from vavl.training.launch import launch_training
    from vavl.training.progress import TrainingProgress
    from vavl.training.run_folder import claim_run_folder, with_pinned_store
    from vavl.training.training_result import TrackedTraining, dataset_note, result_rows, training_summary
    from vavl.training.worker import read_outcome

    with only_driver(job.output_dir):
        job = with_pinned_store(job)
        folder = claim_run_folder(job)
        with folder.publishing(), TrackedTraining(folder.path, job.tracking) as tracked:
            tracked.start(job, job.config_hash, folder.run_id, dataset_note(job))
            with TrainingProgress(tracked.journal, job.evaluation.select_by[0]) as progress:
                launch_training(job, folder, tracked.sink)
            folder.collect()
            outcome = read_outcome(folder.path)
            from vavl.training.report import write_report  # with it comes matplotlib: not before the work

            report = write_report(folder.path, job, outcome, tracked.journal)
            summary = tracked.finish(outcome) | training_summary(outcome, tracked.journal, progress.first_step_seconds)
        write_json(folder.path / "summary.json", summary)
        folder.finish()
    print_table(f"{job.output_dir}: trained on {outcome['corpus']}", result_rows(outcome, summary))
    print(f"\nnext: open {shlex.quote(str(report))}\n      {tracked.show_command}")


def check_and_import(job: TrainModelJob) -> None:
    """Check the run, and import what training it takes."""
    from vavl.tracking.mlflow_writer import import_mlflow
    from vavl.tracking.relocation import refuse_moved
    from vavl.training.launch import log_capacity
    from vavl.training.run_data import check_run

    check_run(job)
    refuse_moved(job.tracking)
    if job.training.launcher == "ray":
        log_capacity(job.training)
    import_mlflow()


def main() -> int:
    """Run the job."""
    return run_job("Train a VAVL model and register it.", TrainModelJob, train_model, check_and_import)


if __name__ == "__main__":
    raise SystemExit(main())

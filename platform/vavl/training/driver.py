"""A training run from its settings to a registered model, as the driver of a job does it."""

from __future__ import annotations

import shlex

from vavl.config.command_line import print_table
from vavl.config.files import write_json
from vavl.tracking.settings import TrackingSettings
from vavl.training.driver_lock import only_driver
from vavl.training.launch import launch_training
from vavl.training.progress import TrainingProgress
from vavl.training.run_directory import claim_run_directory, resolved
from vavl.training.settings import TrainingPlan
from vavl.training.training_result import TrackedTraining, dataset_note, result_rows, training_summary
from vavl.training.worker import read_outcome


def train_and_report(plan: TrainingPlan, tracking: TrackingSettings) -> None:
    """Train, measure the best epoch, write the report, register the model, and print what came out."""
    with only_driver(plan.output_dir):
        plan = resolved(plan)
        directory = claim_run_directory(plan)
        with directory.publishing(), TrackedTraining(directory.path, tracking) as tracked:
            tracked.start(plan, plan.config_hash, directory.run_id, dataset_note(plan))
            with TrainingProgress(tracked.journal, plan.evaluation.select_by[0]) as progress:
                launch_training(plan, directory, tracked.sink)
            directory.collect()
            outcome = read_outcome(directory.path)
            from vavl.training.report import write_report  # with it comes matplotlib: not before the work

            report = write_report(directory.path, plan, outcome, tracked.journal)
            summary = tracked.finish(outcome) | training_summary(outcome, tracked.journal, progress.first_step_seconds)
        write_json(directory.path / "summary.json", summary)
        directory.finish()
    print_table(f"{plan.output_dir}: trained on {outcome['corpus']}", result_rows(outcome, summary))
    print(f"\nnext: open {shlex.quote(str(report))}\n      {tracked.show_command}")

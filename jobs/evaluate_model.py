"""Measure a model on a store, whole and degraded: python jobs/evaluate_model.py CONFIG.yaml [dotted.key=value ...]."""

from __future__ import annotations

import shlex

from vavl.config.command_line import print_table, run_job
from vavl.evaluation.evaluation import evaluate
from vavl.evaluation.report import write_report
from vavl.evaluation.results import summary_of, write_predictions, write_summary
from vavl.evaluation.tracked_evaluation import (
    TrackedEvaluation,
    earlier_test_evaluations,
    open_evaluation,
    preview_rows,
    result_rows,
)
from vavl.job_config import EvaluateModelJob
from vavl.training.driver_lock import only_driver


def evaluate_model(job: EvaluateModelJob) -> None:
    """Measure, write predictions, report and summary, and log them as a run that names the model version."""
    opened = open_evaluation(job, job.tracking)
    earlier = earlier_test_evaluations(opened.clips, job.tracking)
    with only_driver(job.output_dir), TrackedEvaluation(job.output_dir, job.tracking) as tracked:
        tracked.start(job, opened)
        evaluation = evaluate(opened.model, job, opened.clips, opened.degradations)
        write_predictions(evaluation, job.output_dir)
        report = write_report(evaluation, opened.resolved, earlier, job.output_dir)
        summary = summary_of(evaluation, opened.resolved, earlier)
        write_summary(summary, job.output_dir)
        summary |= tracked.finish(evaluation.metrics())
    write_summary(summary, job.output_dir)
    print_table(f"{job.output_dir}: {opened.resolved.title}", result_rows(evaluation, summary))
    print(f"\nnext: open {shlex.quote(str(report))}\n      {tracked.show_command}")


def check(job: EvaluateModelJob) -> None:
    """Find model, store and media, look whether they fit together, and say what is to be measured."""
    print_table("what is measured", preview_rows(open_evaluation(job, job.tracking)))


def main() -> int:
    """Run the job."""
    return run_job(
        "Measure a registered model, or one in a directory, on a feature store.",
        EvaluateModelJob,
        evaluate_model,
        check,
    )


if __name__ == "__main__":
    raise SystemExit(main())

"""Search the settings of a training run with Ray Tune and Optuna: python jobs/tune_model.py CONFIG.yaml."""

from __future__ import annotations

import shlex

from vavl.config.command_line import print_table, run_job
from vavl.config.files import sha256_of_json
from vavl.experiments.runner import run_trials
from vavl.experiments.sweep import check_sweep, open_sweep
from vavl.experiments.sweep_report import write_pages
from vavl.experiments.sweep_result import (
    BEST_FILE,
    SweepResult,
    log_sweep,
    main_metrics,
    refuse_nothing_found,
    result_rows,
    write_results,
)
from vavl.experiments.sweep_settings import TRIALS_DIRECTORY
from vavl.experiments.trials import ParentRun
from vavl.job_config import TuneModelJob
from vavl.tracking.relocation import refuse_moved
from vavl.training.training_result import dataset_note


def tune_model(job: TuneModelJob) -> None:
    """Run the trials, or those that an interrupted sweep has left; report, and register the best."""
    with open_sweep(job) as sweep, ParentRun(job.output_dir, TRIALS_DIRECTORY, job.tracking, job.search) as parent:
        settings_hash = sha256_of_json(job.model_dump(mode="json"))[:16]
        parent.start(job, settings_hash, sweep.run_id, dataset_note(sweep.plans.plan_of(0, {})))
        sweep.resume(parent.logs)
        run_trials(sweep, parent, seconds=job.seconds_per_trial)
        result = SweepResult.of(sweep)
        files = [*write_results(result, job.tracking, {}), *write_pages(result)]
        kept = parent.finish_with_best(main_metrics(result), files, result.best_name, {"sweep": sweep.run_id})
    write_results(result, job.tracking, kept)
    print_table(f"{job.output_dir}: searched {', '.join(job.search)}", result_rows(result, kept))
    refuse_nothing_found(result)
    print(f"\nnext: open {shlex.quote(f'{job.output_dir}/report.html')}")
    train = shlex.join(["python", "jobs/train_model.py", f"{job.output_dir}/{BEST_FILE}"])
    print(f"      {train}\n      {parent.show_command}")


def check(job: TuneModelJob) -> None:
    """Check every end of every axis and the data, and log the space and what a trial takes."""
    refuse_moved(job.tracking)
    log_sweep(check_sweep(job))


def main() -> int:
    """Run the job."""
    return run_job("Search the settings of a training run.", TuneModelJob, tune_model, check)


if __name__ == "__main__":
    raise SystemExit(main())

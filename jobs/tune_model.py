"""Search the settings of a training with Ray Tune and Optuna: python jobs/tune_model.py CONFIG.yaml."""

from __future__ import annotations

from vavl.config.command_line import print_table, run_job
from vavl.config.files import sha256_of_json
from vavl.experiments.search import run_trials
from vavl.experiments.sweep import SweepResult, open_sweep
from vavl.experiments.sweep_pages import write_pages
from vavl.experiments.sweep_progress import SweepProgress, log_sweep
from vavl.experiments.sweep_result import BEST_FILE, refuse_nothing_found, result_rows, write_results
from vavl.experiments.tracked_sweep import TrackedSweep
from vavl.experiments.trial_plans import plans_of
from vavl.job_config import TuneModelJob


def tune_model(job: TuneModelJob) -> None:
    """Run the trials, or those that an interrupted sweep has left; report, and register the best."""
    with open_sweep(job) as sweep, TrackedSweep(job.output_dir, job.tracking) as tracked:
        tracked.start(job, sha256_of_json(job.model_dump(mode="json"))[:16], sweep)
        with SweepProgress(sweep) as progress:
            run_trials(sweep, tracked.logs.of, progress.started, [tracked.ended, progress.ended])
        result = SweepResult(sweep)
        files = [*write_results(result, job.tracking, {}), *write_pages(result)]
        kept = tracked.finish(result, files)
    write_results(result, job.tracking, kept)
    print_table(f"{job.output_dir}: searched {', '.join(job.search)}", result_rows(result, kept))
    refuse_nothing_found(result)
    print(f"\nnext: open {job.output_dir}/report.html")
    print(f"      python jobs/train_model.py {job.output_dir}/{BEST_FILE}\n      {tracked.show_command}")


def check(job: TuneModelJob) -> None:
    """Check every end of every axis and the data, and log the space and the room."""
    log_sweep(plans_of(job))


def main() -> int:
    """Run the job."""
    return run_job("Search the settings of a training.", TuneModelJob, tune_model, check)


if __name__ == "__main__":
    raise SystemExit(main())

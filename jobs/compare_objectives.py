"""Compare objective sets over label fractions, folds and seeds: python jobs/compare_objectives.py CONFIG.yaml."""

from __future__ import annotations

import shlex

from vavl.config.command_line import print_table, run_job
from vavl.experiments.comparison_grid import RUNS_DIRECTORY, check_grid, log_grid, plan_grid, run_id_of
from vavl.experiments.comparison_report import main_metrics, refuse_failures, result_rows, write_pages
from vavl.experiments.comparison_result import Results, write_results
from vavl.experiments.runner import run_trials
from vavl.experiments.trials import ParentRun
from vavl.job_config import CompareObjectivesJob
from vavl.tracking.relocation import refuse_moved
from vavl.training.driver_lock import only_driver
from vavl.training.training_result import dataset_note


def compare_objectives(job: CompareObjectivesJob) -> None:
    """Train every cell of the grid, several at a time, and write table, summary, plots and report."""
    with only_driver(job.output_dir):
        grid = plan_grid(job)
        with ParentRun(job.output_dir, RUNS_DIRECTORY, job.tracking) as parent:
            parent.start(job, job.config_hash, run_id_of(job.output_dir), dataset_note(grid.runs[0].plan))
            results = Results(job, grid)
            run_trials(grid, parent, results.add)
            comparison = results.compare()
            files = [*write_results(comparison, {}), *write_pages(comparison)]
            kept = parent.finish(main_metrics(comparison), files)
        write_results(comparison, kept)
    print_table(f"{job.output_dir}: {comparison.main_measure} on {job.split}", result_rows(comparison))
    print(f"\nnext: open {shlex.quote(f'{job.output_dir}/report.html')}\n      {parent.show_command}")
    refuse_failures(comparison)


def check(job: CompareObjectivesJob) -> None:
    """Validate every cell of the grid and log it."""
    refuse_moved(job.tracking)
    log_grid(job, check_grid(job))


def main() -> int:
    """Run the job."""
    return run_job("Compare sets of objectives.", CompareObjectivesJob, compare_objectives, check)


if __name__ == "__main__":
    raise SystemExit(main())

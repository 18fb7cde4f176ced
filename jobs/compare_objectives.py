"""Compare objective sets over label fractions, folds and seeds: python jobs/compare_objectives.py CONFIG.yaml."""

from __future__ import annotations

from vavl.config.command_line import print_table, run_job
from vavl.experiments.comparison import TrackedComparison
from vavl.experiments.comparison_grid import plan_grid
from vavl.experiments.comparison_pages import write_pages
from vavl.experiments.comparison_preview import log_grid
from vavl.experiments.comparison_progress import show_runs
from vavl.experiments.comparison_result import (
    Results,
    main_metrics,
    refuse_failures,
    result_rows,
    write_results,
)
from vavl.experiments.many import train_many
from vavl.job_config import CompareObjectivesJob


def compare_objectives(job: CompareObjectivesJob) -> None:
    """Train every cell of the grid, several at a time, and write table, summary, pictures and report."""
    grid = plan_grid(job)
    with TrackedComparison(job.output_dir, job.tracking) as tracked:
        tracked.start(job, job.config_hash, grid)
        results = Results(job, grid)
        for end in show_runs(train_many(grid.plans, tracked.log_of, job.at_once), len(grid.runs), job.split):
            tracked.ended(end)
            results.add(end)
        comparison = results.compare()
        files = [*write_results(comparison, {}), *write_pages(comparison)]
        kept = tracked.finish(main_metrics(comparison), files)
    write_results(comparison, kept)
    print_table(f"{job.output_dir}: {comparison.main_measure} on {job.split}", result_rows(comparison))
    print(f"\nnext: open {job.output_dir}/report.html\n      {tracked.show_command}")
    refuse_failures(comparison)


def check(job: CompareObjectivesJob) -> None:
    """Validate every cell of the grid and log it."""
    log_grid(job, plan_grid(job))


def main() -> int:
    """Run the job."""
    return run_job("Compare sets of objectives.", CompareObjectivesJob, compare_objectives, check)


if __name__ == "__main__":
    raise SystemExit(main())

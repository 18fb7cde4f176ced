"""Bring runs into MLflow that it does not hold whole: python jobs/sync_tracking.py DIRECTORY [dotted.key=value ...]."""

from __future__ import annotations

from vavl.config.command_line import run_job
from vavl.config.files import make_directory
from vavl.job_config import SyncTrackingJob
from vavl.serving.registry import register_model
from vavl.tracking.sync import (
    compare_runs,
    print_results,
    refuse_failures,
    relocate_stores,
    summary_directory,
    sync_runs,
    write_summary,
)


def sync_tracking(job: SyncTrackingJob) -> None:
    """Replay what is missing, in order and once, and say what became of each run; or mend a moved project's stores."""
    if job.relocate:
        replaced = relocate_stores(job.folder, job.tracking, is_dry=False)
        print(f"{len(replaced)} places rewritten; a copy of each database lies next to it")
        return
    results = list(sync_runs(compare_runs(job.folder, job.tracking), job.seconds_per_run, register_model))
    print_results(results)
    path = write_summary(results, summary_directory(job.folder, job.output_dir))
    print(f"\nsummary: {path}")
    refuse_failures(results)


def check(job: SyncTrackingJob) -> None:
    """Compare the journals with their stores and print what these lack, or what was moved; change nothing."""
    if job.relocate:
        print(*relocate_stores(job.folder, job.tracking, is_dry=True) or ["nothing was moved"], sep="\n")
        return
    print_results(compare_runs(job.folder, job.tracking))
    make_directory(summary_directory(job.folder, job.output_dir))


def main() -> int:
    """Run the job."""
    return run_job("Bring runs into MLflow that it does not hold whole.", SyncTrackingJob, sync_tracking, check)


if __name__ == "__main__":
    raise SystemExit(main())

"""Run a job on a Ray cluster: python jobs/submit_job.py CONFIG.yaml [dotted.key=value ...]."""

from __future__ import annotations

import os
import time
from functools import partial
from pathlib import Path

from vavl.config.command_line import print_table, run_job
from vavl.config.files import make_directory, write_json
from vavl.submission.submission import (
    SubmitJob,
    connect,
    follow,
    plan_submission,
    refuse_failure,
    submission_rows,
    submit,
)


def check(job: SubmitJob) -> None:
    """Check the job's own configuration and say what is sent; ask nobody."""
    make_directory(job.output_dir)
    print_table("submission", submission_rows(job, plan_submission(job, os.environ, Path.cwd())))


def submit_job(job: SubmitJob) -> None:
    """Send the project, show the log of the job, end as the job ends."""
    start = time.monotonic()
    submission = plan_submission(job, os.environ, Path.cwd())
    client = connect(job.address)
    submission_id = submit(client, job, submission)
    print(f"\nsubmitted {submission_id}; ray job stop {submission_id} ends it, Ctrl-C only stops watching\n")
    show = partial(print, end="", flush=True)
    details = follow(client, job.address, submission_id, show) if job.wait else client.get_job_info(submission_id)
    summary = {
        "submission_id": submission_id,
        "status": details.status.value,
        "driver_exit_code": details.driver_exit_code,
        "address": job.address,
        "entrypoint": submission["entrypoint"],
        "seconds": round(time.monotonic() - start, 2),
    }
    write_json(job.output_dir / "summary.json", summary)
    print_table(f"job {submission_id}", list(summary.items())[1:])
    refuse_failure(submission_id, details, job.wait)


def main() -> int:
    """Run the job."""
    return run_job("Run a job on a Ray cluster.", SubmitJob, submit_job, check)


if __name__ == "__main__":
    raise SystemExit(main())

"""Push a feature store to an address or a shared directory: python jobs/push_store.py CONFIG.yaml [key=value ...]."""

from __future__ import annotations

import datetime as dt
import shlex

from vavl.config.command_line import print_table, run_job
from vavl.config.files import make_directory, write_json
from vavl.job_config import PushStoreJob
from vavl.store.store_versions import check_push, push_store


def check(job: PushStoreJob) -> None:
    """Look at the store and at the address; send nothing."""
    check_push(job.store, job.to)


def story(job: PushStoreJob) -> None:
    """Send what is not there, commit the version, write which one is the newest."""
    make_directory(job.output_dir)
    pushed = push_store(job.store, job.to, dt.datetime.now(dt.UTC), read_back=job.read_back)
    write_json(job.output_dir / "summary.json", pushed.summary())
    print_table(f"pushed {job.store}", pushed.rows())
    print(f"\nnext: python jobs/train_model.py CONFIG.yaml {shlex.quote(f'data.store={pushed.place}')}")


def main() -> int:
    """Run the job."""
    return run_job(
        "Push a feature store to object storage or a shared directory, as a version of its corpus.",
        PushStoreJob, story, check,
    )  # fmt: skip


if __name__ == "__main__":
    raise SystemExit(main())

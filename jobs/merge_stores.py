"""Merge feature stores of several corpora: python jobs/merge_stores.py CONFIG.yaml [dotted.key=value ...]."""

from __future__ import annotations

import shlex
import time

from vavl.config.command_line import print_table, run_job
from vavl.config.files import write_json
from vavl.config.load import save_config
from vavl.job_config import MergeStoresJob
from vavl.store.store_merge import check_replaced, merge_rows, merge_stores, merge_summary, plan_merge
from vavl.store.store_versions import check_target, push_finished


def check(job: MergeStoresJob) -> None:
    """Look at the stores, their labels, folds and features' provenance; read no features."""
    check_replaced(job.output_dir)
    plan_merge(job).manifest()
    if job.push_to is not None:
        check_target(job.push_to)


def story(job: MergeStoresJob) -> None:
    """Write the merged store and its summary."""
    start = time.monotonic()
    plan = plan_merge(job)
    store = merge_stores(plan, job.output_dir)
    save_config(job, job.output_dir / "config.yaml")
    summary = merge_summary(plan, store, time.monotonic() - start)
    write_json(job.output_dir / "summary.json", summary)
    place, rows = push_finished(job.output_dir, job.push_to, merge_rows(summary, job.output_dir))
    print_table(f"{job.name}: {', '.join(plan.sources)}", rows)
    print(f"\nnext: python jobs/train_model.py CONFIG.yaml {shlex.quote(f'data.store={place}')}")


def main() -> int:
    """Run the job."""
    return run_job(
        "Merge the feature stores of several corpora into one, with common classes and folds.",
        MergeStoresJob, story, check,
    )  # fmt: skip


if __name__ == "__main__":
    raise SystemExit(main())

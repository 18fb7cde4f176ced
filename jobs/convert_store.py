"""Convert a store of an earlier version to today's format: python jobs/convert_store.py STORE|CONFIG.yaml."""

from __future__ import annotations

import shlex

from vavl.config.command_line import print_table, run_job
from vavl.config.files import make_directory, write_json
from vavl.job_config import ConvertStoreJob
from vavl.store.first_format import convert_store, stated_content


def check(job: ConvertStoreJob) -> None:
    """Look whether there is a store."""
    stated_content(job.store)


def story(job: ConvertStoreJob) -> None:
    """Write the store anew next to its place, compare its hash, and put it there."""
    store = convert_store(job.store)
    counts = {name: {"clips": info.clips, "frames": info.frames} for name, info in store.info.items()}
    make_directory(job.output_dir)
    write_json(job.output_dir / "summary.json", {"store": str(job.store), "store_hash": store.hash, **counts})
    rows = [(name, f"{info.clips} clips, {info.frames} frames") for name, info in store.info.items()]
    print_table(f"converted {job.store}", [*rows, ("store", f"hash {store.hash}, as before")])
    print(f"\nnext: python jobs/train_model.py CONFIG.yaml {shlex.quote(f'data.store={job.store}')}")


def main() -> int:
    """Run the job."""
    return run_job("Convert a feature store of an earlier version to today's format.", ConvertStoreJob, story, check)


if __name__ == "__main__":
    raise SystemExit(main())

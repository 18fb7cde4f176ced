"""Show the stores at an address: python jobs/list_stores.py ADDRESS|CONFIG.yaml [key=value ...]."""

from __future__ import annotations

from vavl.config.command_line import print_table, run_job
from vavl.config.files import make_directory, write_json
from vavl.job_config import ListStoresJob
from vavl.store.store_versions import list_stores, listed_rows


def check(job: ListStoresJob) -> None:
    """Look whether the address can be listed."""
    list_stores(job.address)


def story(job: ListStoresJob) -> None:
    """List the versions of every corpus and the stores without version."""
    make_directory(job.output_dir)
    found = list_stores(job.address)
    write_json(job.output_dir / "summary.json", {"stores": found})
    print_table(f"stores at {job.address}", listed_rows(found))
    print("\nnext: python jobs/train_model.py CONFIG.yaml data.store=PLACE")


def main() -> int:
    """Run the job."""
    return run_job("Show the feature stores at an address or in a directory.", ListStoresJob, story, check)


if __name__ == "__main__":
    raise SystemExit(main())

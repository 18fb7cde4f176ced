"""A driver of its own process: python ray_driver.py PLAN.json RECORDS.jsonl

Trains the plan on the cluster of RAY_ADDRESS, or on Ray of its own, and writes what is reported, with its time.
Exit codes are those of the jobs.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vavl.errors import VavlError
from vavl.training.launch import launch_training
from vavl.training.run_directory import claim_run_directory
from vavl.training.settings import TrainingPlan


@dataclass(frozen=True)
class TimedSink:
    """Appends records to a file, with the time at which they arrived."""

    path: Path

    def __call__(self, records: Sequence[dict[str, Any]]) -> None:
        """Write the records."""
        with self.path.open("a") as file:
            file.writelines(json.dumps({**record, "arrived": time.time()}) + "\n" for record in records)


def main(plan_file: Path, records_file: Path) -> int:
    """Train; return the exit code."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    plan = TrainingPlan.model_validate(json.loads(plan_file.read_text()))
    folder = claim_run_directory(plan)
    try:
        launch_training(plan, folder, TimedSink(records_file))
    except VavlError as fault:
        print(f"error: {fault}", file=sys.stderr)
        return fault.exit_code
    folder.finish()
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))

"""The driver of a run on Ray: python ray_driver.py PLAN.json. Reports into the journal; needs no tracking server."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path

from vavl.errors import TrainingStopped, VavlError
from vavl.tracking.journal import Journal, JournalSink
from vavl.training.launch import launch_training
from vavl.training.run_directory import claim_run_directory
from vavl.training.settings import TrainingPlan

FINISHED, FAILED, STOPPED = 0, 2, 3


def main(plan_file: Path) -> int:
    """Train; return how it ended."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    plan = TrainingPlan.model_validate(json.loads(plan_file.read_text()))
    folder = claim_run_directory(plan)
    try:
        launch_training(plan, folder, JournalSink(Journal(plan.output_dir / "journal.jsonl")))
    except TrainingStopped as stop:
        logging.info("%s", stop)
        return STOPPED
    except VavlError as error:
        logging.error("%s", error)
        return FAILED
    folder.finish()
    return FINISHED


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))

"""Two ranks that train a plan from start to end; a program of its own: ``python training_ranks.py PLAN.json``."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

from forked_ranks import run_ranks, warm_up

from vavl.config.files import read_json
from vavl.training.loop import train
from vavl.training.run import prepare_run
from vavl.training.settings import TrainingPlan


def train_rank(plan: TrainingPlan) -> None:
    """Train on this rank of the group."""
    run = prepare_run(plan)
    train(run, run.start, lambda records: None)


if __name__ == "__main__":
    warm_up()
    run_ranks(2, partial(train_rank, TrainingPlan.model_validate(read_json(Path(sys.argv[1])))))

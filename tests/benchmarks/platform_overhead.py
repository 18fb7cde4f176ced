"""What the platform costs: the same steps bare, in its loop, and with Ray + DeepSpeed; and how soon they begin.

    python tests/benchmarks/platform_overhead.py [--size paper] [--steps 8] [--precision fp32] [--out FILE.json]

The same clips are trained with one thread per worker, in turn:

- bare: a PyTorch loop with nothing but forward, losses, backward, clipping and a fused AdamW, on the loader's batches;
- loop: ``vavl.training.loop.train`` in this process with the torch engine;
- Ray 1: the same with Ray Train and DeepSpeed (ZeRO 0), one worker;
- Ray 2: two workers with as many clips each.

A step's time is that between the records of two steps, the first two steps left out; the bare loop is read in the
same way. ``overhead_share`` is Ray 1 over bare - 1, ``weak_scaling`` is Ray 1 over Ray 2 (1 = no loss),
``seconds_to_first_step`` is from the start of ``python jobs/train_model.py`` to its first record, with the store
ready. At the end, how long a checkpoint holds the loop up and how long it takes until it lies there.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

import torch
import yaml
from benchmark_program import conditions, finish, in_words, read_arguments, table
from measured import spread
from ray_driver import TimedSink
from torch import nn
from torch.nn import functional
from training_load import QUICK, SIZES, Size, plan_of, write_store

from vavl.config.load import read_config
from vavl.data.batch import ClipBatch
from vavl.job_config import TrainModelJob
from vavl.models.draws import DrawKey
from vavl.models.pooling import masked_mean
from vavl.ray_session import join_ray
from vavl.training.checkpoint import CheckpointFolder
from vavl.training.launch import launch_training
from vavl.training.loop import train
from vavl.training.run import prepare_run
from vavl.training.run_folder import claim_run_folder
from vavl.training.settings import TrainingPlan

BARE, LOOP, RAY_1, RAY_2 = WAYS = ("bare", "loop", "Ray 1", "Ray 2")
_WARM_UP_STEPS = 2
_CHECKPOINTS = 4


@dataclass(frozen=True)
class Bench:
    """What all ways train: a store, a size, and the steps of one turn."""

    size: Size
    store: Path
    folder: Path
    steps: int
    precision: str

    def plan(self, name: str, workers: int = 1, *, on_ray: bool = False) -> TrainingPlan:
        """Return the plan of one way; two workers share twice as many clips."""
        return plan_of(
            self.size, self.store, self.folder / name,
            data={"store": self.store, "composition": {"batch_size": self.size.batch_size * workers}},
            training={
                "launcher": "ray" if on_ray else "in_process", "engine": "deepspeed" if on_ray else "torch",
                "workers": workers, "threads_per_worker": 1, "precision": self.precision,
                "max_epochs": 10**6, "max_steps": self.steps, "report_every_steps": 1,
                "checkpoint_every_epochs": 10**6, "gradient_norms_every_steps": None,
            },
        )  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, write JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", choices=list(SIZES), default="paper")
    parser.add_argument("--steps", type=int, default=8, help="of every turn, with two to warm up")
    parser.add_argument("--clips", type=int, default=16, help="of a worker's step")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--without-ray", action="store_true", help="bare and loop alone")
    words = read_arguments(__doc__, "platform", argv, parser)
    torch.set_num_threads(1)
    chosen = QUICK if words.quick else SIZES[words.size]
    clips = chosen.batch_size if words.quick else words.clips
    # Enough training clips that no epoch, with its validation, ends within a turn.
    count = int(2 * clips * (words.steps + 1) / 0.6)
    size = Size(chosen.model, chosen.widths, clips, chosen.seconds, count)
    with tempfile.TemporaryDirectory(dir=words.out.parent) as folder:
        store = write_store(size, Path(folder) / "store")
        bench = Bench(size, store, Path(folder), words.steps, words.precision)
        result = {"conditions": conditions(words), **measure(bench, words)}
    finish(words, result, lines_of(result))
    return 0

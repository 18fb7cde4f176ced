"""Trains one case of ``equality_cases`` on real processes and returns its loss curve."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from equality_cases import Case
from forked_ranks import run_ranks
from numpy.typing import NDArray
from synthetic_store import write_synthetic_store

from vavl.config.files import read_json, write_json
from vavl.training.collectives import rank_and_world_size
from vavl.training.loop import train
from vavl.training.run import prepare_run
from vavl.training.settings import TrainingPlan

CLIPS = 400
BATCH = 22
"""Clips of the global batch: neither four workers nor three micro-batches divide it."""

_MODEL = {
    "width": 16, "modality_blocks": 1, "shared_blocks": 1, "attention_heads": 2, "convolution_kernel": 5,
    "head_widths": (16, 12), "dropout": 0.2, "head_dropout": 0.2, "correlation_size": 4,
}  # fmt: skip
_OBJECTIVES = {
    "hgr": {"weight": 0.5, "audio_video": 0.3},
    "contrastive": {"weight": 0.3, "size": 8},
    "ladder": {"weight": 0.3, "lateral": "both", "detach_target": False},
    "pseudo_label": {"weight": 0.5, "teacher": "average"},
}
_PARTS = ("supervised", "reconstruction", "hgr", "contrastive", "ladder", "pseudo_label")


@dataclass(frozen=True)
class Curve:
    """The total loss of every step."""

    loss: NDArray[np.float64]

    def largest_relative_difference(self, reference: Curve) -> float:
        """Compare the steps that both have: the curve of a resumed run holds the later ones."""
        expected = reference.loss[-len(self.loss) :]
        return float((np.abs(self.loss - expected) / np.abs(expected)).max())


class CaseRunner:
    """Trains cases below one directory; ``forked_ranks.warm_up`` comes first.

    Args:
        folder: for the store and the runs.
        steps: of a run; resumed runs resume from half of them.
    """

    def __init__(self, folder: Path, steps: int) -> None:
        self._folder, self._steps, self._half = folder, steps, steps // 2
        self._store = write_synthetic_store(folder / "store", CLIPS)

    def curve(self, case: Case) -> Curve:
        """Train a case; the curve of a resumed one is the later half.

        Raises:
            RuntimeError: a rank failed, or the training is none that tells ways of computing it apart.
        """
        plan = self._plan(case)
        if case.resumed_from is not None:
            name = f"checkpoints/step-{self._half:08d}"
            shutil.copytree(self._folder / case.resumed_from.name / name, plan.output_dir / name)
        run_ranks(case.workers, lambda: _train(plan))
        steps = read_json(plan.output_dir / "steps.json")
        first = self._half if case.resumed_from is not None else 0
        if [step["step"] for step in steps] != list(range(first, self._steps)):
            raise RuntimeError(f"{case.name}: other steps were trained: {[step['step'] for step in steps]}")
        _check_it_tells(case, steps)
        return Curve(np.array([step["metrics"]["train/loss/total"] for step in steps]))

    def timed_curve(self, case: Case) -> tuple[Curve, float]:
        """Return the curve of a case, and the seconds that it took."""
        start = time.monotonic()
        return self.curve(case), time.monotonic() - start

    def _plan(self, case: Case) -> TrainingPlan:
        return TrainingPlan.model_validate({
            "output_dir": self._folder / case.name,
            "data": {
                "store": self._store,
                "composition": {"batch_size": BATCH},
                "partitions": {"labelled_fraction": 0.5, "audio_only_share": 0.15, "video_only_share": 0.15},
                "augmentation": {"audio": {"noise": 0.3}, "video": {"noise": 0.3}, "modality_dropout": 0.2},
            },
            "model": _MODEL,
            "objectives": _OBJECTIVES,
            "training": {
                **case.training(), "max_epochs": self._steps, "max_steps": self._steps,
                "checkpoint_every_epochs": self._steps, "checkpoint_every_steps": self._half, "average_decay": 0.8,
                "optimizer": {"learning_rate": 3e-3, "warmup_steps": 5, "final_share": 0.1, "weight_decay": 0.05},
            },
        })  # fmt: skip


def _train(plan: TrainingPlan) -> None:
    """Train on this rank; rank 0 leaves the records of the steps."""
    logging.disable(logging.WARNING)
    records: list[dict[str, Any]] = []

    def collect(some: Sequence[dict[str, Any]]) -> None:
        records.extend(some)

    run = prepare_run(plan)
    train(run, run.start, collect)
    if rank_and_world_size()[0] == 0:
        write_json(plan.output_dir / "steps.json", [record for record in records if record["kind"] == "step"])


def _check_it_tells(case: Case, steps: list[dict[str, Any]]) -> None:
    """Refuse a curve of constants, or one that lacks an objective: equality would show nothing."""
    totals = [step["metrics"]["train/loss/total"] for step in steps]
    if not np.ptp(totals) > 0.1:
        raise RuntimeError(f"{case.name}: the loss hardly moves: {totals}")
    for part in _PARTS:
        values = [
            abs(value)
            for step in steps
            for name, value in step["metrics"].items()
            if f"{name}/".startswith(f"train/loss/{part}/")
        ]
        if not max(values, default=0) > 0:
            raise RuntimeError(f"{case.name}: {part} took no part")

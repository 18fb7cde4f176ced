"""The training that the checks of a device repeat: the demo's network and objectives on a store made on the spot.

As a program it is the driver of one run: python checked_runs.py PLAN.json RECORDS.jsonl [STEP]

Exit codes are those of the jobs. With STEP it kills itself, as ``kill -9`` does, at the first report from that step on
that finds a checkpoint on the disk.
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml
from gpu_checks import Bench, Case, Difference
from synthetic_store import write_synthetic_store

from vavl.errors import VavlError
from vavl.training.checkpoint import CHECKPOINTS_DIRECTORY, checkpoint_names
from vavl.training.checkpoint_files import problem_of
from vavl.training.run_directory import claim_run_directory
from vavl.training.settings import TrainingPlan
from vavl.training.storage import RunStorage
from vavl.training.worker import train_on_worker

DEMO = Path(__file__).parents[3] / "jobs/configs/demo.yaml"
LOSS = "train/loss/total"
STEPS = 12
WIDTHS = {"audio": 80, "video": 35}
_SMALL = {"preset": "small", "width": 16, "head_widths": [16, 8], "modality_blocks": 1, "dropout": 0.2}

Record = dict[str, Any]


def checked_plan(bench: Bench, name: str, case: Case, **training: Any) -> TrainingPlan:
    """Return the plan of a run in ``name`` of the bench's directory; ``training`` is merged over its section."""
    demo = yaml.safe_load(DEMO.read_text())
    optimizer = {**demo["training"]["optimizer"], "warmup_steps": 4}
    return TrainingPlan.model_validate({
        "output_dir": bench.folder / name,
        "data": {
            "store": _store(bench),
            "partitions": demo["data"]["partitions"],
            "composition": demo["data"]["composition"],
        },
        "model": _SMALL if bench.quick else demo["model"],
        "objectives": {**demo["objectives"], "ladder": {"weight": 0.1}},
        "training": {
            "launcher": "in_process", "max_steps": STEPS, "report_every_steps": 1, "optimizer": optimizer,
            "average_decay": demo["training"]["average_decay"], "gpus_per_worker": int(bench.on_gpu),
            **case.settings(), **training,
        },
        "evaluation": {"select_by": demo["evaluation"]["select_by"]},
    })  # fmt: skip


@dataclass(frozen=True)
class FileSink:
    """Appends records to a file, from whatever process reports them.

    Attributes:
        path: of the file.
        killed_from: step from which it kills its own process once ``output_dir`` has a whole checkpoint.
        output_dir: of the run.
    """

    path: Path
    killed_from: int | None = None
    output_dir: Path | None = None

    def __call__(self, records: Sequence[Record]) -> None:
        """Write the records, then die if it is time."""
        with self.path.open("a") as file:
            file.writelines(json.dumps(record) + "\n" for record in records)
        last = max((record.get("step", 0) for record in records), default=0)
        if self.killed_from is not None and last >= self.killed_from and whole_checkpoints(self.output_dir):
            os.kill(os.getpid(), signal.SIGKILL)

    def read(self) -> list[Record]:
        """Return all records."""
        return [json.loads(line) for line in self.path.read_text().splitlines()]


def run_plan(plan: TrainingPlan, sink: FileSink) -> None:
    """Train as a job does: anew, or on from the newest checkpoint.

    Raises:
        VavlError: what stopped it.
    """
    folder = claim_run_directory(plan)
    if plan.training.launcher == "ray":
        from vavl.training.launch import launch_training  # a machine without Ray trains in this process

        launch_training(plan, folder, sink)
    else:
        train_on_worker(plan, sink)
    folder.finish()


def curve_of(records: Sequence[Record]) -> list[float]:
    """Return the loss of every step; of one that was repeated after a resumption the last."""
    steps = {one["step"]: one["metrics"][LOSS] for one in records if one["kind"] == "step"}
    return [steps[step] for step in sorted(steps)]


def seconds_per_step(records: Sequence[Record]) -> float:
    """Return the median time between the ends of two steps."""
    times = [one["time"] for one in records if one["kind"] == "step"]
    return statistics.median(after - before for before, after in pairwise(times))


def trained_curve(plan: TrainingPlan) -> tuple[list[float], list[Record]]:
    """Train a plan once; return its loss curve, which has to fall, and all records."""
    plan.output_dir.mkdir(parents=True)
    sink = FileSink(plan.output_dir / "records.jsonl")
    run_plan(plan, sink)
    records = sink.read()
    curve = curve_of(records)
    third = len(curve) // 3
    if not statistics.mean(curve[-third:]) < statistics.mean(curve[:third]):
        raise Difference(f"the loss does not fall: {[round(loss, 4) for loss in curve]}")
    return curve, records


def reference_curve(bench: Bench, precision: str) -> list[float]:
    """Return the loss curve of one process with torch alone on the CPU; trained once."""
    file = bench.folder / f"reference-{precision}.json"
    if not file.exists():
        name = f"reference {precision}"
        curve, _ = trained_curve(checked_plan(bench, name, Case(precision=precision), gpus_per_worker=0))
        file.write_text(json.dumps(curve))
    found: list[float] = json.loads(file.read_text())
    return found


def whole_checkpoints(output_dir: Path | None) -> list[str]:
    """Return the names of the checkpoints of a run that would be resumed from, oldest first."""
    assert output_dir is not None
    root = RunStorage(output_dir).directory(CHECKPOINTS_DIRECTORY)
    return [name for name in checkpoint_names(root) if problem_of(root.directory(name)) is None]


def events_of(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what happened to a run, by the names of its events."""
    return [one["what"] for one in records if one["kind"] == "event"]


def _store(bench: Bench) -> Path:
    folder = bench.folder / "store"
    if not folder.exists():
        frames = 6 if bench.quick else 40
        write_synthetic_store(folder, clips=240, speakers=12, most_frames=frames, widths=WIDTHS)
    return folder


def main(plan_file: Path, records_file: Path, killed_from: int | None) -> int:
    """Train; return the exit code."""
    plan = TrainingPlan.model_validate(json.loads(plan_file.read_text()))
    try:
        run_plan(plan, FileSink(records_file, killed_from, plan.output_dir))
    except VavlError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]) if sys.argv[3:] else None))

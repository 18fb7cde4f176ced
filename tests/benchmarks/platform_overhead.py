"""What the platform costs: the same steps bare, in its loop, and with Ray + DeepSpeed; and how soon they begin.

    python tests/benchmarks/platform_overhead.py [--size paper] [--steps 8] [--precision bf16] [--out FILE.json]

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
import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.extend(str(path) for path in (Path(__file__).parents[1] / "support").iterdir())

import ray
import torch
import yaml
from benchmark_program import conditions, finish, in_words, read_arguments, table
from measured import spread
from ray_driver import TimedSink
from torch import nn
from torch.nn import functional
from training_load import QUICK, SIZES, Size, plan_of, write_store

from vavl.audit.audit import audit_of
from vavl.data.batch import ClipBatch
from vavl.models.conformer import masked_mean
from vavl.models.draws import DrawKey
from vavl.ray_session import join_ray
from vavl.tracking.journal import JOURNAL_NAME
from vavl.training.checkpoint import Checkpoints
from vavl.training.launch import launch_training
from vavl.training.loop import train, train_step
from vavl.training.run import prepare_run
from vavl.training.run_directory import claim_run_directory
from vavl.training.settings import TrainingPlan

ROOT = Path(__file__).parents[2]
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
                "workers": workers, "precision": self.precision,
                "max_epochs": 10**6, "max_steps": self.steps,
                "checkpoint_every_epochs": 10**6,
            },
        )  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, write JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", choices=list(SIZES), default="paper")
    parser.add_argument("--steps", type=int, default=8, help="of every turn, with two to warm up")
    parser.add_argument("--clips", type=int, default=32, help="of a worker's step; the paper's batch")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="bf16")
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


def measure(bench: Bench, words: argparse.Namespace) -> dict[str, Any]:
    """Take turns, then start the job, then save checkpoints."""
    ways: dict[str, Callable[[str], list[float]]] = {
        BARE: lambda name: bare_steps(bench.plan(name)),
        LOOP: lambda name: loop_steps(bench.plan(name)),
    }
    if not words.without_ray:
        # Ray's workers work in other directories; they take the sink from here.
        os.environ["PYTHONPATH"] = os.pathsep.join(map(str, (ROOT / "platform", *(ROOT / "tests/support").iterdir())))
        join_ray(1)
        ways |= {
            RAY_1: lambda name: ray_steps(bench.plan(name, on_ray=True)),
            RAY_2: lambda name: ray_steps(bench.plan(name, workers=2, on_ray=True)),
        }
    steps: dict[str, list[list[float]]] = {name: [] for name in ways}
    for turn in range(words.repeats or (1 if words.quick else 3)):
        for place, (name, way) in enumerate(list(ways.items())[:: 1 if turn % 2 else -1]):
            steps[name].append(way(f"turn{turn}_{place}"))
    medians = {name: [spread(turn)["median"] for turn in turns] for name, turns in steps.items()}
    result: dict[str, Any] = {
        "precision": bench.precision,
        "clips_of_a_workers_step": bench.size.batch_size,
        "step_seconds": {
            name: spread([seconds for turn in turns for seconds in turn]) for name, turns in steps.items()
        },
        "loop_overhead": overhead(medians[LOOP], medians[BARE]),
        "checkpoint": checkpoint_seconds(bench.plan("checkpoints")),
    }
    if words.without_ray:
        return result
    ray.shutdown()  # the job starts its own
    of_ray = overhead(medians[RAY_1], medians[BARE])
    scaling = spread([one / two for one, two in zip(medians[RAY_1], medians[RAY_2], strict=True)])
    return result | {
        "overhead_share": of_ray["median"], "overhead_share_spread": of_ray,
        "weak_scaling": scaling["median"], "weak_scaling_spread": scaling,
        "seconds_to_first_step": seconds_to_first_step(bench),
    }  # fmt: skip


def overhead(ways: Sequence[float], bare: Sequence[float]) -> dict[str, float]:
    """Return what a way takes more than the bare loop, as a share of it, turn by turn."""
    return spread([way / plain - 1 for way, plain in zip(ways, bare, strict=True)])


def bare_steps(plan: TrainingPlan) -> list[float]:
    """Train as a script of one page would; return the seconds of each step."""
    run = prepare_run(plan)
    network, chosen = run.engine.network.train(), plan.training.optimizer
    weights = [weight for weight in network.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(
        weights, lr=chosen.learning_rate, betas=chosen.betas, weight_decay=chosen.weight_decay, fused=True
    )
    ends = []
    for step, (batch,) in enumerate(run.loader.steps(0, run.total_steps)):
        with torch.autocast("cpu", torch.bfloat16, enabled=plan.training.precision == "bf16"):
            output = network(batch, DrawKey(plan.training.seed, step))
        loss = plain_loss(output, batch)
        loss.backward()
        nn.utils.clip_grad_norm_(weights, chosen.gradient_clipping)
        optimizer.step()
        optimizer.zero_grad()
        loss.item()
        ends.append(time.time())
    return between(ends)


def plain_loss(output: Any, batch: ClipBatch) -> torch.Tensor:
    """Return the supervised and reconstruction losses where every clip has everything."""
    loss = functional.cross_entropy(output.fusion_logits.float(), batch.target)
    for side, clips in ((output.audio, batch.audio), (output.video, batch.video)):
        target = masked_mean(clips.values, clips.is_real)
        loss = loss + functional.cross_entropy(side.logits.float(), batch.target)
        loss = loss + 2 * functional.mse_loss(side.reconstruction.float(), target)
    return loss


def loop_steps(plan: TrainingPlan) -> list[float]:
    """Train with the platform's loop in this process."""
    run = prepare_run(plan)
    records: list[dict[str, Any]] = []
    train(run, run.start, records.extend)
    run.checkpoints.finish()
    return between([record["time"] for record in records if record["kind"] == "step"])


def ray_steps(plan: TrainingPlan) -> list[float]:
    """Train on Ray with DeepSpeed."""
    plan.output_dir.mkdir(parents=True)
    seen = plan.output_dir / "records.jsonl"
    launch_training(plan, claim_run_directory(plan), TimedSink(seen))
    records = [json.loads(line) for line in seen.read_text().splitlines()]
    return between([record["time"] for record in records if record["kind"] == "step"])


def between(ends: Sequence[float]) -> list[float]:
    """Return the seconds of each step after those that warm up."""
    return [later - earlier for earlier, later in itertools.pairwise(ends)][_WARM_UP_STEPS - 1 :]


def seconds_to_first_step(bench: Bench) -> float:
    """Start the job as a user does, with its features ready and audited, and stop it after its first step."""
    failed = audit_of(bench.store).failures(None, ())
    folder = bench.folder / "job"
    plan = bench.plan("job", on_ray=True).model_dump(mode="json", include={"output_dir", "data", "model", "training"})
    plan["data"]["waive_audit"] = sorted({finding.check.value for finding in failed})
    plan["training"]["report_every_steps"] = 1
    plan["tracking"] = {"uri": f"sqlite:///{folder}.db", "artifact_location": str(bench.folder / "artifacts")}
    config = bench.folder / "job.yaml"
    config.write_text(yaml.safe_dump(plan))
    start = time.time()
    log = (bench.folder / "job.log").open("w")
    job = subprocess.Popen(
        [sys.executable, "jobs/train_model.py", str(config)], cwd=ROOT, stdout=log, stderr=log,
        env={name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"},
    )  # fmt: skip
    try:
        first = first_step_time(folder / JOURNAL_NAME, job)
    finally:
        job.send_signal(signal.SIGTERM)
        job.wait(timeout=300)
    return first - start


def first_step_time(journal: Path, job: subprocess.Popen[bytes]) -> float:
    """Wait for the first step in a journal; return its time."""
    while True:
        lines = journal.read_text().splitlines() if journal.exists() else []
        for record in (json.loads(line) for line in lines if line.endswith("}")):
            if record["kind"] == "step":
                return float(record["time"])
        if job.poll() is not None:
            raise RuntimeError((journal.parents[1] / "job.log").read_text()[-2000:])
        time.sleep(0.05)


def checkpoint_seconds(plan: TrainingPlan) -> dict[str, Any]:
    """Save checkpoints of a run after one step, with nothing next to them."""
    run = prepare_run(plan)
    train_step(run, 0, run.loader.load(0), None)
    checkpoints = Checkpoints(plan.output_dir / "saved", keep=1)
    checkpoints.open()
    held_up, there = [], []
    for step in range(_CHECKPOINTS):
        start = time.monotonic()
        checkpoints.save(run.engine, None, run.start.model_copy(update={"step": step}))
        held_up.append(time.monotonic() - start)
        checkpoints.finish()
        there.append(time.monotonic() - start)
    return {
        "parameters": run.parameters,
        "held_up_seconds": spread(held_up),
        "until_it_lies_there_seconds": spread(there),
    }


def lines_of(result: dict[str, Any]) -> list[str]:
    """Describe the result."""
    rows = [[name, in_words(seconds, 1e3, " ms", 0)] for name, seconds in result["step_seconds"].items()]
    saved = result["checkpoint"]
    lines = [
        f"{result['clips_of_a_workers_step']} clips per worker and step, {result['precision']}, one thread, wall clock",
        *table(["step", "median (range)"], rows),
        f"the loop takes {in_words(result['loop_overhead'], 100, ' %', 1)} more than the bare loop",
        f"checkpoint of {saved['parameters'] / 1e6:.1f} M parameters: holds up "
        + in_words(saved["held_up_seconds"], 1e3, " ms", 0)
        + ", lies there after " + in_words(saved["until_it_lies_there_seconds"], 1e3, " ms", 0),
    ]  # fmt: skip
    if "overhead_share" in result:
        lines += [
            f"Ray + DeepSpeed takes {in_words(result['overhead_share_spread'], 100, ' %', 1)} more than the bare loop",
            f"from 1 to 2 workers: {in_words(result['weak_scaling_spread'])} of the speed per worker",
            f"first step {result['seconds_to_first_step']:.1f} s after the command",
        ]
    return lines


if __name__ == "__main__":
    raise SystemExit(main())

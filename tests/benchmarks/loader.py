"""The loader: clips and bytes per second against a plain copy, what a step waits for it, and stores of all sizes.

    python tests/benchmarks/loader.py [--size paper] [--steps 12] [--most-clips 1000000] [--out FILE.json]

- Speed: ``StepLoader.load`` (read from the mapped store, normalize, pad) in turn with a copy of the same bytes by
  numpy, on one thread; the store is in the page cache.
- Waiting: the loop's ``for`` over ``loader.steps`` with the platform's training step; the share of the time that the
  loop stands and waits for the next batch, after the first one. ``waiting_share``.
- Size: for 10 thousand clips and more, each in a process of its own, the time to open the run, the memory of the
  process after that and after some batches, and the clips per second. ``memory_growth`` is the largest store's peak
  over the smallest one's.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.extend(str(path) for path in (Path(__file__).parents[1] / "support").iterdir())

import numpy as np
import torch
from benchmark_program import conditions, finish, in_words, read_arguments, table
from measured import in_own_process, in_turn, peak_of_private_memory, ratio
from synthetic_store import write_synthetic_store
from training_load import QUICK, SIZES, Size, load_of, plan_of, write_store

from vavl.data.batch import ClipBatch
from vavl.training.loop import train_step
from vavl.training.run import prepare_run

_GROWTH = 10


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, write JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", choices=list(SIZES), default="paper")
    parser.add_argument("--steps", type=int, default=12, help="of the training that waits for its batches")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="bf16")
    parser.add_argument("--least-clips", type=int, default=10_000)
    parser.add_argument("--most-clips", type=int, default=1_000_000)
    words = read_arguments(__doc__, "loader", argv, parser)
    if words.quick:
        words.steps, words.least_clips, words.most_clips = 3, 200, 2000
    size = QUICK if words.quick else SIZES[words.size]
    with tempfile.TemporaryDirectory(dir=words.out.parent) as folder:
        stores = measure_stores(Path(folder), words)  # first: forks want a process without threads
        speed = measure_speed(size, Path(folder) / "one", words)
    growth = stores[-1]["peak_bytes"] / stores[0]["peak_bytes"]
    result = {"conditions": conditions(words), **speed, "stores": stores, "memory_growth": growth}
    finish(words, result, lines_of(result, words.clock))
    return 0


def measure_stores(folder: Path, words: argparse.Namespace) -> list[dict[str, float]]:
    """Write stores of growing size and read each in a process of its own."""
    found, clips = [], words.least_clips
    while clips <= words.most_clips:
        store = folder / f"{clips}"
        in_own_process(lambda store=store, clips=clips: str(write_synthetic_store(store, clips)))
        found.append({"clips": clips, **in_own_process(lambda store=store: read_some(store))})
        clips *= _GROWTH
    return found


def read_some(store: Path, batches: int = 200) -> dict[str, float]:
    """Open a run on a store and read batches of 32 clips in the sampler's order."""
    torch.set_num_threads(1)
    small = Size(QUICK.model, {}, 32)
    with tempfile.TemporaryDirectory() as folder, peak_of_private_memory() as memory:
        start = time.perf_counter()
        run = prepare_run(plan_of(small, store, Path(folder)))
        opened = time.perf_counter()
        for step in range(batches):
            run.loader.load(step)
        done = time.perf_counter()
    return {
        "seconds_to_open": opened - start,
        "clips_per_second": batches * 32 / (done - opened),
        "peak_bytes": memory["bytes"],
    }


def measure_speed(size: Size, folder: Path, words: argparse.Namespace) -> dict[str, Any]:
    """Load batches in turn with copies of as many bytes, and train while loading."""
    plan = plan_of(size, write_store(size, folder / "store"), folder / "run", training={"precision": words.precision})
    load = load_of(plan, batches=1)
    byte_count = sum(bytes_of(batch) for batch in load.batches[0])
    source = np.ones(byte_count, dtype=np.uint8)
    target = np.empty_like(source)
    steps = iter(range(2**62))
    ways = {"loader": lambda: load.run.loader.load(next(steps)), "copy": lambda: np.copyto(target, source)}
    timings = in_turn(ways, words.repeats or (3 if words.quick else 30), warm_up=2)
    loading = timings["loader"].median(words.clock)
    return {
        "precision": words.precision,
        "bytes_of_a_batch": byte_count,
        "clips_per_second": size.batch_size / loading,
        "bytes_per_second": byte_count / loading,
        "timings": {name: timing.as_json() for name, timing in timings.items()},
        "ratio_to_copy": ratio(timings["loader"], timings["copy"], words.clock),
        **measure_waiting(load, words.steps),
    }


def measure_waiting(load: Any, steps: int) -> dict[str, float]:
    """Train with batches from the background thread; return what the loop waits for them."""
    run, waited, worked = load.run, 0.0, 0.0
    mark = time.perf_counter()
    for step, micro_batches in enumerate(run.loader.steps(0, steps + 1)):
        there = time.perf_counter()
        train_step(run, step, micro_batches, None)
        done = time.perf_counter()
        if step:  # the first batch is what every run waits for once
            waited, worked = waited + there - mark, worked + done - there
        mark = done
    return {"seconds_waiting": waited, "seconds_training": worked, "waiting_share": waited / (waited + worked)}


def bytes_of(batch: ClipBatch) -> int:
    """Return the bytes of the frames of a batch."""
    return batch.audio.values.nbytes + batch.video.values.nbytes


def lines_of(result: dict[str, Any], clock: str) -> list[str]:
    """Describe the result."""
    mega = 1e6
    rows = [
        [
            f"{one['clips']:,}", f"{one['seconds_to_open']:.2f}", f"{one['clips_per_second']:,.0f}",
            f"{one['peak_bytes'] / mega:.0f}",
        ]
        for one in result["stores"]
    ]  # fmt: skip
    speed = (
        f"a batch of {result['bytes_of_a_batch'] / mega:.1f} MB: {result['clips_per_second']:,.0f} clips/s, "
        f"{result['bytes_per_second'] / mega:,.0f} MB/s; "
        f"{in_words(result['ratio_to_copy'])} x the time of a copy ({clock} clock)"
    )
    return [
        speed,
        f"a training step waits {100 * result['waiting_share']:.2f} % of its time for its batch",
        *table(["clips of the store", "s to open", "clips/s", "peak MB"], rows),
        f"memory: {result['memory_growth']:.2f} x from the smallest to the largest store",
    ]


if __name__ == "__main__":
    raise SystemExit(main())

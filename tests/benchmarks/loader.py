"""The loader: clips per second, what a step waits for it, and what a rank spends on stores of all sizes.

    python tests/benchmarks/loader.py [--size paper] [--steps 12] [--clips 10000 1000000 100000000] [--out FILE.json]

- Speed: ``StepLoader.load`` (read, normalize, pad) on one thread from a store in the page cache, in turn with a copy of
  the same bytes by numpy and with the same clips in float16 (``float16_ratio``). Per second of the chosen clock.
  Clips in float16 are widened and normalized on the device: ``float16_to_network`` compares the load and this, here
  on the CPU, with the load of float32.
- Waiting: the loop's ``for`` over ``loader.steps`` with the platform's training step; the share of the time that the
  loop stands and waits for the next batch, after the first one (``waiting_share``), and how many times as long the
  step takes as its loading (``loader_to_step``).
- Writing: rows of audio into shards, as the workers of an extraction write them, by one process and by two in turn;
  ``writers`` is how many times as fast the two are. ``by_processor`` compares the processor time of the one with that
  of the busier of the two: what they reach where each has a processor to itself. ``with_index`` counts what the job
  does alone afterwards, too: it reads all rows once for sums, checksums and the store's hash. ``peak_growth`` is the
  private memory of a writer of all clips over that of one of a tenth.
- Size: stores whose index is as large as it says, over the shards of a small one. Each is opened in processes of
  their own: by the first, which builds the arrays of the clips, and by one that finds them. ``open_seconds`` is
  the time to the first batch of the latter by size, ``private_bytes`` its memory (RssAnon) after some batches;
  ``private_bytes_per_clip`` is what that grows from the smallest to the largest store, per clip. ``shared`` is the part
  of the mapped arrays that two ranks of a machine share: 1 - (Pss of both) / (Rss of both), 0.5 if all.
  100 million clips take 15 GB of disk and some minutes; the default leaves them out.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.extend(str(path) for path in (Path(__file__).parents[1] / "support").iterdir())

import numpy as np
import torch
from benchmark_program import conditions, finish, in_words, read_arguments, table
from measured import CLOCKS, in_own_process, in_turn, peak_of_private_memory, private_memory, ratio, spread, timed
from repeated_store import write_repeated_store
from training_load import AUDIO_FRAMES_PER_SECOND, QUICK, SIZES, Size, load_of, plan_of, write_store

from vavl.data.batch import ClipBatch
from vavl.data.loader import RankPlace, StepLoader
from vavl.data.sampler import Sampler
from vavl.extraction.parts import ClipRecord, Part, PartRecord, PartWriter
from vavl.features import ModalityInfo
from vavl.store.shards import ClipFeatures
from vavl.store.store_writer import StoreWriter
from vavl.training.loop import train_step
from vavl.training.run_data import open_run_data

_CLIPS_OF_THE_SHARDS = 40
_PARTS = 8


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, write JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", choices=list(SIZES), default="paper")
    parser.add_argument("--steps", type=int, default=12, help="of the training that waits for its batches")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="bf16")
    parser.add_argument("--clips", type=int, nargs="+", default=[10_000, 1_000_000], help="of the stores, ascending")
    words = read_arguments(__doc__, "loader", argv, parser)
    if words.quick:
        words.steps, words.clips = 3, [4_000, 400_000]
    size = QUICK if words.quick else SIZES[words.size]
    with tempfile.TemporaryDirectory(dir=words.out.parent) as folder:
        os.environ["VAVL_CACHE"] = str(Path(folder, "cache").absolute())
        stores = measure_stores(size, Path(folder), words.clips)  # first: forks want a process without threads
        writing = measure_writing(size, Path(folder), 40 if words.quick else 800, words.repeats or 3)
        speed = measure_speed(size, Path(folder), words)
    result = {"conditions": conditions(words), **speed, **summary(stores), "writing": writing}
    finish(words, result, lines_of(result, words.clock))
    return 0


def measure_stores(size: Size, folder: Path, sizes: Sequence[int]) -> list[dict[str, Any]]:
    """Write stores of growing size and open each in processes of their own."""
    few = Size(size.model, size.widths, size.batch_size, size.seconds, _CLIPS_OF_THE_SHARDS)
    real, found = folder / "real", []
    in_own_process(lambda: str(write_store(few, real)))
    for clips in sizes:
        store = folder / f"{clips}"
        in_own_process(lambda store=store, clips=clips: str(write_repeated_store(store, real, clips)))
        first, *later = (in_own_process(lambda store=store: read_some(few, store)) for _ in range(4))
        # Now and then the allocator gives 40 MB back: the median is not of such a process.
        again = sorted(later, key=lambda one: one["added_bytes"])[1]
        found.append({"clips": clips, "first": first, "again": again, "shared": shared_by_two(few, store)})
        shutil.rmtree(store)
        shutil.rmtree(folder / "cache")
    return found


def measure_writing(size: Size, folder: Path, clips: int, repeats: int) -> dict[str, Any]:
    """Write the same rows by one process and by two, then their index by one."""
    found: dict[int, list[dict[str, float]]] = {1: [], 2: []}
    alone: list[dict[str, float]] = []
    for turn in range(repeats):
        for writers in (1, 2) if turn % 2 else (2, 1):
            store = folder / "written"
            found[writers].append(write_rows(size, store, clips, writers))
            alone.append(in_own_process(lambda store=store: timed(lambda: write_index(size, store))))
            shutil.rmtree(store)
    few = write_rows(size, folder / "few", clips // 10, 1)
    index = statistics.median(one["wall"] for one in alone)
    pairs = list(zip(found[1], found[2], strict=True))
    return {
        "clips": clips,
        "writers": spread([one["wall"] / two["wall"] for one, two in pairs]),
        "by_processor": spread([one["processor"] / two["processor"] for one, two in pairs]),
        "with_index": spread([(one["wall"] + index) / (two["wall"] + index) for one, two in pairs]),
        "clips_per_second": {n: clips / statistics.median(one["wall"] for one in runs) for n, runs in found.items()},
        "index_seconds": index,
        "peak_growth": found[1][0]["peak"] / few["peak"],
    }


def write_rows(size: Size, store: Path, clips: int, writers: int) -> dict[str, float]:
    """Let processes write the parts of a store; return wall time, and the most processor time and memory of one."""
    fork = multiprocessing.get_context("fork")
    results = fork.SimpleQueue()

    def write(number: int) -> None:
        before = time.thread_time()  # without the thread that samples the memory
        with peak_of_private_memory() as memory:
            for part in range(number, _PARTS, writers):
                write_part(size, store, part, range(part * clips // _PARTS, (part + 1) * clips // _PARTS))
        results.put((time.thread_time() - before, memory["bytes"]))

    start = time.perf_counter()
    processes = [fork.Process(target=write, args=(number,)) for number in range(writers)]
    for process in processes:
        process.start()
    spent = [results.get() for _ in processes]
    for process in processes:
        process.join()
    wall = time.perf_counter() - start
    return {"wall": wall, "processor": max(one for one, _ in spent), "peak": max(peak for _, peak in spent)}


def write_part(size: Size, store: Path, number: int, clips: range) -> None:
    """Write rows as the worker of an extraction does."""
    width, frames = size.widths["audio"], round(size.seconds * AUDIO_FRAMES_PER_SECOND)
    values = np.random.default_rng(number).normal(size=(frames, width)).astype(np.float32)
    times = np.arange(frames, dtype=np.float32)
    part = Part("audio", store / f"parts/audio-{number:012d}.json", "synthetic", store, width, "", "float32", ())
    part.path.parent.mkdir(parents=True, exist_ok=True)
    with part.shard_writer() as shards:
        writer = PartWriter(part, shards)
        for clip in clips:
            writer.add(ClipFeatures(f"clip{clip:06d}", f"s{clip % 8}", values, times), ClipRecord(None))
        writer.finish()


def write_index(size: Size, store: Path) -> None:
    """Make a store of the parts, as an extraction does at its end."""
    records = [PartRecord.read(path) for path in sorted((store / "parts").glob("*.json"))]
    writer = StoreWriter(store, "synthetic", "0" * 16)
    shards = [shard for record in records for shard in record.shards]
    checksums = (one for record in records for one in record.checksums)
    writer.add_shards("audio", ModalityInfo("synthetic", "1", {}, 50.0, size.widths["audio"]), shards, checksums)
    writer.finish({})


def read_some(
    size: Size, store: Path, rank: int = 0, ranks: int = 1, together: Callable[[], object] = int, batches: int = 100
) -> dict[str, Any]:
    """Open the clips of a run and read batches in the sampler's order, as one rank does; ``together`` waits for all."""
    torch.set_num_threads(1)
    before, start = private_memory(), {clock: read() for clock, read in CLOCKS.items()}
    with tempfile.TemporaryDirectory() as folder, peak_of_private_memory() as memory:
        plan = plan_of(size, store, Path(folder))
        data = open_run_data(plan)
        sampler = Sampler(data.partitioned.clips, data.composition, data.collection.lengths, plan.training.seed)
        loader = StepLoader(data.collection, sampler, data.normaliser, RankPlace(rank, ranks))
        loader.load(0)
        spent = {f"{clock}_seconds": read() - start[clock] for clock, read in CLOCKS.items()}
        opened = time.perf_counter()
        # Far apart, as a long run would come to them: every batch needs another window of the sampler.
        for step in np.linspace(1, data.partitioned.count // size.batch_size, batches).astype(int).tolist():
            loader.load(step)
        speed = batches * size.batch_size / (time.perf_counter() - opened)
        together()
        mapped = mapped_memory()
        together()
    return {
        "to_first_batch": spent,
        "clips_per_second": speed,
        "private_bytes": private_memory(),
        "added_bytes": private_memory() - before,
        "peak_bytes": memory["bytes"],
        "mapped": mapped,
    }


def shared_by_two(size: Size, store: Path) -> float:
    """Return the part of their mapped arrays that two ranks share while both read."""
    fork = multiprocessing.get_context("fork")
    both, results = fork.Barrier(2), fork.SimpleQueue()

    def read(rank: int) -> None:
        results.put(read_some(size, store, rank, 2, both.wait)["mapped"])

    ranks = [fork.Process(target=read, args=(rank,)) for rank in range(2)]
    for process in ranks:
        process.start()
    found = [results.get() for _ in ranks]
    for process in ranks:
        process.join()
    return 1 - sum(one["Pss"] for one in found) / sum(one["Rss"] for one in found)


def mapped_memory() -> dict[str, int]:
    """Return Rss and Pss in bytes of the files with arrays of clips that this process has mapped."""
    found, is_one = {"Rss": 0, "Pss": 0}, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        name, _, rest = line.partition(":")
        if "-" in name.split(" ")[0]:
            is_one = "/cache/arrays/" in line or line.endswith("_index.bin")
        elif is_one and name in found:
            found[name] += 1024 * int(rest.split()[0])
    return found


def summary(stores: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return what is asked of all sizes together."""
    least, most = stores[0], stores[-1]
    grown = most["again"]["added_bytes"] - least["again"]["added_bytes"]
    return {
        "stores": stores,
        "open_seconds": {str(one["clips"]): one["again"]["to_first_batch"] for one in stores},
        "private_bytes": {str(one["clips"]): one["again"]["private_bytes"] for one in stores},
        "private_bytes_per_clip": grown / max(1, most["clips"] - least["clips"]),
        "memory_growth": most["again"]["private_bytes"] / least["again"]["private_bytes"],
    }


def measure_speed(size: Size, folder: Path, words: argparse.Namespace) -> dict[str, Any]:
    """Load batches in turn with copies of as many bytes and with the same clips in float16, and train while loading."""
    load, halved = (
        load_of(
            plan_of(
                size,
                write_store(size, folder / f"speed_{dtype}", dtype),
                folder / f"run_{dtype}",
                training={"precision": words.precision},
            ),
            batches=1,
        )
        for dtype in ("float32", "float16")
    )
    byte_count = sum(bytes_of(batch) for batch in load.batches[0])
    source = np.ones(byte_count, dtype=np.uint8)
    target = np.empty_like(source)
    steps, more = iter(range(2**62)), iter(range(2**62))
    ways = {
        "loader": lambda: load.run.loader.load(next(steps)),
        "copy": lambda: np.copyto(target, source),
        "float16": lambda: halved.run.loader.load(next(more)),
        "float16_to_network": lambda: [one.to(torch.device("cpu")) for one in halved.run.loader.load(next(more))],
    }
    timings = in_turn(ways, words.repeats or (3 if words.quick else 30), warm_up=2 + size.clips // size.batch_size)
    loading = timings["loader"].median(words.clock)
    waiting = measure_waiting(load, words.steps)
    return {
        "precision": words.precision,
        "bytes_of_a_batch": byte_count,
        "clips_per_second": size.batch_size / loading,
        "bytes_per_second": byte_count / loading,
        "timings": {name: timing.as_json() for name, timing in timings.items()},
        "ratio_to_copy": ratio(timings["loader"], timings["copy"], words.clock),
        "float16_ratio": ratio(timings["loader"], timings["float16"], words.clock),
        "float16_to_network": ratio(timings["loader"], timings["float16_to_network"], words.clock),
        "loader_to_step": waiting["seconds_training"] / words.steps / timings["loader"].median("wall"),
        **waiting,
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
            f"{one['clips']:,}",
            *(f"{one[which]['to_first_batch'][f'{clock}_seconds']:.2f}" for which in ("first", "again")),
            *(f"{one[which]['peak_bytes'] / mega:.0f}" for which in ("first", "again")),
            f"{one['again']['private_bytes'] / mega:.1f}", f"{one['shared']:.2f}",
        ]
        for one in result["stores"]
    ]  # fmt: skip
    header = [
        "clips of the store", "s to a batch: first", "again", "peak MB: first", "again", "private MB", "shared",
    ]  # fmt: skip
    speed = (
        f"a batch of {result['bytes_of_a_batch'] / mega:.1f} MB: {result['clips_per_second']:,.0f} clips/s, "
        f"{result['bytes_per_second'] / mega:,.0f} MB/s; "
        f"{in_words(result['ratio_to_copy'])} x the time of a copy ({clock} clock)"
    )
    waiting = (
        f"a training step takes {result['loader_to_step']:.0f} x as long as its loading, and waits "
        f"{100 * result['waiting_share']:.2f} % of its time for it"
    )
    memory = (
        f"private memory: {result['private_bytes_per_clip']:.2f} bytes per clip, "
        f"{result['memory_growth']:.2f} x from the smallest to the largest store"
    )
    writing = result["writing"]
    writing_words = (
        f"two writers: {in_words(writing['writers'])} x as fast as one, {in_words(writing['by_processor'])} x by the "
        f"processor's clock, {in_words(writing['with_index'])} x with the index; memory "
        f"{writing['peak_growth']:.2f} x with 10 x the clips"
    )
    halves = (
        f"float16: {in_words(result['float16_ratio'])} x the clips/s, "
        f"{in_words(result['float16_to_network'])} x with widening and normalizing on the CPU"
    )
    return [
        speed,
        writing_words,
        halves,
        waiting,
        *table(header, rows),
        memory,
    ]


if __name__ == "__main__":
    raise SystemExit(main())

"""Clips as long as real ones: what padding costs, and what sorting clips by length saves.

    python tests/benchmarks/lengths.py [--size paper] [--batches 16] [--repeats 1] [--precision bf16] [--out FILE.json]

Clips last 1 to 12 s, lognormal around 3 s, at 50 audio and 30 video frames a second. One epoch of as many clips is
trained in three ways: by this platform with its sampler, which puts clips of like length together within windows of
16 batches; by this platform with batches drawn at random; and by the textbook implementation
(``tests/support/references/textbook_training.py``) with the same random batches. Every batch is padded to its longest
clip.

The waste is the share of padded frames, over both modalities. ``clips_per_second_ratio`` is the platform with its
sampler against the textbook; ``bucketing_ratio`` against itself with random batches.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

sys.path.extend(str(path) for path in (Path(__file__).parents[1] / "support").iterdir())

import numpy as np
from benchmark_program import conditions, finish, in_words, read_arguments, table
from measured import in_turn, ratio
from textbook_training import TextbookTraining
from training_load import QUICK, SIZES, Load, Size, batch_of, frames_of, load_of, plan_of, write_store

from vavl.data import sampler as sampler_module
from vavl.data.batch import ClipBatch
from vavl.data.partitions import Partition
from vavl.data.sampler import Sampler

SORTED, RANDOM, TEXTBOOK = WAYS = ("platform, like lengths", "platform, random", "textbook, random")


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, write JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", choices=list(SIZES), default="paper")
    parser.add_argument("--batches", type=int, default=16, help="of an epoch; 16 are a window of the sampler")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="bf16", help="of both sides")
    words = read_arguments(__doc__, "lengths", argv, parser)
    size = replace_seconds(QUICK if words.quick else SIZES[words.size])
    with tempfile.TemporaryDirectory(dir=words.out.parent) as folder:
        result = measure(size, Path(folder), words)
    finish(words, {"conditions": conditions(words), **result}, lines_of(result, words.clock))
    return 0


def replace_seconds(size: Size) -> Size:
    """Return the size with lengths as corpora have them."""
    return Size(size.model, size.widths, size.batch_size, None, size.clips)


def measure(size: Size, folder: Path, words: argparse.Namespace) -> dict[str, Any]:
    """Train one epoch in every way, in turn."""
    count = 3 if words.quick else words.batches
    batches = {SORTED: sampled(size, count), RANDOM: sampled(size, count, window=1)}
    # The run itself needs a store; its clips are not trained on.
    short = Size(size.model, size.widths, size.batch_size, 0.1, size.clips)
    plan = plan_of(short, write_store(short, folder / "store"), folder / "run", training={"precision": words.precision})
    load = load_of(plan, batches=1)
    book = TextbookTraining(
        load.run.plan.model, (size.widths["audio"], size.widths["video"]), 3, bf16=words.precision == "bf16"
    )
    ways: dict[str, Callable[[], object]] = {
        SORTED: lambda: epoch(load, batches[SORTED]),
        RANDOM: lambda: epoch(load, batches[RANDOM]),
        TEXTBOOK: lambda: [book.step(batch) for batch in batches[RANDOM]],
    }
    for step in (load.step, lambda: book.step(batches[SORTED][0])):  # kernels and memory that were never used
        step()
    timings = in_turn(ways, words.repeats or 2, warm_up=0)
    clips, clock = size.batch_size * count, words.clock
    return {
        "precision": words.precision,
        "clips": clips,
        "padded_share": {SORTED: padded_share(batches[SORTED]), RANDOM: padded_share(batches[RANDOM])},
        "timings": {way: timing.as_json() for way, timing in timings.items()},
        "clips_per_second": {way: clips / timing.median(clock) for way, timing in timings.items()},
        "clips_per_second_ratio": ratio(timings[TEXTBOOK], timings[SORTED], clock),
        "bucketing_ratio": ratio(timings[RANDOM], timings[SORTED], clock),
    }


def sampled(size: Size, count: int, window: int | None = None) -> list[ClipBatch]:
    """Return the batches of the sampler's first epoch; ``window`` replaces the steps among which it sorts."""
    numbers = np.arange(count * size.batch_size)
    longest = np.maximum(*(frames_of(size, modality, numbers) for modality in size.widths))
    chosen = sampler_module._WINDOW_STEPS if window is None else window
    with patch.object(sampler_module, "_WINDOW_STEPS", chosen):
        sampler = Sampler(
            {Partition.PAIRED_LABELLED: numbers}, {Partition.PAIRED_LABELLED: size.batch_size}, longest.__getitem__, 0
        )
        return [batch_of(size, sampler.global_batch(step)) for step in range(count)]


def epoch(load: Load, batches: Sequence[ClipBatch]) -> None:
    """Train every batch once."""
    load.batches = [[batch] for batch in batches]
    for _ in batches:
        load.step()


def padded_share(batches: Sequence[ClipBatch]) -> float:
    """Return the share of frames that are padding."""
    masks = [side.is_real for batch in batches for side in (batch.audio, batch.video)]
    return 1 - sum(int(mask.sum()) for mask in masks) / sum(mask.numel() for mask in masks)


def lines_of(result: dict[str, Any], clock: str) -> list[str]:
    """Describe the result."""
    rows = [
        [
            way, in_words(result["timings"][way][f"{clock}_seconds"], 1, " s"),
            f"{result['clips_per_second'][way]:.1f}",
            f"{100 * result['padded_share'][SORTED if way == SORTED else RANDOM]:.1f} %",
        ]
        for way in WAYS
    ]  # fmt: skip
    return [
        f"{result['clips']} clips of 1 to 12 s, {result['precision']}, {clock} clock",
        *table(["an epoch", "median (range)", "clips/s", "padding"], rows),
        f"platform against textbook: {in_words(result['clips_per_second_ratio'])} x the clips/s",
        f"like lengths against random: {in_words(result['bucketing_ratio'])} x the clips/s",
    ]


if __name__ == "__main__":
    raise SystemExit(main())

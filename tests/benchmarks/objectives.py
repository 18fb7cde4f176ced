"""What every objective adds to a training step, against the step with the supervised losses alone.

    python tests/benchmarks/objectives.py [--size paper] [--precision bf16] [--repeats 5] [--out FILE.json]

All ways train the same clips, half of which are unlabeled, with the torch engine in this process, in turn:

- plain: supervised losses (reconstruction with weight 0; the network always has its decoders);
- + reconstruction; + HGR with K = 16, 64 and 256; + ladder; + pseudo-labels; all of them together.

Each ratio is the time of a way over that of plain, turn by turn. Plain is measured twice, so that the table also
shows what a ratio of equal work looks like.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.extend(str(path) for path in (Path(__file__).parents[1] / "support").iterdir())

from benchmark_program import conditions, finish, in_words, read_arguments, table
from measured import in_turn, ratio
from training_load import QUICK, SIZES, Load, Size, load_of, plan_of, write_store

PLAIN = "plain"
_OFF: dict[str, Any] = {"reconstruction": {"weight": 0}}
_ALL = {"hgr": {"weight": 0.1}, "ladder": {"weight": 0.1}, "pseudo_label": {}}
OBJECTIVES: dict[str, tuple[dict[str, Any], int]] = {
    PLAIN: (_OFF, 16),
    "plain again": (_OFF, 16),
    "+ reconstruction": ({}, 16),
    "+ HGR, K 16": (_OFF | {"hgr": _ALL["hgr"]}, 16),
    "+ HGR, K 64": (_OFF | {"hgr": _ALL["hgr"]}, 64),
    "+ HGR, K 256": (_OFF | {"hgr": _ALL["hgr"]}, 256),
    "+ ladder": (_OFF | {"ladder": _ALL["ladder"]}, 16),
    "+ pseudo-labels": (_OFF | {"pseudo_label": _ALL["pseudo_label"]}, 16),
    "all": (_ALL, 16),
}
"""Objectives and correlation size of each way."""


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, write JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", choices=list(SIZES), default="paper")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="bf16")
    parser.add_argument("--batch-size", type=int, default=None, help="clips of a step")
    words = read_arguments(__doc__, "objectives", argv, parser)
    chosen = QUICK if words.quick else SIZES[words.size]
    size = Size(chosen.model, chosen.widths, words.batch_size or chosen.batch_size, chosen.seconds, chosen.clips)
    with tempfile.TemporaryDirectory(dir=words.out.parent) as folder:
        result = measure(size, Path(folder), words)
    finish(words, {"conditions": conditions(words), **result}, lines_of(result, words.clock))
    return 0


def measure(size: Size, folder: Path, words: argparse.Namespace) -> dict[str, Any]:
    """Time the steps of all ways in turn."""
    store = write_store(size, folder / "store")
    loads = {name: load_with(size, store, folder / f"run{place}", name, words.precision)
             for place, name in enumerate(OBJECTIVES)}  # fmt: skip
    timings = in_turn({name: load.step for name, load in loads.items()}, words.repeats or (2 if words.quick else 5))
    return {
        "precision": words.precision,
        "clips_of_a_step": size.batch_size,
        "unlabelled_clips_of_a_step": int((1 - loads[PLAIN].batches[0][0].is_labelled).sum()),
        "timings": {name: timing.as_json() for name, timing in timings.items()},
        "ratio_to_plain": {name: ratio(timing, timings[PLAIN], words.clock) for name, timing in timings.items()},
    }


def load_with(size: Size, store: Path, folder: Path, name: str, precision: str) -> Load:
    """Prepare the run of one way."""
    objectives, correlation_size = OBJECTIVES[name]
    plan = plan_of(
        size, store, folder,
        data={
            "store": store, "composition": {"batch_size": size.batch_size, "labelled_floor": 0.5},
            "partitions": {"labelled_fraction": 0.5},
        },
        model={**size.model, "correlation_size": correlation_size},
        objectives=objectives,
        training={"precision": precision},
    )  # fmt: skip
    return load_of(plan)


def lines_of(result: Mapping[str, Any], clock: str) -> list[str]:
    """Describe the result."""
    rows = [
        [name, in_words(timing[f"{clock}_seconds"], 1e3, " ms", 0), in_words(result["ratio_to_plain"][name], digits=3)]
        for name, timing in result["timings"].items()
    ]
    clips, unlabelled = result["clips_of_a_step"], result["unlabelled_clips_of_a_step"]
    return [
        f"{clips} clips a step, {unlabelled} of them unlabeled, {result['precision']}, {clock} clock",
        *table(["objectives", "a step: median (range)", "ratio to plain"], rows),
    ]


if __name__ == "__main__":
    raise SystemExit(main())

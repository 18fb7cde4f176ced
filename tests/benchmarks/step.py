"""One training step: this platform against a textbook implementation of the published procedure, in turn.

    python tests/benchmarks/step.py [--sizes paper small] [--repeats 5] [--threads 2] [--clock wall] [--out FILE.json]

Both train the same sizes on the same batches, whose clips all last as long: 32 clips of 125 audio and 75 video
frames, supervised and reconstruction losses. The platform's side is ``train_step`` of a run with the torch engine in
this process, with clipping and everything that a step reports. The textbook's side is
``tests/support/references/textbook_training.py``: three passes, an optimizer per module. It is shown twice,
"textbook" with the fusion pass as the published script has it, whose backward reaches the encoders, and "textbook,
detached" without.

``clips_per_second_ratio`` is the platform at its better precision against the textbook at its better precision, at
paper size. ``matrix_peak_share`` is the operations of the platform's step (products, convolutions and attention of
one forward and backward) per second, over what products of bf16 matrices (n = 2048) reach in the same run, measured
in turn with the steps. ``memory_ratio`` is the peak of the private memory of a process that takes two steps, weights,
optimizer and batches included, over the textbook's, each at the better precision.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

sys.path.extend(str(path) for path in (Path(__file__).parents[1] / "support").iterdir())

import torch
from benchmark_program import conditions, finish, in_words, read_arguments, table
from measured import (
    CLOCKS,
    MatrixPeak,
    Timings,
    count_operations,
    in_own_process,
    in_turn,
    peak_of_private_memory,
    ratio,
)
from step_profile import seconds_by_group
from step_sides import DETACHED, PLATFORM, PRECISIONS, SIDES, TEXTBOOK, step_of
from training_load import QUICK, SIZES, Size, load_of, plan_of, write_store

_STEPS_FOR_MEMORY = 2


def main() -> int:
    """Measure, print, write JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--sizes", nargs="+", choices=list(SIZES), default=list(SIZES))
    parser.add_argument("--batch-size", type=int, default=None, help="clips of a step")
    words = read_arguments(__doc__, "step", parser=parser)
    names = ["quick"] if words.quick else words.sizes
    result: dict[str, Any] = {"conditions": conditions(words), "sizes": {}}
    lines: list[str] = []
    with tempfile.TemporaryDirectory(dir=words.out.parent) as folder:
        memory = {name: measure_memory(name, Path(folder) / name, words) for name in names}
        for name in names:
            found = measure(name, Path(folder) / name, words) | {"memory_bytes": memory[name]}
            found |= {"headline": headline(found, words.clock)}
            found["timings"] = {way: timing.as_json() for way, timing in found["timings"].items()}
            result["sizes"][name] = found
            lines += lines_of(name, found, words.clock)
    result |= next(iter(result["sizes"].values()))["headline"]
    finish(words, result, lines)
    return 0


def size_of(name: str, words: argparse.Namespace) -> Size:
    """Return a size by its name."""
    size = QUICK if name == "quick" else SIZES[name]
    return size if words.batch_size is None else replace(size, batch_size=words.batch_size)


def measure_memory(name: str, folder: Path, words: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Measure every side and precision in a process of its own, before this one starts threads."""
    size, store = size_of(name, words), folder / "store"
    in_own_process(lambda: str(write_store(size, store)))
    return {
        f"{side} {precision}": in_own_process(partial(memory_of, side, precision, size, store, folder / "memory"))
        for precision in PRECISIONS
        for side in SIDES
    }


def measure(name: str, folder: Path, words: argparse.Namespace) -> dict[str, Any]:
    """Measure one size: seconds in turn with the matrix products, then where the platform's time goes."""
    size = size_of(name, words)
    ways: dict[str, Callable[[], object]] = {}
    for precision in PRECISIONS:
        plan = plan_of(size, folder / "store", folder / precision, training={"precision": precision})
        load = load_of(plan)
        ways |= {f"{side} {precision}": step_of(side, precision, load) for side in SIDES}
    peaks = {name: MatrixPeak(dtype, 64 if words.quick else 2048) for name, dtype in PRECISIONS.items()}

    def measure_peaks() -> None:
        for peak in peaks.values():
            peak.measure()

    timings = in_turn(ways | {"products": measure_peaks}, words.repeats or (2 if words.quick else 5))
    del timings["products"]
    return {
        "clips_of_a_step": size.batch_size,
        "operations_of_a_step": count_operations(ways[f"{PLATFORM} fp32"]),
        "matrix_operations_per_second": {
            name: {clock: peak.rate(clock) for clock in CLOCKS} for name, peak in peaks.items()
        },
        "timings": timings,
        "seconds_by_group": {precision: seconds_by_group(ways[f"{PLATFORM} {precision}"]) for precision in PRECISIONS},
    }


def memory_of(side: str, precision: str, size: Size, store: Path, folder: Path) -> dict[str, float]:
    """Take a few steps in this process and return its peak; the batch lies there first, as for both modalities."""
    torch.set_num_threads(1)
    load = load_of(plan_of(size, store, folder, training={"precision": precision}), batches=1)
    step = step_of(side, precision, load)
    if side != PLATFORM:
        load.run.engine.network.to("meta")  # the textbook's process has no second network
    with peak_of_private_memory() as found:
        for _ in range(_STEPS_FOR_MEMORY):
            step()
    return found


def headline(found: Mapping[str, Any], clock: str) -> dict[str, Any]:
    """Compare the better precision of each side."""
    timings: Mapping[str, Timings] = found["timings"]
    best = {
        side: min((f"{side} {name}" for name in PRECISIONS), key=lambda way: timings[way].median(clock))
        for side in SIDES
    }
    ours, memory = best[PLATFORM], found["memory_bytes"]
    against = {side: ratio(timings[best[side]], timings[ours], clock) for side in SIDES[1:]}
    rate = found["operations_of_a_step"] / timings[ours].median(clock)
    peak = max(rates[clock] for rates in found["matrix_operations_per_second"].values())
    return {
        "clips_per_second_ratio": against[TEXTBOOK]["median"],
        "clips_per_second_ratio_spread": against[TEXTBOOK],
        "clips_per_second_ratio_detached": against[DETACHED]["median"],
        "clips_per_second_ratio_fp32_textbook": ratio(timings[f"{TEXTBOOK} fp32"], timings[ours], clock)["median"],
        "matrix_peak_share": rate / peak,
        "memory_ratio": memory[ours]["bytes"] / memory[best[TEXTBOOK]]["bytes"],
        "memory_ratio_detached": memory[ours]["bytes"] / memory[best[DETACHED]]["bytes"],
        "compared": best,
        "clips_per_second": found["clips_of_a_step"] / timings[ours].median(clock),
    }


def lines_of(name: str, found: Mapping[str, Any], clock: str) -> list[str]:
    """Describe one size."""
    rows = []
    for way, timing in found["timings"].items():
        seconds = timing[f"{clock}_seconds"]
        rows.append([
            way, in_words(seconds, 1e3, " ms", 0), f"{found['clips_of_a_step'] / seconds['median']:.2f}",
            f"{found['operations_of_a_step'] / seconds['median'] / 1e9:.0f}" if way.startswith(PLATFORM) else "",
            f"{found['memory_bytes'][way]['bytes'] / 2**20:.0f}",
        ])  # fmt: skip
    head, giga = found["headline"], 1e9
    peaks = ", ".join(
        f"{precision} {rates[clock] / giga:.0f}" for precision, rates in found["matrix_operations_per_second"].items()
    )
    compared = " against ".join(head["compared"][side] for side in (PLATFORM, TEXTBOOK))
    verdict = (
        f"{compared}: {in_words(head['clips_per_second_ratio_spread'])} x the clips/s "
        f"({head['clips_per_second_ratio_detached']:.2f} detached, "
        f"{head['clips_per_second_ratio_fp32_textbook']:.2f} against fp32), "
        f"{head['memory_ratio']:.2f} of the memory, {head['matrix_peak_share']:.2f} of the matrix peak"
    )
    return [
        f"== {name} size, {found['clips_of_a_step']} clips a step, {clock} clock",
        *table(["step", "median (range)", "clips/s", "GFLOP/s", "peak MiB"], rows),
        f"products reach, in GFLOP/s: {peaks}; a step has {found['operations_of_a_step'] / giga:.0f} GFLOP",
        verdict,
        *group_lines(found["seconds_by_group"]),
        "",
    ]


def group_lines(groups: Mapping[str, Mapping[str, float]]) -> Sequence[str]:
    """Show where the time goes, as shares of the step under the profiler."""
    names = sorted({name for one in groups.values() for name in one}, key=lambda name: -groups["bf16"].get(name, 0))
    return table(
        ["processor time of the platform's step", *groups],
        [[name, *(f"{100 * one.get(name, 0) / sum(one.values()):.1f} %" for one in groups.values())] for name in names],
    )


if __name__ == "__main__":
    raise SystemExit(main())

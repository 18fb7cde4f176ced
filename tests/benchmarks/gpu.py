"""One training step on one GPU: this platform against the textbook implementation, in turn.

    python tests/benchmarks/gpu.py [--sizes paper small] [--engine torch] [--device cuda] [--out FILE.json]

Sizes, batches and sides are those of ``step.py``. Batches lie in pinned memory and are copied within the step, as the
loop does it; a step's time ends when the GPU has done everything. The platform's side needs neither Ray nor DeepSpeed;
``--engine deepspeed`` runs it through DeepSpeed (ZeRO 0) in this process. Float32 products are real ones, without TF32.

Beside seconds and clips per second it shows per side: the peak of what torch allocated on the GPU (a modality alone,
weights, optimizer and batches included); the share of what products of square matrices of the same precision reach in
the same run; how often the host waited for the GPU in a step, and where; and for the platform whether attention ran in
a fused kernel, how long the GPU computed within a step, and on what.

Before all that the checks of ``gpu_check.py`` run; where one fails, the exit code is 1 (``--no-checks``: without them).

Without a CUDA device it says so and ends with exit code 2; ``--device cpu`` runs the same code on the processor, but
not the checks.
"""

from __future__ import annotations

import argparse
import gc
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

sys.path.extend(str(path) for path in (Path(__file__).parents[1] / "support").iterdir())

import torch
from benchmark_program import conditions, finish, in_words, read_arguments, table
from host_reads import synchronisations
from measured import MatrixPeak, Timings, count_operations, finished, in_turn, ratio
from step_profile import attention_kernels, seconds_by_group
from step_sides import PLATFORM, PRECISIONS, TEXTBOOK, step_of
from training_load import QUICK, SIZES, Size, load_of, plan_of, write_store

SIDES = (PLATFORM, TEXTBOOK)
NO_GPU = 2
"""Exit code; ``run_all.py`` knows it."""
_CLOCK = "wall"


@dataclass(frozen=True)
class Bench:
    """What all ways train, on what.

    Attributes:
        size: of network and batches.
        store: with the clips.
        folder: for what the runs write.
        engine: of the platform's side.
        device: of both modalities.
    """

    size: Size
    store: Path
    folder: Path
    engine: str
    device: torch.device

    def step(self, side: str, precision: str) -> Callable[[], object]:
        """Build one modality anew and return its step."""
        is_ours, on_gpu = side == PLATFORM, self.device.type == "cuda"
        training = {
            "precision": precision,
            "engine": self.engine if is_ours else "torch",
            # The run behind the textbook's side only reads clips; its network stays off the GPU.
            "gpus_per_worker": int(is_ours and on_gpu),
        }
        load = load_of(plan_of(self.size, self.store, self.folder / f"{side} {precision}", training=training))
        if on_gpu and not is_ours:
            load = replace(load, batches=[[one.pinned() for one in batches] for batches in load.batches])
        return step_of(side, precision, load, self.device)


def main(argv: list[str] | None = None) -> int:
    """Measure, print, write JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--sizes", nargs="+", choices=list(SIZES), default=list(SIZES))
    parser.add_argument("--engine", choices=("torch", "deepspeed"), default="torch", help="of the platform")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--no-checks", action="store_true", help="leave the checks of gpu_check.py out")
    words = read_arguments(__doc__, "gpu", argv, parser)
    if words.device == "cuda" and not torch.cuda.is_available():
        print("left out: no GPU (torch sees no CUDA device); --device cpu runs the same code on the processor")
        return NO_GPU
    device = torch.device("cuda", 0) if words.device == "cuda" else torch.device("cpu")
    # First, while this process has nothing on the GPU.
    code = 0 if words.device == "cpu" or words.no_checks else run_checks(quick=words.quick)
    result: dict[str, Any] = {"conditions": conditions(words) | _about(device, words.engine), "sizes": {}}
    lines = [f"engine {words.engine} on {result['conditions']['device']}"]
    with tempfile.TemporaryDirectory(dir=words.out.parent) as folder:
        for name in ["quick"] if words.quick else words.sizes:
            size, place = QUICK if words.quick else SIZES[name], Path(folder) / name
            bench = Bench(size, write_store(size, place / "store"), place, words.engine, device)
            found = measure(bench, words)
            result["sizes"][name] = found
            lines += lines_of(name, found)
    result |= next(iter(result["sizes"].values()))["headline"]
    result["checks_exit_code"] = code
    finish(words, result, lines)
    return code


def run_checks(*, quick: bool) -> int:
    """Run ``gpu_check.py`` in a process of its own; return its exit code."""
    program = Path(__file__).with_name("gpu_check.py")
    command = [sys.executable, str(program), *(["--quick"] if quick else [])]
    return subprocess.run(command, check=False).returncode


def measure(bench: Bench, words: argparse.Namespace) -> dict[str, Any]:
    """Measure one size: memory of every way alone, then seconds in turn with the matrix products."""
    device, on_gpu = bench.device, bench.device.type == "cuda"
    memory = {f"{side} {precision}": peak_memory(bench, side, precision) for precision in PRECISIONS for side in SIDES}
    ways = {
        f"{side} {precision}": finished(bench.step(side, precision), device)
        for precision in PRECISIONS
        for side in SIDES
    }
    length = 64 if words.quick else (8192 if on_gpu else 2048)
    peaks = {name: MatrixPeak(dtype, length, device) for name, dtype in PRECISIONS.items()}

    def measure_peaks() -> None:
        for peak in peaks.values():
            peak.measure()

    # The first steps choose kernels and take memory from the driver.
    timings = in_turn(ways | {"products": measure_peaks}, words.repeats or (2 if words.quick else 15), warm_up=3)
    del timings["products"]
    found = {
        "clips_of_a_step": bench.size.batch_size,
        "operations_of_a_step": count_operations(ways[f"{PLATFORM} fp32"]),
        "matrix_operations_per_second": {name: peak.rate(_CLOCK) for name, peak in peaks.items()},
        "memory_bytes": memory,
        "host_waits": {name: synchronisations(work, device) for name, work in ways.items()},
    }
    ours = {precision: ways[f"{PLATFORM} {precision}"] for precision in PRECISIONS}
    found["attention_kernels"] = {name: attention_kernels(work) for name, work in ours.items()}
    found["seconds_by_group"] = {name: seconds_by_group(work, on_gpu=on_gpu) for name, work in ours.items()}
    found["headline"] = headline(found, timings)
    found["timings"] = {name: timing.as_json() for name, timing in timings.items()}
    return found


def peak_memory(bench: Bench, side: str, precision: str) -> int | None:
    """Return the most bytes that two steps of one modality had on the GPU; None on a CPU."""
    if bench.device.type != "cuda":
        return None
    gc.collect()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated(bench.device)
    torch.cuda.reset_peak_memory_stats(bench.device)
    step = bench.step(side, precision)
    for _ in range(2):
        step()
    torch.cuda.synchronize(bench.device)
    return int(torch.cuda.max_memory_allocated(bench.device)) - before


def headline(found: Mapping[str, Any], timings: Mapping[str, Timings]) -> dict[str, Any]:
    """Compare the better precision of each side."""
    best = {
        side: min((f"{side} {name}" for name in PRECISIONS), key=lambda way: timings[way].median(_CLOCK))
        for side in SIDES
    }
    ours, theirs = best[PLATFORM], best[TEXTBOOK]
    seconds, memory = timings[ours].median(_CLOCK), found["memory_bytes"]
    against = ratio(timings[theirs], timings[ours], _CLOCK)
    names = found["attention_kernels"][ours.rpartition(" ")[2]]
    peak = max(found["matrix_operations_per_second"].values())
    return {
        "clips_per_second": found["clips_of_a_step"] / seconds,
        "clips_per_second_ratio": against["median"],
        "clips_per_second_ratio_spread": against,
        "matrix_peak_share": found["operations_of_a_step"] / seconds / peak,
        "memory_ratio": memory[ours] / memory[theirs] if memory[ours] else None,
        "compared": best,
        "attention_is_fused": bool(names) and not any("math" in name for name in names),
        "host_waits_of_a_step": len(found["host_waits"][ours]),
    }


def lines_of(name: str, found: Mapping[str, Any]) -> list[str]:
    """Describe one size."""
    rows, operations = [], found["operations_of_a_step"]
    for way, timing in found["timings"].items():
        seconds, bytes_at_once = timing[f"{_CLOCK}_seconds"], found["memory_bytes"][way]
        side, _, precision = way.rpartition(" ")
        peak = found["matrix_operations_per_second"][precision]
        rows.append([
            way, in_words(seconds, 1e3, " ms"), f"{found['clips_of_a_step'] / seconds['median']:.1f}",
            f"{operations / seconds['median'] / peak:.2f}" if side == PLATFORM else "",
            "-" if bytes_at_once is None else f"{bytes_at_once / 2**20:.0f}",
            str(len(found["host_waits"][way])),
        ])  # fmt: skip
    head = found["headline"]
    peaks = ", ".join(f"{one} {rate / 1e12:.3f}" for one, rate in found["matrix_operations_per_second"].items())
    ours = head["compared"][PLATFORM]
    verdict = (
        f"{ours} against {head['compared'][TEXTBOOK]}: {in_words(head['clips_per_second_ratio_spread'])} x "
        f"the clips/s, {head['matrix_peak_share']:.2f} of the matrix peak"
    )
    return [
        f"== {name} size, {found['clips_of_a_step']} clips a step",
        *table(["step", "median (range)", "clips/s", "of peak", "peak MiB", "host waits"], rows),
        f"products reach, in TFLOP/s: {peaks}; a step has {operations / 1e9:.0f} GFLOP",
        verdict + ("" if head["memory_ratio"] is None else f", {head['memory_ratio']:.2f} of the memory"),
        f"host waits of {ours}: {', '.join(found['host_waits'][ours]) or 'none'}",
        *(
            f"attention in {precision}: {', '.join(names) or 'none seen'}"
            for precision, names in found["attention_kernels"].items()
        ),
        *busy_lines(found),
        "",
    ]


def busy_lines(found: Mapping[str, Any]) -> list[str]:
    """Say how long the device computed within a step of the platform, and on what."""
    lines = []
    for precision, groups in found["seconds_by_group"].items():
        total = sum(groups.values())
        median = found["timings"][f"{PLATFORM} {precision}"][f"{_CLOCK}_seconds"]["median"]
        shares = ", ".join(
            f"{name} {100 * seconds / total:.0f} %" for name, seconds in sorted(groups.items(), key=lambda one: -one[1])
        )
        lines.append(f"{precision}: operators took {1e3 * total:.1f} ms of {1e3 * median:.1f}: {shares}")
    return lines


def _about(device: torch.device, engine: str) -> dict[str, Any]:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    return {"device": name, "engine": engine, "cuda": torch.version.cuda}


if __name__ == "__main__":
    raise SystemExit(main())

"""Whether training works on the GPUs of this machine, and how fast a step is: one command for a source checkout.

    python tests/benchmarks/gpu_check.py [--on-cpu] [--quick] [--out FOLDER]

Trains the network of the demo on a store that it makes on the spot: with torch alone and with DeepSpeed at all stages,
in fp32 and bf16, in this process and through Ray Train. Loss curves are compared with the CPU's, runs are killed and
resumed, checkpoints pass from engine to engine, collectives run under ``cpu:gloo,cuda:nccl``, steps are timed and
their kernel launches counted. With two GPUs also with two workers. A check whose packages or GPUs this machine lacks is
listed with the reason and does not count as failed.

Leaves ``summary.json`` and the logs in ``runs/gpu_check``. Exit code 0: nothing failed; 1: a check failed; 2: no GPU.
``--on-cpu`` runs everything that a CPU can, so that this program is itself tested without a GPU.
"""

from __future__ import annotations

import argparse
import datetime as dt
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

# A source checkout is enough: nothing of it needs to be installed.
sys.path.insert(0, str(Path(__file__).parents[2] / "platform"))
sys.path.extend(str(path) for path in (Path(__file__).parents[1] / "support").iterdir())

import torch
from gpu_check_list import all_checks
from gpu_checks import Bench, Check, Outcome, read_outcomes, run_group

NO_GPU = 2
"""Exit code."""
OUT = Path("runs/gpu_check")
_GROUP_SECONDS = 900
_PACKAGES = ("torch", "deepspeed", "ray", "numpy", "pydantic", "pyarrow", "safetensors", "nvidia-nccl-cu13")


def main(argv: list[str] | None = None) -> int:
    """Run the checks, print a table, write the summary."""
    words = _arguments(argv)
    if words.group is not None:
        checks = [check for check in all_checks() if check.name in words.only]
        run_group(checks, Bench(words.out, not words.on_cpu, words.quick), words.out / f"{words.group}.jsonl")
        return 0
    if not words.on_cpu and not torch.cuda.is_available():
        print("not run: no GPU (torch sees no CUDA device); --on-cpu runs what a CPU can")
        return NO_GPU
    # What an earlier call left would be taken for results of this one.
    shutil.rmtree(words.out, ignore_errors=True)
    words.out.mkdir(parents=True)
    began = time.monotonic()
    bench = Bench(words.out.absolute(), not words.on_cpu, words.quick)
    checks = [check for check in all_checks() if words.only is None or check.name in words.only]
    outcomes = []
    for _, group in groupby(checks, lambda check: check.group):
        found = _run(list(group), bench)
        outcomes += found
        for line in map(_line, found):
            print(line, flush=True)
    summary = _summary(bench, outcomes, time.monotonic() - began)
    (bench.folder / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    print(_verdict(summary))
    print(f"written to {words.out / 'summary.json'}")
    return 1 if summary["failed"] else 0


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--on-cpu", action="store_true", help="run what a CPU can")
    parser.add_argument("--quick", action="store_true", help="a small network, few training runs through Ray")
    parser.add_argument("--out", type=Path, default=OUT, help="directory of the results; emptied first")
    parser.add_argument("--only", nargs="+", metavar="CHECK", help="names of checks")
    parser.add_argument("--group", help=argparse.SUPPRESS)  # of the process of a group
    return parser.parse_args(argv)


def _run(checks: Sequence[Check], bench: Bench) -> list[Outcome]:
    """Run the checks of a group that this machine can, in a process of their own: one may crash or hang."""
    group = checks[0].group
    obstacles = {check.name: check.obstacle(bench) for check in checks}
    runnable = [check for check in checks if obstacles[check.name] is None]
    found = {name: Outcome(name, "not_run", reason) for name, reason in obstacles.items() if reason is not None}
    if runnable:
        log = bench.folder / f"{group}.log"
        print(f"running {len(runnable)} checks of the group {group}; log: {log}", flush=True)
        ended = _start(group, [check.name for check in runnable], bench, log)
        found |= {one.name: one for one in read_outcomes(bench.folder / f"{group}.jsonl", runnable, ended)}
    return [replace(found[check.name]) for check in checks]


def _start(group: str, names: Sequence[str], bench: Bench, log: Path) -> str:
    """Run the process of a group to its end; say how it ended."""
    command = [sys.executable, "-W", "ignore", __file__, "--group", group, "--out", str(bench.folder)]
    command += [*(["--on-cpu"] if not bench.on_gpu else []), *(["--quick"] if bench.quick else [])]
    with log.open("wb") as file:
        try:
            code = subprocess.run(
                [*command, "--only", *names], env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
                stdout=file, stderr=file, timeout=_GROUP_SECONDS, check=False,
            ).returncode  # fmt: skip
        except subprocess.TimeoutExpired:
            return f"its process was ended after {_GROUP_SECONDS} s, see {log.name}"
    return f"its process ended with exit code {code}, see {log.name}"


def _line(outcome: Outcome) -> str:
    state = {"passed": "ok", "failed": "FAILED", "not_run": "not run"}[outcome.state]
    facts = [outcome.reason] if outcome.reason else []
    facts += [f"{name} {_short(value)}" for name, value in outcome.figures.items() if value is not None]
    return f"{state:8}{outcome.name:44} {outcome.seconds:6.1f} s  {'; '.join(facts)}"


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _verdict(summary: dict[str, Any]) -> str:
    counts = {state: len(summary[state]) for state in ("passed", "failed", "not_run")}
    device = ", ".join(summary["devices"])
    return f"{device}: {counts['passed']} passed, {counts['failed']} failed, {counts['not_run']} not run"


def _summary(bench: Bench, outcomes: Sequence[Outcome], seconds: float) -> dict[str, Any]:
    speed = [one.figures for one in outcomes if "launches_per_micro_batch" in one.figures]
    return {
        "passed": [one.name for one in outcomes if one.state == "passed"],
        "failed": _with_reasons(outcomes, "failed"),
        "not_run": _with_reasons(outcomes, "not_run"),
        # Of a whole step of one micro-batch of the demo: forward, backward, optimizer, by engine and precision.
        "launches_per_micro_batch": {
            one["case"]: one["launches_per_micro_batch"] for one in speed if one["size"] == "demo"
        },
        "launches_are": "kernels" if bench.on_gpu else "operators of the CPU",
        "speed": speed,
        "figures": {one.name: one.figures for one in outcomes if one.figures},
        "seconds": seconds,
        "seconds_by_check": {one.name: one.seconds for one in outcomes if one.seconds},
        "quick": bench.quick,
        "devices": [torch.cuda.get_device_name(number) for number in range(bench.gpus)]
        or [f"cpu ({os.cpu_count()} processors)"],
        "versions": _versions(),
        "time": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
    }


def _with_reasons(outcomes: Sequence[Outcome], state: str) -> list[dict[str, str]]:
    return [{"name": one.name, "reason": one.reason} for one in outcomes if one.state == state]


def _versions() -> dict[str, str | None]:
    found: dict[str, str | None] = {"python": platform.python_version(), "cuda": torch.version.cuda}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found


if __name__ == "__main__":
    raise SystemExit(main())

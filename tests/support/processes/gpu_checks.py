"""What a check of the training on a device is, and how a group of them runs in a process of its own."""

from __future__ import annotations

import importlib
import importlib.util
import json
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

CORE = ("numpy", "pydantic", "yaml", "pyarrow", "scipy", "safetensors", "regex", "fsspec")
"""What a training run with torch alone imports."""
DEEPSPEED, RAY, PSUTIL = "deepspeed", "ray", "psutil"
_PROJECTS = {"yaml": "pyyaml"}
"""Where the name for pip is another one."""

Figures = Mapping[str, Any]


class NotRun(Exception):  # noqa: N818  no error: this machine has not what a check needs
    """A check cannot run here; the message says what is missing."""


class Difference(Exception):  # noqa: N818  what a check found
    """Two ways of computing the same differ by more than they may."""


@dataclass(frozen=True)
class Bench:
    """Where and how the checks run.

    Attributes:
        folder: of this run of the program.
        on_gpu: train on CUDA devices; else on the CPU.
        quick: a small network, and few of the training runs through Ray.
    """

    folder: Path
    on_gpu: bool
    quick: bool = False

    @property
    def device(self) -> torch.device:
        """The device of a single process."""
        return torch.device("cuda", 0) if self.on_gpu else torch.device("cpu")

    @property
    def gpus(self) -> int:
        """GPUs of this machine that the checks use."""
        return torch.cuda.device_count() if self.on_gpu else 0


@dataclass(frozen=True)
class Case:
    """One way of computing the training."""

    engine: str = "torch"
    zero_stage: int = 0
    precision: str = "fp32"
    workers: int = 1

    @property
    def name(self) -> str:
        """Words for the table."""
        engine = "engine torch" if self.engine == "torch" else f"ZeRO {self.zero_stage}"
        workers = f", {self.workers} workers" if self.workers > 1 else ""
        return f"{engine}, {self.precision}{workers}"

    def settings(self) -> dict[str, Any]:
        """Settings of ``training``."""
        return {
            "engine": self.engine, "zero_stage": self.zero_stage, "precision": self.precision, "workers": self.workers,
        }  # fmt: skip


@dataclass(frozen=True)
class Call:
    """The function that does a check, imported when it is called: its packages may be missing.

    Attributes:
        module: of tests/support.
        function: takes the bench and the arguments.
        arguments: further ones.
    """

    module: str
    function: str
    arguments: tuple[Any, ...] = ()

    def __call__(self, bench: Bench) -> Figures | None:
        """Do the check."""
        found: Figures | None = self.load()(bench, *self.arguments)
        return found

    def load(self) -> Callable[..., Any]:
        """Import the function."""
        work: Callable[..., Any] = getattr(importlib.import_module(self.module), self.function)
        return work


@dataclass(frozen=True)
class Check:
    """One check.

    Attributes:
        name: unique, for the table and the summary.
        group: checks of one group share a process.
        work: raises where something is wrong, ``NotRun`` where this machine cannot tell; returns what it measured.
        needs: packages by the name of their import.
        where: kind of machine that can run it.
        is_long: left out by ``quick``.
    """

    name: str
    group: str
    work: Call
    needs: Sequence[str] = CORE
    where: Literal["anywhere", "gpu", "gpus", "cpu"] = "anywhere"
    is_long: bool = False

    def obstacle(self, bench: Bench) -> str | None:
        """Return why it cannot run, None if it can."""
        missing = [name for name in self.needs if importlib.util.find_spec(name) is None]
        if missing:
            names = " ".join(_PROJECTS.get(name, name) for name in missing)
            return f"missing: {', '.join(missing)} (python -m pip install {names})"
        match self.where:
            case "gpu" if not bench.on_gpu:
                return "needs a GPU"
            case "gpus" if bench.on_gpu and bench.gpus < 2:
                return f"needs two GPUs, this machine has {bench.gpus}"
            case "cpu" if bench.on_gpu:
                return "a stand-in for a GPU, run with --on-cpu"
        return "left out by --quick" if self.is_long and bench.quick else None


@dataclass(frozen=True)
class Outcome:
    """How a check ended.

    Attributes:
        name: of the check.
        state: what became of it.
        reason: why it failed or did not run.
        seconds: that it took.
        figures: what it measured.
    """

    name: str
    state: Literal["passed", "failed", "not_run"]
    reason: str = ""
    seconds: float = 0.0
    figures: dict[str, Any] = field(default_factory=dict)


def run_group(checks: Sequence[Check], bench: Bench, results: Path) -> None:
    """Run checks one after the other; each leaves a line as soon as it has ended.

    A line that says ``started`` without another one tells the parent which check took the process with it.
    """
    with results.open("a") as file:
        for check in checks:
            print(json.dumps({"name": check.name, "state": "started"}), file=file, flush=True)
            print(json.dumps(asdict(_outcome(check, bench))), file=file, flush=True)


def read_outcomes(results: Path, checks: Sequence[Check], ended: str) -> list[Outcome]:
    """Return what a group left; checks whose process ended before them failed for that reason."""
    lines = results.read_text().splitlines() if results.exists() else []
    found = {one["name"]: one for one in map(json.loads, lines)}
    return [
        Outcome(**found[check.name])
        if found.get(check.name, {"state": "started"})["state"] != "started"
        else Outcome(check.name, "failed", ended if check.name in found else f"not reached: {ended}")
        for check in checks
    ]


def relative_difference(found: Sequence[float], expected: Sequence[float], limit: float) -> float:
    """Return the largest relative difference of two curves.

    Raises:
        Difference: it is above ``limit``, or the curves have not the same length.
    """
    if len(found) != len(expected):
        raise Difference(f"{len(found)} steps instead of {len(expected)}")
    apart = [abs(one - other) / abs(other) for one, other in zip(found, expected, strict=True)]
    largest = max(apart)
    if not largest <= limit:  # a NaN is not
        raise Difference(f"curves differ by {largest:.2e} at step {apart.index(largest)}, {limit:.0e} is allowed")
    return largest


def _outcome(check: Check, bench: Bench) -> Outcome:
    began = time.monotonic()
    try:
        figures = dict(check.work(bench) or {})
    except NotRun as missing:
        return Outcome(check.name, "not_run", str(missing))
    except Exception as error:  # noqa: BLE001  a check may find anything; the others run all the same
        traceback.print_exc()
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        return Outcome(check.name, "failed", reason[:500], time.monotonic() - began)
    return Outcome(check.name, "passed", "", time.monotonic() - began, figures)

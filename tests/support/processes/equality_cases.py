"""The ways of computing one training that have to give one loss curve, and what is promised of each.

A case says how it is computed; data, network, objectives and the global batch are the same in all.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

FP32, RESUMED = 1e-5, 1e-4
"""Largest relative differences of fp32: of a whole run, and after resuming elsewhere."""

BF16 = 2e-3
"""That of bf16 to one worker in bf16."""

WORKERS, STAGES = (1, 2, 4), (0, 1, 2, 3)


@dataclass(frozen=True)
class Case:
    """One way of computing the training."""

    workers: int = 1
    zero_stage: int = 0
    precision: str = "fp32"
    engine: str = "deepspeed"
    clips_per_forward: int | None = None
    offload: str = "none"
    activation_checkpointing: bool = False
    resumed_from: Case | None = None

    @property
    def name(self) -> str:
        """Return a name for directories; no two cases share one."""
        words = [
            self.engine[0],
            self.workers,
            self.zero_stage,
            self.precision,
            self.clips_per_forward or "all",
            self.offload,
        ]
        words += ["again"] if self.activation_checkpointing else []
        words += ["from", self.resumed_from.name] if self.resumed_from else []
        return "-".join(map(str, words))

    @property
    def is_same_again(self) -> bool:
        """Whether it goes on in the way in which it began."""
        return self.resumed_from is not None and replace(self, resumed_from=None) == self.resumed_from

    @property
    def reference(self) -> Case:
        """Return the case whose curve this one has to repeat."""
        if self.is_same_again and self.resumed_from is not None:
            return self.resumed_from
        return PLAIN if self.precision == "fp32" else PLAIN_BF16

    @property
    def promise(self) -> float:
        """Return the largest relative difference to the reference that holds the promise."""
        if self.is_same_again or self == self.reference:
            return 0.0
        if self.precision == "bf16":
            return BF16
        return FP32 if self.resumed_from is None else RESUMED

    def training(self) -> dict[str, Any]:
        """Return the settings of ``training`` that say how it is computed."""
        content = asdict(self)
        del content["resumed_from"]
        return {**content, "launcher": "ray" if self.workers > 1 else "in_process"}

    def described(self) -> dict[str, Any]:
        """Return what the summary says of the case."""
        before = self.resumed_from
        keys = ("engine", "workers", "zero_stage", "clips_per_forward")
        return {**asdict(self), "resumed_from": {key: getattr(before, key) for key in keys} if before else None}


PLAIN = Case(engine="torch")
PLAIN_BF16 = Case(precision="bf16", engine="torch")


def whole_runs() -> Iterator[Case]:
    """Return the runs that nothing interrupts, references first."""
    yield PLAIN
    yield PLAIN_BF16
    for precision, workers, stage in itertools.product(("fp32", "bf16"), WORKERS, STAGES):
        yield Case(workers, stage, precision)
    yield from (Case(2, precision=precision, engine="torch") for precision in ("fp32", "bf16"))
    # Three micro-batches each.
    yield Case(engine="torch", clips_per_forward=8)
    yield Case(2, engine="torch", clips_per_forward=4)
    pieces = ((1, 1, 8), (2, 2, 4), (2, 3, 4), (4, 0, 2))
    yield from (Case(workers, stage, clips_per_forward=clips) for workers, stage, clips in pieces)
    yield Case(2, 2, "bf16", clips_per_forward=4)
    yield Case(engine="torch", activation_checkpointing=True)
    # That it changes no bit at any stage is held by tests/integration/test_activation_checkpointing.py.
    yield Case(2, 3, activation_checkpointing=True)
    yield Case(4, 1, clips_per_forward=2, activation_checkpointing=True)
    yield from (Case(2, stage, offload="optimizer") for stage in (1, 2, 3))
    yield Case(2, 3, offload="optimizer_and_weights")
    yield Case(2, 2, "bf16", offload="optimizer")


def resumed_runs() -> Iterator[Case]:
    """Return runs that resume from the middle of a run above."""
    pairs = (
        (Case(4, 1), Case(2, 2)),
        (Case(2, 3), Case(4, 0)),
        (PLAIN, Case(2, 3)),
        (Case(2, 2), PLAIN),
        (Case(2, engine="torch"), Case(4, 1)),
        (Case(2, 3), Case(2, engine="torch")),
        (Case(4, 3), Case(1, 1)),
        (Case(1, 0), Case(4, 2)),
        (Case(2, 1), Case(2, 1, clips_per_forward=4)),
        (Case(2, 2, offload="optimizer"), Case(4, 3)),
        (Case(2, 3, "bf16"), Case(4, 1, "bf16")),
        (Case(4, 2, "bf16"), PLAIN_BF16),
    )
    for before, after in pairs:
        yield replace(after, resumed_from=before)
    same = (PLAIN, Case(4, 0), Case(2, 1), Case(4, 2), Case(2, 3), Case(2, 0, "bf16"), Case(2, 2, "bf16"))
    for case in same:
        yield replace(case, resumed_from=case)


def few_runs() -> Iterator[Case]:
    """Return a handful of them, for every change of the code."""
    bf16 = Case(2, 2, "bf16")
    yield from (PLAIN, PLAIN_BF16, Case(4, 3), bf16)
    yield Case(2, 1, clips_per_forward=4, activation_checkpointing=True, resumed_from=Case(4, 3))
    yield replace(bf16, resumed_from=bf16)


def is_kept(row: dict[str, Any]) -> bool:
    """Tell whether the promise of a row holds; a difference that is not a number holds none."""
    return bool(row["largest_relative_difference"] <= row["promise"])

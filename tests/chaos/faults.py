"""What a fault did to a run: one row of the table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vavl.config.files import write_json

BITWISE, OTHER_WORKERS = 0.0, 1e-4


@dataclass
class Fault:
    """One fault that was injected.

    Attributes:
        kind: of the fault.
        run: that it hit.
        at_step: steps that the run had done.
        note: what was seen.
        recovery_seconds: from the fault to the first step that had not been done before; None = never.
        steps_repeated: steps that were computed again; None = never.
        allowed: largest difference that is promised.
        final_difference: of the finished run to the undisturbed one, see ``difference_of``; None = not finished.
        fault: what went wrong, empty if the run was continued as promised.
    """

    kind: str
    run: str
    at_step: int
    note: str = ""
    recovery_seconds: float | None = None
    steps_repeated: int | None = None
    allowed: float = BITWISE
    final_difference: float | None = None
    fault: str = ""

    @property
    def is_lost(self) -> bool:
        """Whether the run did not go on, did not end, or ended elsewhere than it should."""
        if self.fault or self.recovery_seconds is None or self.final_difference is None:
            return True
        return not self.final_difference <= self.allowed

    def as_json(self) -> dict[str, Any]:
        """Return the row; a difference that is not finite becomes null."""
        difference = self.final_difference
        finite = difference is not None and math.isfinite(difference)
        return {
            "kind": self.kind, "at_step": self.at_step, "recovery_seconds": self.recovery_seconds,
            "steps_repeated": self.steps_repeated, "final_difference": difference if finite else None,
            "allowed_difference": self.allowed, "run": self.run, "note": self.note, "lost": self.is_lost,
            "fault": self.fault,
        }  # fmt: skip


@dataclass
class FaultLog:
    """All errors of a program.

    Attributes:
        wanted: faults that are planned.
        faults: injected so far.
    """

    wanted: int
    faults: list[Fault] = field(default_factory=list)

    def add(self, fault: Fault) -> Fault:
        """Note a fault that was injected."""
        self.faults.append(fault)
        return fault

    def write(self, path: Path, seconds: float, seed: int) -> None:
        """Write ``summary.json``."""
        write_json(path, {**summary_of(self.faults), "planned": self.wanted, "seconds": seconds, "seed": seed})


def summary_of(faults: Sequence[Fault]) -> dict[str, Any]:
    """Return ``faults``, ``injected`` and ``lost``."""
    return {
        "faults": [fault.as_json() for fault in faults],
        "injected": len(faults),
        "lost": sum(fault.is_lost for fault in faults),
    }

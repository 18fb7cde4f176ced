"""How far a run ended from the undisturbed one."""

from __future__ import annotations

from pathlib import Path

import torch
from reading import RunReading
from safetensors.torch import load_file

MODEL = "best/model.safetensors"


def difference_of(disturbed: Path, undisturbed: Path, steps: int) -> float:
    """Return the largest relative difference of the loss of any step, and of the weights of the best epoch.

    Every loss that was computed counts, also those of steps that were done again. A step without record, one
    that was skipped in one run only, or other names of weights make the difference infinite. 0 is bitwise.
    """
    mine, theirs = RunReading(disturbed), RunReading(undisturbed)
    mine.refresh()
    theirs.refresh()
    if {step for step, _ in mine.losses} != set(range(steps)) or mine.skipped() != theirs.skipped():
        return float("inf")
    expected = {step: loss for (step, _), loss in theirs.losses.items()}
    curve = max(
        (_relative(loss, expected[step]) for (step, _), loss in mine.losses.items() if loss is not None),
        default=float("inf"),
    )
    return max(curve, weights_difference(disturbed / MODEL, undisturbed / MODEL))


def _relative(value: float, expected: float | None) -> float:
    if expected is None:
        return float("inf")
    return abs(value - expected) / max(abs(expected), 1e-12)


def weights_difference(mine: Path, theirs: Path) -> float:
    """Return the norm of the difference of all weights against the norm of the weights."""
    ours, expected = load_file(mine), load_file(theirs)
    if ours.keys() != expected.keys():
        return float("inf")
    apart = sum(float((ours[name].double() - expected[name].double()).square().sum()) for name in expected)
    whole = sum(float(value.double().square().sum()) for value in expected.values())
    return float(torch.tensor(apart / whole).sqrt())

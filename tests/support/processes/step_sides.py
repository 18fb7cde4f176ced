"""The two sides of the benchmarks of the training step: this platform's, and the textbook's."""

from __future__ import annotations

from collections.abc import Callable

import torch
from measured import CPU
from textbook_training import TextbookTraining
from training_load import Load

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
PLATFORM, TEXTBOOK, DETACHED = SIDES = ("platform", "textbook", "textbook, detached")


def step_of(side: str, precision: str, load: Load, device: torch.device = CPU) -> Callable[[], object]:
    """Return the step of one modality on the batches of a load.

    Args:
        side: one of ``SIDES``.
        precision: one of ``PRECISIONS``; that of the platform's side is the load's.
        load: a run with its batches.
        device: where the textbook trains; the platform trains where its engine is.
    """
    if side == PLATFORM:
        return load.step
    first = load.batches[0][0]
    widths = (first.audio.values.shape[-1], first.video.values.shape[-1])
    book = TextbookTraining(
        load.run.plan.model, widths, first.target.shape[1], bf16=precision == "bf16", detached=side == DETACHED
    )
    for module in book.modules():
        module.to(device)
    turn = iter(range(2**62))
    return lambda: book.step(load.batches[next(turn) % len(load.batches)][0].to(device))

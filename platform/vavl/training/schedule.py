"""The learning rate of a step."""

from __future__ import annotations

import math

from vavl.training.settings import OptimizerSettings


def learning_rate(step: int, total_steps: int, settings: OptimizerSettings) -> float:
    """Return the learning rate: linear warm-up from the first step, then cosine to the final share.

    Args:
        step: optimizer step, from 0.
        total_steps: of the whole run.
        settings: peak, warm-up and final share.
    """
    if step < settings.warmup_steps:
        return settings.learning_rate * (step + 1) / settings.warmup_steps
    span = max(1, total_steps - settings.warmup_steps)
    progress = min(1.0, (step - settings.warmup_steps) / span)
    share = settings.final_share + (1 - settings.final_share) * 0.5 * (1 + math.cos(math.pi * progress))
    return settings.learning_rate * share

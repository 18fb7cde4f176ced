"""Losses and gradients that are not finite: what a run does about them."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

from vavl.errors import TrainingError
from vavl.training.run import TrainingRun
from vavl.training.state import LoopState

_NAMED_CLIPS = 40


def skipped_step(
    run: TrainingRun, state: LoopState, step: int, losses: Mapping[str, float]
) -> tuple[LoopState, dict[str, Any]]:
    """Count a step that changed nothing, since its loss or gradient was not finite.

    Returns:
        The state after it and the event to report.

    Raises:
        TrainingError: there were more of them than the settings allow; names the clips of the batch.
    """
    state = state.model_copy(update={"skipped": (*state.skipped, step)})
    bad = {name: str(value) for name, value in losses.items() if not math.isfinite(value)}
    what = f"loss is not finite: {bad}" if bad else "the gradient is not finite"
    clips = batch_clips(run, step)
    allowed = run.plan.training.faults.skipped_steps
    if len(state.skipped) > allowed:
        raise TrainingError(
            f"step {step}", "loss",
            f"{what}; {len(state.skipped)} steps were skipped, {allowed} are allowed: "
            f"{list(state.skipped)}; clips of this batch: {', '.join(clips)}",
            "look at these clips (FeatureStore.verify), lower training.optimizer.learning_rate, "
            "or raise training.faults.skipped_steps",
        )  # fmt: skip
    message = f"{what}; nothing was updated ({len(state.skipped)} of {allowed} allowed)"
    return state, event("skipped_step", step, message, clips=clips)


def batch_clips(run: TrainingRun, step: int) -> list[str]:
    """Return the ids of the clips of a global batch, the first forty of a large one."""
    rows = run.loader.sampler.global_batch(step)
    ids = run.data.collection.manifest.table.column("clip_id")
    named = [str(ids[int(row)]) for row in rows[:_NAMED_CLIPS]]
    return [*named, f"and {len(rows) - _NAMED_CLIPS} more"] if len(rows) > _NAMED_CLIPS else named


def event(what: str, step: int, message: str, **facts: Any) -> dict[str, Any]:
    """Describe something that happened to the run, for the journal."""
    # With its own time: an event that a resumed run reports again is known as the same one.
    return {"kind": "event", "what": what, "step": step, "message": message, "time": time.time(), **facts}

"""Where a run stands: everything that a resumed run needs and that seed and step do not give."""

from __future__ import annotations

from typing import Any

from pydantic import model_validator

from vavl.config.base import FrozenConfig
from vavl.objectives.pseudo_label import ConfidenceState


class LoopState(FrozenConfig):
    """Where a run stands after a step; batches, views and draws follow from seed and step.

    Attributes:
        config_hash: of the settings that decide the result.
        store_hash: of the features.
        workers: that wrote the state; any number may go on.
        zero_stage: that wrote the state; any stage may go on.
        step: steps done.
        epoch: epochs done.
        best_epoch: with the best validation score so far, -1 before the first.
        best_score: of that epoch.
        score: of the epoch that ended with this step, None within an epoch.
        epochs_without_gain: for early stopping.
        trained_clips: so far.
        trained_seconds: in steps so far, over all attempts.
        confidence: running means behind adaptive pseudo-labels.
        skipped: steps whose loss or gradient was not finite; they changed nothing.
    """

    config_hash: str
    store_hash: str
    workers: int
    zero_stage: int
    step: int = 0
    epoch: int = 0
    best_epoch: int = -1
    best_score: float | None = None
    score: float | None = None
    epochs_without_gain: int = 0
    trained_clips: int = 0
    trained_seconds: float = 0.0
    confidence: ConfidenceState | None = None
    skipped: tuple[int, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _without_spikes(cls, content: dict[str, Any]) -> dict[str, Any]:
        """Drop what earlier checkpoints say of steps left out because their loss jumped."""
        return {name: value for name, value in content.items() if name not in ("avoided", "losses")}

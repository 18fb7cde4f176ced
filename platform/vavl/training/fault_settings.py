"""What a run does about lost workers, steps that hang and numbers that are not finite."""

from __future__ import annotations

from pydantic import Field

from vavl.config.base import FrozenConfig


class FaultSettings(FrozenConfig):
    """When a run goes on after a fault, and when it gives up."""

    restarts_without_progress: int = Field(
        3, ge=0, description="restarts in a row, without a new checkpoint between them, before the run fails"
    )
    wait_for_workers_seconds: float = Field(
        600, ge=0, description="longest wait for the cluster to have place for the least number of workers"
    )
    grow_after_seconds: float = Field(
        60, gt=0, description="an elastic run takes more workers when there was place for them so long"
    )
    step_timeout_seconds: float | None = Field(
        900,
        gt=0,
        description="a step or evaluation that takes longer is ended with the stacks of all ranks; set-up "
        "and the first step may take ten minutes; null = never",
    )
    skipped_steps: int = Field(
        10, ge=0, description="steps with a loss or gradient that is not finite; one more ends the run"
    )

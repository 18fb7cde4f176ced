"""Who does the work of a job on many clips."""

from __future__ import annotations

from pydantic import Field

from vavl.config.base import FrozenConfig


class WorkerSettings(FrozenConfig):
    """Who reads the media of many clips: this process or Ray's workers, and what each may take."""

    workers: int | None = Field(
        None,
        ge=0,
        description="Ray workers; null: as many as there is capacity for, none for a few clips; "
        "0: this process alone, which a clip that crashes takes with it",
    )
    cpus_per_worker: float = Field(1, gt=0, description="also the threads of a worker, rounded up")
    gpus_per_worker: float = Field(0, ge=0, description="0.25: four workers share a GPU")
    memory_per_worker_gb: float | None = Field(
        None, gt=0, description="Ray starts no more workers on a machine than its memory has capacity for"
    )
    seconds_per_clip: float = Field(300, gt=0, description="a clip that takes longer is given up")

"""How an extraction runs; nothing here changes what a store holds."""

from __future__ import annotations

from pydantic import Field

from vavl.workers.settings import WorkerSettings


class ExtractionRun(WorkerSettings):
    """How an extraction runs; nothing here changes what a store holds."""

    max_quarantined_share: float = Field(
        0.02, ge=0, le=1, description="share of unreadable files above which the job fails"
    )
    resume: bool = Field(
        True, description="keep what the store has of unchanged files and settings; false starts anew"
    )

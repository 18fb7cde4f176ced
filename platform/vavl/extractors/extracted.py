"""What an extractor returns for one modality of one clip."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vavl.errors import ClipError


@dataclass(frozen=True)
class Extracted:
    """Features of one modality of one clip.

    Attributes:
        values: (time, channel), float32, at least one frame.
        frame_times: (time,), float32, seconds, centre of each frame.
        tally: numbers that are added up over clips, e.g. frames in which a face was found.
        note: what a person should know about the clip, e.g. why its crop is fixed; None if nothing.
        facts: what the file is like; keys are number columns of ``vavl.store.clip_facts.SCHEMA``.
    """

    values: NDArray[np.float32]
    frame_times: NDArray[np.float32]
    tally: Mapping[str, int] = field(default_factory=dict)
    note: str | None = None
    facts: Mapping[str, float] = field(default_factory=dict)


Extractor = Callable[[Path], Extracted]
"""From a media file to its features; made once per process, nothing of a clip stays in it."""


def require_finite(path: str, modality: str, extracted: Extracted) -> Extracted:
    """Return ``extracted`` if all its values are finite.

    Raises:
        ClipError: NaN or infinite values, or no frame.
    """
    if len(extracted.values) == 0:
        raise ClipError(path, modality, "gives no frame", "leave the clip out")
    if not np.isfinite(extracted.values).all():
        bad = int((~np.isfinite(extracted.values)).sum())
        raise ClipError(
            path, modality, f"features hold NaN or infinite values ({bad} of {extracted.values.size})",
            "look at the file, or leave the clip out",
        )  # fmt: skip
    return extracted

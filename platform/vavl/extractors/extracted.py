"""What an extractor returns for one modality of one clip."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

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
        facts: what the file is like; keys are number columns of ``facts.arrow`` of a store.
    """

    values: NDArray[np.float32]
    frame_times: NDArray[np.float32]
    tally: Mapping[str, int] = field(default_factory=dict)
    note: str | None = None
    facts: Mapping[str, float] = field(default_factory=dict)


Place = TypeVar("Place")
Extractor = Callable[[Path], Extracted]
"""From a media file to its features; made once per process, nothing of a clip stays in it."""


def read_modality(
    extract: Callable[[Place], Extracted], place: Place, name: str, modality: str, width: int | None = None
) -> Extracted:
    """Return the features of one modality of one clip, checked: the one way from a clip to its features.

    Args:
        extract: from a place, e.g. the path of a media file, to features.
        place: what it takes.
        name: of the file, for messages.
        modality: "audio" or "video".
        width: channels that a frame has to have; None where nobody knows it beforehand.

    Raises:
        ClipError: the file cannot be read; or no frame, another width, NaN or infinite values.
        ConfigError: the settings of the extractor do not fit.
    """
    found = extract(place)
    if len(found.values) == 0:
        raise ClipError(name, modality, "gives no frame", "leave the clip out")
    if not np.isfinite(found.values).all():
        bad = int((~np.isfinite(found.values)).sum())
        problem = f"features hold NaN or infinite values ({bad} of {found.values.size})"
        raise ClipError(name, modality, problem, "look at the file, or leave the clip out")
    if width is not None and found.values.shape[1] != width:
        problem = f"{found.values.shape[1]} channels instead of {width}"
        raise ClipError(name, modality, problem, "repair the extractor")
    return found

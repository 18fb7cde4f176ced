"""What an extractor is and returns, and what becomes of frames without a face."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from vavl.config.base import FrozenConfig
from vavl.errors import ClipError
from vavl.features import ModalityInfo

MissedRule = Literal["interpolate", "mask"]
"""What becomes of frames without a face; see ``believed_frames``."""


@dataclass(frozen=True)
class Extracted:
    """Features of one modality of one clip."""

    values: NDArray[np.float32]  # (time, channel), float32, at least one frame
    frame_times: NDArray[np.float32]  # (time,), float32, seconds, center of each frame
    # numbers that are added up over clips, e.g. frames in which a face was found
    tally: Mapping[str, int] = field(default_factory=dict)
    note: str | None = None  # what a person should know about the clip, e.g. why its crop is fixed; None if nothing
    # what the file is like; keys are number columns of ``facts.arrow`` of a store
    facts: Mapping[str, float] = field(default_factory=dict)
    # (time,), whether a face was found in a frame; None where none is looked for
    has_face: NDArray[np.bool_] | None = None


Place = TypeVar("Place")
Extractor = Callable[[Path], Extracted]
"""From a media file to its features; made once per process, nothing of a clip stays in it."""


@dataclass(frozen=True)
class ExtractorPlugin:
    """An extractor of another distribution; the name of its entry point is that of the extractor."""

    modality: Literal["audio", "video"]  # "audio" or "video"
    settings: type[FrozenConfig]  # class of its settings, with a field ``extractor: Literal["<name>"]``
    # from its settings to the provenance of its features; the version changes when the numbers do. Raises
    # ``ConfigError`` for what is missing here.
    info: Callable[[Any], ModalityInfo]
    extractor: Callable[[Any], Extractor]  # from its settings to the function from a media file to features


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
        raise ClipError(name, modality, f"{found.values.shape[1]} channels instead of {width}", "repair the extractor")
    return found


def believed_frames(
    is_found: NDArray[np.bool_], times: NDArray[np.float64], rule: MissedRule, longest_gap_s: float
) -> NDArray[np.bool_]:
    """Tell which frames of a clip are kept.

    Args:
        is_found: (time,), whether a face was found.
        times: (time,), seconds, middles of the frames.
        rule: "mask" keeps found frames alone, "interpolate" also those of gaps that are short enough.
        longest_gap_s: longest time without a face that is bridged, also before the first and after the last one.

    Returns:
        (time,), bool.
    """
    if rule == "mask" or len(times) < 2:
        return is_found.copy()
    period = float(np.median(np.diff(times)))
    kept = is_found.copy()
    edges = np.flatnonzero(np.diff(is_found.astype(np.int8), prepend=1, append=1))
    for start, end in edges.reshape(-1, 2):
        # A gap of n frames lasts n periods; the margin is for rounded time stamps.
        kept[start:end] = times[end - 1] - times[start] + period <= longest_gap_s + period / 10
    return kept


def interpolated(
    values: NDArray[np.float64], is_found: NDArray[np.bool_], times: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Fill the frames that are not found, linearly in time; before the first and after the last one they hold.

    Args:
        values: (time, channel); what unfound frames hold does not matter.
        is_found: (time,), True at least once.
        times: (time,), increasing.
    """
    if is_found.all():
        return values
    known, at = values[is_found], times[is_found]
    filled = [np.interp(times, at, known[:, column]) for column in range(values.shape[1])]
    return np.stack(filled, axis=1)


def missed_note(is_found: NDArray[np.bool_], is_kept: NDArray[np.bool_]) -> str | None:
    """Say how many frames were left out; None if none were."""
    left_out = int((~is_kept).sum())
    if not left_out:
        return None
    return f"{left_out} of {len(is_kept)} frames left out: no face in them ({is_found.mean():.0%} have one)"

"""Frames in which no face was found: filled from their neighbours or left out, by one rule for all extractors."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vavl.extractors.video_settings import MissedRule


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

"""Statistics of short segments: fewer, richer frames for small corpora."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vavl.extractors.audio_settings import SegmentSettings

_HIGH = 0.9

STATISTICS = ("mean", "deviation", "change", "high")
"""Per channel: mean, standard deviation, mean absolute difference of neighbouring frames, 90 % quantile."""


def segment_statistics(
    frames: NDArray[np.float32], frame_times: NDArray[np.float32], settings: SegmentSettings, hop_ms: float
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Summarise overlapping segments of a clip.

    Segments start every ``settings.hop_ms``; the last one ends with the clip, so every frame is in one.
    A clip shorter than a segment is one segment.

    Args:
        frames: (time, channel).
        frame_times: (time,), seconds.
        settings: length and hop of the segments.
        hop_ms: of the frames.

    Returns:
        (segment, 4 * channel) in the order of ``STATISTICS``, and the mean time of each segment's
        frames in seconds, (segment,).
    """
    length = max(1, round(settings.length_ms / hop_ms))
    hop = max(1, round(settings.hop_ms / hop_ms))
    last = max(0, len(frames) - length)
    starts = [*range(0, last, hop), last]
    change = np.abs(np.diff(frames, axis=0, prepend=frames[:1]))
    rows = []
    for start in starts:
        part = frames[start : start + length]
        high = np.quantile(part, _HIGH, axis=0)
        rows.append(
            np.concatenate(
                [part.mean(axis=0), part.std(axis=0), change[start : start + length].mean(axis=0), high]
            )
        )
    times = [frame_times[start : start + length].mean() for start in starts]
    return np.stack(rows).astype(np.float32), np.asarray(times, dtype=np.float32)

"""Long clips in overlapping chunks of equal length, whose frames fade into each other."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class FrameGrid:
    """Frames of a network that reads samples without padding.

    Attributes:
        rate_hz: of the samples.
        stride: samples from one frame to the next.
        receptive: samples that a frame is made of.
    """

    rate_hz: int
    stride: int
    receptive: int

    def frames(self, samples: int) -> int:
        """Return the number of frames of so many samples."""
        return max(0, (samples - self.receptive) // self.stride + 1)

    def span(self, start: int, frames: int) -> slice:
        """Return the samples of which exactly the frames from ``start`` on are made."""
        first = start * self.stride
        return slice(first, first + self.receptive + (frames - 1) * self.stride)

    def times(self, frames: int) -> NDArray[np.float32]:
        """Return the middle of what each frame is made of, in seconds, (frame,)."""
        middles = (np.arange(frames) * self.stride + self.receptive / 2) / self.rate_hz
        return middles.astype(np.float32)


def chunk_starts(frames: int, length: int, overlap: int) -> list[int]:
    """Return the first frame of each chunk, evenly spaced; the last chunk ends with the clip.

    Args:
        frames: of the clip.
        length: of a chunk, in frames; a shorter clip is one chunk.
        overlap: least common frames of neighbours, below ``length``.
    """
    if frames <= length:
        return [0]
    gaps = math.ceil((frames - length) / (length - overlap))
    return [round(gap * (frames - length) / gaps) for gap in range(gaps + 1)]


def joined_chunks(
    chunks: NDArray[np.float32], starts: list[int], frames: int, overlap: int
) -> NDArray[np.float32]:
    """Put chunks together: where they overlap the weight goes over from one to the next in a straight line.

    A frame near the border of a chunk, where the network saw little of what is around it, counts little.

    Args:
        chunks: (chunk, time, channel), of equal length.
        starts: frame of the clip at which each begins.
        frames: of the clip.
        overlap: frames over which a chunk fades in and out, except at the ends of the clip.

    Returns:
        (time, channel).
    """
    if len(starts) == 1:
        return np.asarray(chunks[0], np.float32)
    length = chunks.shape[1]
    ramp = np.minimum(1.0, np.arange(1, length + 1) / (overlap + 1))
    total = np.zeros((frames, chunks.shape[2]))
    weights = np.zeros((frames, 1))
    for values, start in zip(chunks, starts, strict=True):
        fade_in = ramp if start > 0 else np.ones(length)
        fade_out = ramp[::-1] if start + length < frames else np.ones(length)
        weight = (fade_in * fade_out)[:, None]
        total[start : start + length] += weight * values
        weights[start : start + length] += weight
    return (total / weights).astype(np.float32)

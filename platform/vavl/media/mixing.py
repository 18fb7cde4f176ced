"""Several channels to one, so that a voice is not lost in the mix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.float32]

# ITU-R BS.775: the center and the surround channels enter left and right at -3 dB; the effects channel is left out.
# One channel is the mean of left and right.
_WEIGHTS = {"FL": 0.5, "FR": 0.5, "FLC": 0.5, "FRC": 0.5, "FC": 0.5**0.5, "LFE": 0.0, "LFE2": 0.0}
_SURROUND = 0.5**1.5
# What FFmpeg and players take a file for that does not name its channels.
_USUAL = {
    5: ("FL", "FR", "FC", "BL", "BR"),
    6: ("FL", "FR", "FC", "LFE", "BL", "BR"),
    8: ("FL", "FR", "FC", "LFE", "BL", "BR", "SL", "SR"),
}
_CANCELED = 0.25
"""Channels that have nothing to do with each other give a mix of the sum of their powers; with less than this share
of it they cancel each other out (correlation of two equally loud channels below -0.75)."""


@dataclass(frozen=True)
class Mixed:
    """One channel.

    Attributes:
        samples: (sample,) float32; several loud channels may add up to more than 1.
        taken: places of the channels that are in it.
        note: what a person should know of the mix; None for one channel and for plain stereo.
    """

    samples: Samples
    taken: list[int]
    note: str | None = None


def mix(channels: Samples, layout: Sequence[str] = ()) -> Mixed:
    """Mix (sample, channel) to one channel; channels that cancel each other out give way to the louder one.

    Args:
        channels: at least one sample, finite.
        layout: name of each channel, e.g. ("FL", "FR", "FC", "LFE", "BL", "BR"); where it is unknown, the usual one
            for so many channels, or equal weights; the note says so.
    """
    count = channels.shape[1]
    if count == 1:
        return Mixed(channels[:, 0], [0])
    weights = np.full(count, 1 / count, np.float32)
    note = None
    if count > 2:
        named = len(layout) == count and {"FL", "FR"} <= set(layout)
        layout = layout if named else _USUAL.get(count, ())
        if layout:
            weights = np.array([_WEIGHTS.get(name, _SURROUND) for name in layout], np.float32)
        assumed = "" if named else "taken as "
        how = f"{assumed}{' '.join(layout)}, by ITU-R BS.775" if layout else "with equal weights"
        note = f"{count} channels mixed to one: {how}"
    samples = channels @ weights
    powers = np.einsum("sc,sc->c", channels, channels, dtype=np.float64) * (weights > 0)
    if np.einsum("s,s->", samples, samples, dtype=np.float64) < _CANCELED * float(powers @ weights**2):
        loudest = int(powers.argmax())
        words = f"the channels cancel each other out (is one inverted?): channel {loudest + 1}, the loudest, was taken"
        return Mixed(np.ascontiguousarray(channels[:, loudest]), [loudest], words)
    return Mixed(samples, [place for place in range(count) if weights[place]], note)

"""From pictures at any times to frames at an even rate."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

# Time stamps are rounded, to milliseconds in some containers.
_ROUNDING_S = 1e-6


class Shown(NamedTuple):
    """A picture and when it is shown.

    Attributes:
        time: seconds from the start of the presentation.
        seconds: how long, if no other picture follows.
    """

    time: float
    seconds: float
    picture: Any


def evenly(shown: Iterable[Shown], frame_rate_hz: float) -> Iterator[tuple[float, Shown]]:
    """Yield the picture on show at the middle of every frame of an even rate; ``shown`` is in the order of time.

    Frames count from time 0; those before the first picture are left out, so are those after the end of
    the last one. Every video has at least one frame.

    Yields:
        Time of the middle of the frame, (k + 1/2) / rate, and what is shown then.
    """
    current: Shown | None = None
    number = 0
    is_empty = True
    for following in shown:
        if current is None:
            number = max(0, math.ceil((following.time - _ROUNDING_S) * frame_rate_hz - 0.5))
        while current is not None and (middle := (number + 0.5) / frame_rate_hz) < following.time - _ROUNDING_S:
            yield middle, current
            number, is_empty = number + 1, False
        current = following
    if current is None:
        return
    end = current.time + current.seconds
    while (middle := (number + 0.5) / frame_rate_hz) < end - _ROUNDING_S:
        yield middle, current
        number, is_empty = number + 1, False
    if is_empty:
        yield max(current.time + current.seconds / 2, 0.0), current

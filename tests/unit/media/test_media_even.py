"""Pictures at any times become frames at an even rate: what a person saw in the middle of each frame."""

from __future__ import annotations

import pytest

from vavl.media.media import Shown, evenly


def frames(times, rate, seconds=0.04):
    shown = [Shown(time, seconds, number) for number, time in enumerate(times)]
    return [(round(time, 6), picture.picture) for time, picture in evenly(shown, rate)]


@pytest.mark.parametrize(
    ("times", "rate", "expected"),
    [
        ((0, 0.04, 0.08), 25, [(0.02, 0), (0.06, 1), (0.1, 2)]),
        ((0, 0.04, 0.08), 50, [(0.01, 0), (0.03, 0), (0.05, 1), (0.07, 1), (0.09, 2), (0.11, 2)]),
        ((0, 0.04, 0.08), 12.5, [(0.04, 1)]),
        ((0, 0.3), 10, [(0.05, 0), (0.15, 0), (0.25, 0)]),
        ((0.1, 0.14), 25, [(0.1, 0), (0.14, 1)]),
        ((0.11, 0.15), 25, [(0.14, 0), (0.18, 1)]),
        ((0, 0.033, 0.067, 0.1), 30, [(0.016667, 0), (0.05, 1), (0.083333, 2), (0.116667, 3)]),
        ((0,), 1, [(0.02, 0)]),
        ((5,), 1, [(5.02, 0)]),
        ((), 25, []),
    ],
)
def test_each_frame_shows_what_was_on_show(times, rate, expected):
    assert frames(times, rate) == expected

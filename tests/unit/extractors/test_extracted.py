"""Missed faces: short gaps are filled from their neighbors, longer ones are left out."""

from __future__ import annotations

import numpy as np
import pytest

from vavl.extractors.extracted import believed_frames, interpolated, missed_note


def found(text: str) -> np.ndarray:
    return np.array([letter == "x" for letter in text])


def times_of(text: str, rate: float = 10) -> np.ndarray:
    return (np.arange(len(text)) + 0.5) / rate


@pytest.mark.parametrize(
    ("seen", "rule", "longest_gap_s", "kept"),
    [
        ("xx..xx", "interpolate", 0.2, "xxxxxx"),
        ("xx...xx", "interpolate", 0.2, "xx...xx"),
        ("xx...xx", "interpolate", 0.3, "xxxxxxx"),
        ("..xx...", "interpolate", 0.2, "xxxx..."),
        ("..xx...", "interpolate", 0, "..xx..."),
        ("x.x.xx", "mask", 5, "x.x.xx"),
        ("....", "interpolate", 0.2, "...."),
        ("....", "interpolate", 1, "xxxx"),
        ("x", "interpolate", 0, "x"),
        (".", "mask", 1, "."),
    ],
)
def test_which_frames_are_kept(seen, rule, longest_gap_s, kept):
    believed = believed_frames(found(seen), times_of(seen), rule, longest_gap_s)
    np.testing.assert_array_equal(believed, found(kept))


def test_a_gap_lasts_as_long_as_its_frames_also_at_uneven_times():
    times = np.array([0.0, 0.1, 0.2, 1.0, 1.1])
    is_found = found("x..xx")
    assert believed_frames(is_found, times, "interpolate", 0.25).all()
    assert not believed_frames(found("xx..x"), times, "interpolate", 0.25).all()


def test_values_between_are_linear_in_time_and_hold_at_the_ends():
    times = np.array([0.0, 1.0, 3.0, 4.0, 5.0])
    values = np.array([[np.nan], [10.0], [np.nan], [40.0], [np.nan]])
    filled = interpolated(values, found(".x.x."), times)
    np.testing.assert_allclose(filled[:, 0], [10, 10, 30, 40, 40])
    np.testing.assert_array_equal(interpolated(filled, found("xxxxx"), times), filled)


def test_the_note_says_how_many_frames_were_left_out():
    assert missed_note(found("xxxx"), found("xxxx")) is None
    note = missed_note(found("xx.."), found("xx.x"))
    assert note == "1 of 4 frames left out: no face in them (50% have one)"

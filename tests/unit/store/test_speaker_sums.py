"""Sums of wide rows are NumPy's, to the last bit: they enter the hash of a store."""

from __future__ import annotations

import numpy as np
import pytest

from vavl.store import speaker_sums
from vavl.store.speaker_sums import sums_by_clip


@pytest.mark.parametrize("longest", [2, 9, 130, 700])
@pytest.mark.parametrize("width", [1, 7, 600])
def test_the_sums_of_wide_rows_are_those_of_narrow_ones(
    monkeypatch: pytest.MonkeyPatch, longest: int, width: int
) -> None:
    generator = np.random.default_rng(longest)
    frames = generator.integers(1, longest, size=40).astype(np.int32)
    scales = 10.0 ** generator.integers(-20, 20, size=(int(frames.sum()), 1))
    values = (generator.normal(size=(len(scales), width)) * scales).astype(np.float32)
    found = []
    for wide in (1, 10**6):
        monkeypatch.setattr(speaker_sums, "_WIDE", wide)
        found.append(sums_by_clip(values, frames))
    for one, other in zip(*found, strict=True):
        assert one.tobytes() == other.tobytes()
    exact = values[: frames[0]].astype(np.float64)
    np.testing.assert_allclose(found[0][0][0], exact.sum(axis=0), rtol=1e-9, atol=1e-9 * np.abs(exact).max())

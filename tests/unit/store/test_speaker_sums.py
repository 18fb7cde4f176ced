"""The sums of a clip are NumPy's over its frames, to the last bit: they enter the hash of a store."""

from __future__ import annotations

import numpy as np
import pytest

from vavl.store.speaker_sums import sums_by_clip


@pytest.mark.parametrize("longest", [2, 9, 130, 700])
@pytest.mark.parametrize("width", [1, 7, 600])
def test_the_sums_of_channels_are_those_of_whole_frames(longest: int, width: int) -> None:
    generator = np.random.default_rng(longest)
    frames = generator.integers(1, longest, size=40).astype(np.int32)
    scales = 10.0 ** generator.integers(-20, 20, size=(int(frames.sum()), 1))
    values = (generator.normal(size=(len(scales), width)) * scales).astype(np.float32)
    starts, exact = np.cumsum(frames) - frames, values.astype(np.float64)
    sums, squares = sums_by_clip(values, frames)
    assert sums.tobytes() == np.add.reduceat(exact, starts).tobytes()
    assert squares.tobytes() == np.add.reduceat(np.square(exact), starts).tobytes()
    np.testing.assert_allclose(sums[0], exact[: frames[0]].sum(axis=0), rtol=1e-9, atol=1e-9 * np.abs(exact).max())

"""Chunks of long clips: every frame is there, at its time, and borders do not show."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as draw

from vavl.extractors.speech_transformer import FrameGrid, chunk_starts, joined_chunks

GRID = FrameGrid(rate_hz=16_000, stride=320, receptive=400)


@settings(deadline=None)  # the machine may be busy with other things
@given(frames=draw.integers(1, 400), length=draw.integers(2, 60), share=draw.floats(0, 0.5))
def test_chunks_cover_the_clip_and_overlap_enough(frames, length, share):
    overlap = int(share * length)
    length = min(length, frames)
    starts = chunk_starts(frames, length, min(overlap, length // 2))
    assert starts[0] == 0
    assert starts[-1] + length == frames
    for earlier, later in itertools.pairwise(starts):
        assert earlier < later <= earlier + length - min(overlap, length // 2)


@settings(deadline=None)  # the machine may be busy with other things
@given(frames=draw.integers(1, 200), length=draw.integers(2, 40), overlap=draw.integers(0, 20))
def test_chunks_that_agree_give_the_clip_back(frames, length, overlap):
    length = min(length, frames)
    overlap = min(overlap, length // 2)
    clip = np.random.default_rng(frames).normal(size=(frames, 3)).astype(np.float32)
    starts = chunk_starts(frames, length, overlap)
    chunks = np.stack([clip[start : start + length] for start in starts])
    np.testing.assert_allclose(joined_chunks(chunks, starts, frames, overlap), clip, atol=1e-6)


def test_chunks_that_differ_fade_into_each_other_in_even_steps():
    starts = chunk_starts(frames=30, length=20, overlap=10)
    chunks = np.stack([np.zeros((20, 1)), np.ones((20, 1))]).astype(np.float32)
    found = joined_chunks(chunks, starts, 30, 10)[:, 0]
    assert starts == [0, 10]
    np.testing.assert_allclose(found[:10], 0)
    np.testing.assert_allclose(found[20:], 1)
    np.testing.assert_allclose(np.diff(found[9:21]), 1 / 11, atol=1e-6)


@pytest.mark.parametrize(("samples", "frames"), [(0, 0), (399, 0), (400, 1), (719, 1), (720, 2), (16_000, 49)])
def test_frames_need_all_their_samples(samples, frames):
    assert GRID.frames(samples) == frames


def test_a_span_gives_exactly_its_frames():
    for start, frames in ((0, 1), (3, 7), (100, 50)):
        span = GRID.span(start, frames)
        assert GRID.frames(span.stop - span.start) == frames
        assert (span.start + 200) / 16_000 == pytest.approx(GRID.times(span.stop)[start])

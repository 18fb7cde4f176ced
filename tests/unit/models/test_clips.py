"""Clips of a prediction, in groups of like length."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vavl.models.clips import (
    MOST_CLIPS,
    MOST_FRAMES,
    ClipFeatures,
    batch_of,
    groups_of_like_length,
    logits_by_condition,
    logits_of_clips,
)

LENGTHS = st.integers(0, 3 * MOST_FRAMES // 2) | st.integers(0, 200)


def clip(audio: int, video: int) -> ClipFeatures:
    sides = (np.zeros((frames, 1), np.float32) if frames else None for frames in (audio, video))
    return ClipFeatures(*sides)


@settings(derandomize=True, max_examples=100, deadline=None)
@given(lengths=st.lists(st.tuples(LENGTHS, LENGTHS), max_size=80))
def test_every_clip_is_in_one_group_of_bounded_size(lengths):
    clips = [clip(*pair) for pair in lengths]
    groups = list(groups_of_like_length(clips))
    assert sorted(place for group in groups for place in group) == list(range(len(clips)))
    frames = [[clips[place].frames for place in group] for group in groups]
    assert all(len(group) <= MOST_CLIPS for group in groups)
    assert all(len(group) == 1 or len(group) * max(group) <= MOST_FRAMES for group in frames)
    assert [length for group in frames for length in group] == sorted(one.frames for one in clips)


def test_no_clips_make_no_group():
    assert list(groups_of_like_length([])) == []


@pytest.mark.parametrize(("audio", "video", "condition"), [(2, 3, "audio_video"), (2, 0, "audio"), (0, 3, "video")])
def test_the_condition_is_what_a_clip_has(audio, video, condition):
    assert clip(audio, video).condition == condition


def test_each_clip_gets_the_logits_of_what_it_has():
    clips = [clip(0, 2), clip(3, 1), clip(4, 0), clip(0, 5)]
    batch = batch_of(clips, audio_width=1, video_width=1, outputs=2)
    assert batch.audio.clip.tolist() == [1, 2]
    assert batch.video.clip.tolist() == [0, 1, 3]
    fusion, audio, video = (
        torch.full((rows, 2), start) + torch.arange(rows)[:, None] for rows, start in ((4, 10.0), (2, 20.0), (3, 30.0))
    )
    output = SimpleNamespace(
        fusion_logits=fusion, audio=SimpleNamespace(logits=audio), video=SimpleNamespace(logits=video)
    )
    found = logits_of_clips([one.condition for one in clips], logits_by_condition(output, batch))
    assert found[:, 0].tolist() == [30, 11, 21, 32]
    assert fusion[:, 0].tolist() == [10, 11, 12, 13]

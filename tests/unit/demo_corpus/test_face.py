"""The drawn head: features move with the pose, and stay inside the picture at any extreme."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from demo_corpus.face import Pose, draw_head
from demo_corpus.looks import look_of

SPEAKERS = [f"{sex}0{number}" for sex in "fm" for number in range(1, 7)]


@pytest.mark.parametrize("speaker", SPEAKERS)
def test_every_speaker_can_be_drawn_with_clean_edges(speaker):
    head = draw_head(look_of(7, speaker), Pose())
    assert head.shape == (320, 320, 4)
    assert head.dtype == np.uint8
    # Premultiplied: no color is brighter than its alpha allows, so nothing overflows when laid over a room.
    assert (head[..., :3].max(axis=2) <= head[..., 3].astype(int) + 2).all()
    assert 0.2 < (head[..., 3] > 0).mean() < 0.7


def test_speakers_look_different_and_one_speaker_always_the_same():
    heads = {speaker: draw_head(look_of(7, speaker), Pose()) for speaker in SPEAKERS}
    for one, other in itertools.combinations(SPEAKERS, 2):
        assert np.abs(heads[one].astype(int) - heads[other]).mean() > 3
    np.testing.assert_array_equal(heads["f03"], draw_head(look_of(7, "f03"), Pose()))


@pytest.mark.parametrize(
    ("pose", "rows"),
    [
        (Pose(smile=1), slice(195, 245)),
        (Pose(mouth_open=0.8), slice(190, 320)),
        (Pose(brow_raise=1), slice(105, 150)),
        (Pose(brow_slant=1), slice(105, 150)),
        (Pose(eye_open=0.8), slice(130, 170)),
        (Pose(blink=1), slice(130, 170)),
        (Pose(gaze=(4, 0)), slice(130, 170)),
    ],
)
def test_each_feature_moves_its_part_of_the_face(pose, rows):
    look = look_of(7, "m01")
    change = np.abs(draw_head(look, pose).astype(int) - draw_head(look, Pose())).sum(axis=(1, 2))
    assert change[rows].sum() > 0.7 * change.sum() > 0


def test_drawing_changes_nothing_that_is_drawn_next():
    look = look_of(7, "f01")
    before = draw_head(look, Pose())
    draw_head(look, Pose(smile=1, mouth_open=1, turn=(5, 5)))
    np.testing.assert_array_equal(before, draw_head(look, Pose()))


def test_extreme_poses_can_be_drawn():
    for speaker, extreme in itertools.product(("f04", "m03"), (-1.5, 1.5)):
        pose = Pose(extreme, 1.1, extreme / 2, extreme, extreme, extreme, 1.0, 0.5, (8, 4), (12, 12))
        assert draw_head(look_of(7, speaker), pose).any()

"""Cutting faces out: the square of the track, or the standard position by landmarks."""

from __future__ import annotations

import numpy as np
import pytest

from vavl.extractors.faces import (
    CROP_PX,
    STANDARD_LANDMARKS,
    FaceCutter,
    FaceTrack,
    crop_move,
    cut_faces,
    similarity,
)


def track_of(*box: float, landmarks: np.ndarray | None = None, reduction: float = 1.0) -> FaceTrack:
    marks = None if landmarks is None else landmarks[None].astype(np.float32)
    return FaceTrack(np.array([box], np.float32), np.array([True]), None, marks, np.array([True]), reduction)


def turned(points: np.ndarray, degrees: float, size: float, shift: tuple[float, float]) -> np.ndarray:
    angle = np.deg2rad(degrees)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return size * (points - 0.5) @ turn.T + np.array(shift)


@pytest.mark.parametrize("side", [30, 64, 200])
def test_crops_show_the_square_of_the_track(side):
    picture = np.full((300, 300), 20, dtype=np.uint8)
    picture[150 - side // 2 : 150 + side // 2, 140 - side // 2 : 140 + side // 2] = 220
    track = track_of(140, 150, side)
    (crop,) = cut_faces([picture], track, 1.0)
    assert crop.shape == (CROP_PX, CROP_PX)
    assert crop[4:-4, 4:-4].min() > 210
    (wide,) = cut_faces([picture], track, 2.0)
    assert wide[:10].max() < 30
    assert wide[26:38, 26:38].min() > 210


def test_a_crop_beyond_the_edge_repeats_the_edge():
    (crop,) = cut_faces([np.full((64, 64), 77, dtype=np.uint8)], track_of(0, 0, 64), 1.0)
    assert (crop == 77).all()


@pytest.mark.parametrize("crop_px", [64, 224])
def test_the_face_is_cut_from_the_picture_of_the_file_at_its_place(crop_px):
    """The track is that of a picture a quarter as large."""
    picture = np.full((480, 640, 3), 20, dtype=np.uint8)
    picture[160:320, 280:440] = (220, 120, 60)
    cutter = FaceCutter(track_of(90, 60, 40, reduction=0.25), 1.0, crop_px, from_reduced=False)
    crop = cutter.cut(0, picture)
    assert crop.shape == (crop_px, crop_px, 3)
    inner = crop[crop_px // 16 : -crop_px // 16, crop_px // 16 : -crop_px // 16]
    assert np.abs(inner.astype(int) - (220, 120, 60)).max() < 4
    around = FaceCutter(track_of(90, 60, 40, reduction=0.25), 2.0, crop_px, from_reduced=False)
    assert around.cut(0, picture)[: crop_px // 8].max() < 30


@pytest.mark.parametrize(
    ("degrees", "size", "shift"), [(0, 80, (100, 90)), (25, 60, (160, 120)), (-40, 120, (90, 200))]
)
def test_landmarks_bring_a_turned_face_to_the_standard_position(degrees, size, shift):
    marks = turned(STANDARD_LANDMARKS, degrees, size, shift)
    track = track_of(*shift, size, landmarks=marks)
    for scale in (1.0, 1.5):
        move = crop_move(track, 0, scale, 112)
        placed = marks @ move[:, :2].T + move[:, 2]
        np.testing.assert_allclose(placed, ((STANDARD_LANDMARKS - 0.5) / scale + 0.5) * 112, atol=0.01)


def test_an_aligned_crop_shows_both_eyes_on_one_height():
    marks = turned(STANDARD_LANDMARKS, 30, 100, (150, 150))
    picture = np.full((300, 300), 20, dtype=np.uint8)
    for x, y in marks[:2].round().astype(int):
        picture[y - 4 : y + 5, x - 4 : x + 5] = 250
    (crop,) = cut_faces([picture], track_of(150, 150, 100, landmarks=marks), 1.0)
    heights = [np.argmax(crop[:, side].max(axis=1)) for side in (slice(0, 32), slice(32, 64))]
    assert abs(int(heights[0]) - int(heights[1])) <= 3
    (level,) = cut_faces([picture], track_of(150, 150, 100), 1.0)
    heights = [np.argmax(level[:, side].max(axis=1)) for side in (slice(0, 32), slice(32, 64))]
    assert abs(int(heights[0]) - int(heights[1])) > 8


def test_a_similarity_is_the_nearest_one_where_none_fits():
    wanted = STANDARD_LANDMARKS + np.random.default_rng(0).normal(0, 0.02, (5, 2))
    move = similarity(STANDARD_LANDMARKS, wanted)
    left = ((STANDARD_LANDMARKS @ move[:, :2].T + move[:, 2] - wanted) ** 2).sum()
    for place in np.ndindex(2, 3):
        other = move.copy()
        other[place] += 0.01
        if place[1] < 2:  # stay a similarity
            other[1 - place[0], 1 - place[1]] += 0.01 if place[0] == place[1] else -0.01
        assert ((STANDARD_LANDMARKS @ other[:, :2].T + other[:, 2] - wanted) ** 2).sum() > left

"""Following one face, and cutting it out: found where it is, not exchanged for another, by its square or landmarks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
import pytest
from rendered_media import moving_square
from talking_face import talking_face

from vavl.extractors.face_detectors import Face
from vavl.extractors.faces import (
    CROP_PX,
    STANDARD_LANDMARKS,
    FaceCutter,
    FaceFinder,
    FaceTrack,
    crop_move,
    cut_faces,
    nearest,
    overlap,
    similarity,
)
from vavl.extractors.settings import FaceSettings

SETTINGS = FaceSettings()


@dataclass
class ScriptedDetector:
    """Finds what the script says, picture by picture; pictures hold their own number."""

    script: Sequence[Sequence[Face]]
    reduction: int = 1
    looked_near: list[Face | None] = field(default_factory=list)

    def prepare(self, picture, longest_side_px):
        return picture[:: self.reduction, :: self.reduction]

    def candidates(self, picture, near):
        self.looked_near.append(near)
        return list(self.script[int(picture[0, 0])])


def follow(script, rate=10, reduction=1, **change):
    detector = ScriptedDetector(script, reduction)
    pictures = [np.full((100, 200), number, dtype=np.uint8) for number in range(len(script))]
    return FaceFinder(FaceSettings(**{"smoothing_ms": 0, **change}), rate, detector).track(pictures)


def grey(pictures: np.ndarray) -> list[np.ndarray]:
    return [cv2.cvtColor(np.ascontiguousarray(picture), cv2.COLOR_RGB2GRAY) for picture in pictures]


def scene(left: int, top: int, size: tuple[int, int] = (240, 320), faces: int = 3) -> list[np.ndarray]:
    """Return pictures of a face of 160 pixels on a plain wall."""
    pictures = []
    for head in grey(talking_face(faces)):
        wall = np.full(size, 128, dtype=np.uint8)
        wall[top : top + 160, left : left + 160] = head
        pictures.append(wall)
    return pictures


def finder(**change) -> FaceFinder:
    return FaceFinder(FaceSettings(**change), 25)


def test_the_face_is_found_where_it_is():
    track = finder().track(scene(left=150, top=60))
    assert track.is_found.all()
    assert track.is_kept.all()
    assert (track.reason, track.landmarks, track.reduction) == (None, None, 1)
    x, y, side = np.median(track.boxes, axis=0)
    assert (x, y) == (pytest.approx(230, abs=15), pytest.approx(140, abs=15))
    assert 70 < side < 150


def test_colours_give_the_track_of_their_grey():
    colours = talking_face(3)
    np.testing.assert_array_equal(finder().track(colours).boxes, finder().track(grey(colours)).boxes)


def test_the_largest_face_is_taken():
    pictures = scene(left=10, top=10, size=(260, 400))
    for picture in pictures:
        picture[150:230, 250:330] = cv2.resize(picture[10:170, 10:170], (80, 80))
    x = finder().track(pictures).boxes[:, 0]
    assert (np.abs(x - 90) < 20).all()


def test_a_missed_face_is_carried_over_from_before_and_after():
    pictures = scene(left=40, top=40, faces=1) * 4 + scene(left=60, top=40, faces=1) * 3
    for missing in (0, 2, 3, 6):
        pictures[missing] = np.full_like(pictures[0], 128)
    track = finder(smoothing_ms=0).track(pictures)
    assert track.is_found.tolist() == [False, True, False, False, True, True, False]
    assert track.is_kept.all()
    x = track.boxes[:, 0]
    np.testing.assert_array_equal(x[0], x[1])
    np.testing.assert_array_equal(x[6], x[5])
    assert x[1] < x[2] < x[3] < x[4]


@pytest.mark.parametrize(("missed", "is_kept"), [("interpolate", True), ("mask", False)])
def test_no_face_gives_a_fixed_crop_of_the_middle_or_no_frame(missed, is_kept):
    track = finder(missed=missed).track(grey(moving_square(5, side=100)))
    assert track.reason == "no face found in any of 5 frames: fixed crop of the middle"
    assert not track.is_found.any()
    assert track.is_kept.tolist() == [is_kept] * 5
    np.testing.assert_allclose(track.boxes, [[50, 50, 80]] * 5)


def test_smoothing_makes_the_track_steadier():
    pictures = scene(left=40, top=40, faces=12)
    rough, smooth = (finder(smoothing_ms=ms).track(pictures).boxes for ms in (0, 200))
    assert np.abs(np.diff(smooth, axis=0)).sum() < 0.5 * np.abs(np.diff(rough, axis=0)).sum()


def test_another_person_is_not_taken_though_larger():
    """The second face grows beyond the first, and the first is missed for a while."""
    one, other = Face(50, 50, 30), [Face(150, 50, 20 + 5 * number) for number in range(8)]
    seen = [number not in (3, 4) for number in range(8)]
    script = [[*([one] if seen[number] else []), other[number]] for number in range(8)]
    track = follow(script)
    assert track.is_found.tolist() == seen
    np.testing.assert_allclose(track.boxes, [[50, 50, 30]] * 8)


def test_a_face_that_moves_past_another_is_followed_by_overlap():
    script = [[Face(30 + 10 * number, 50, 30), Face(100, 60, 30)] for number in range(14)]
    script[0].reverse()
    script[0][0] = Face(100, 60, 29)
    track = follow(script)
    np.testing.assert_allclose(track.boxes[:6, 0], 30 + 10 * np.arange(6))
    assert (np.abs(np.diff(track.boxes[:, 0])) <= 10).all()


def test_after_the_longest_gap_another_face_may_be_followed():
    """A cut of the film: the place where the face was says nothing any more."""
    script = [[Face(50, 50, 30)]] * 2 + [[Face(150, 50, 60)]] * 6
    track = follow(script, longest_gap_s=0.3)
    assert track.is_found.tolist() == [True, True, False, False, False, True, True, True]
    np.testing.assert_allclose(track.boxes[5:, 0], 150)


def test_a_long_gap_is_left_out_and_a_short_one_filled():
    face = [Face(50, 50, 30)]
    track = follow([face, [], [], face, [], face], longest_gap_s=0.1)
    assert track.is_kept.tolist() == [True, False, False, True, True, True]
    assert follow([face, [], face], missed="mask").is_kept.tolist() == [True, False, True]


def test_a_missed_face_is_looked_for_everywhere():
    face = Face(50, 50, 30)
    detector = ScriptedDetector([[face], [], [face]])
    pictures = [np.full((100, 200), number, dtype=np.uint8) for number in range(3)]
    FaceFinder(SETTINGS, 10, detector).track(pictures)
    assert detector.looked_near == [None, face, None, None]


def test_landmarks_are_filled_like_the_box_and_used_if_wanted():
    faces = [Face(50 + x, 50, 30, 30 * STANDARD_LANDMARKS + [35 + x, 35]) for x in (0, 10)]
    track = follow([[faces[0]], [], [faces[1]]], align=True)
    assert track.landmarks is not None
    np.testing.assert_allclose(track.landmarks[1], 30 * STANDARD_LANDMARKS + [40, 35], rtol=1e-5)
    assert follow([[faces[0]], [], [faces[1]]]).landmarks is None
    assert follow([[Face(50, 50, 30)]], align=True).landmarks is None


def test_the_track_knows_how_much_its_pictures_were_reduced():
    assert follow([[Face(25, 25, 15)]], reduction=4).reduction == 0.25


def test_overlap_and_nearness():
    face = Face(50, 50, 20)
    assert overlap(face, face) == 1
    assert overlap(face, Face(60, 50, 20)) == pytest.approx(1 / 3)
    assert overlap(face, Face(50, 50, 10)) == pytest.approx(0.25)
    assert overlap(face, Face(90, 50, 20)) == 0
    assert nearest([Face(71, 50, 20), Face(50, 50, 9), Face(50, 50, 41)], face) is None
    assert nearest([Face(58, 50, 20), Face(54, 50, 20)], face) == Face(54, 50, 20)
    assert nearest([], face) is None


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


def test_every_face_has_a_track_of_its_own_and_blinks_of_the_detector_have_none():
    one, other, blink = Face(50, 50, 30), Face(150, 50, 20), Face(100, 20, 20)
    script = [[other, one] if number >= 5 else [one] for number in range(20)]
    script[8], script[12] = [other], [one, blink, other]
    detector = ScriptedDetector(script)
    pictures = [np.full((100, 200), number, dtype=np.uint8) for number in range(20)]
    tracks = FaceFinder(FaceSettings(smoothing_ms=0, missed="mask"), 10, detector).every(pictures)
    assert [track.boxes[-1].tolist() for track in tracks] == [[50, 50, 30], [150, 50, 20]]
    assert [np.flatnonzero(~track.is_kept).tolist() for track in tracks] == [[8], [0, 1, 2, 3, 4]]
    assert tracks[0].size == (100, 200)

"""Following the face: found where it is, carried over where it is missed, fixed crop where there is none."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from rendered_media import moving_square
from talking_face import talking_face

from vavl.errors import ConfigError
from vavl.features import face
from vavl.features.face import CROP_PX, FaceFinder, FaceTrack, cut_faces
from vavl.features.video_settings import VideoFeatureSettings

SETTINGS = VideoFeatureSettings()


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


def test_the_face_is_found_where_it_is():
    track = FaceFinder(SETTINGS).track(scene(left=150, top=60))
    assert track.is_found.all()
    assert track.reason is None
    x, y, side = np.median(track.boxes, axis=0)
    assert (x, y) == (pytest.approx(230, abs=15), pytest.approx(140, abs=15))
    assert 70 < side < 150


def test_the_largest_face_is_taken():
    pictures = scene(left=10, top=10, size=(260, 400))
    for picture in pictures:
        picture[150:230, 250:330] = cv2.resize(picture[10:170, 10:170], (80, 80))
    x = FaceFinder(SETTINGS).track(pictures).boxes[:, 0]
    assert (np.abs(x - 90) < 20).all()


def test_a_missed_face_is_carried_over_from_before_and_after():
    pictures = scene(left=40, top=40, faces=1) * 4 + scene(left=60, top=40, faces=1) * 3
    for missing in (0, 2, 3, 6):
        pictures[missing] = np.full_like(pictures[0], 128)
    track = FaceFinder(VideoFeatureSettings(smoothing_ms=0)).track(pictures)
    assert track.is_found.tolist() == [False, True, False, False, True, True, False]
    x = track.boxes[:, 0]
    np.testing.assert_array_equal(x[0], x[1])
    np.testing.assert_array_equal(x[6], x[5])
    assert x[1] < x[2] < x[3] < x[4]


def test_no_face_gives_a_fixed_crop_of_the_middle_with_the_reason():
    pictures = grey(moving_square(5, side=100))
    track = FaceFinder(SETTINGS).track(pictures)
    assert track.reason == "no face found in any of 5 frames: fixed crop of the middle"
    assert not track.is_found.any()
    np.testing.assert_allclose(track.boxes, [[50, 50, 80]] * 5)


def test_smoothing_makes_the_track_steadier():
    pictures = scene(left=40, top=40, faces=12)
    rough = FaceFinder(VideoFeatureSettings(smoothing_ms=0)).track(pictures).boxes
    smooth = FaceFinder(VideoFeatureSettings(smoothing_ms=200)).track(pictures).boxes
    assert np.abs(np.diff(smooth, axis=0)).sum() < 0.5 * np.abs(np.diff(rough, axis=0)).sum()


@pytest.mark.parametrize("side", [30, 64, 200])
def test_crops_show_the_square_of_the_track(side):
    picture = np.full((300, 300), 20, dtype=np.uint8)
    picture[150 - side // 2 : 150 + side // 2, 140 - side // 2 : 140 + side // 2] = 220
    track = FaceTrack(np.array([[140, 150, side]], np.float32), np.array([True]), None)
    (crop,) = cut_faces([picture], track, 1.0)
    assert crop.shape == (CROP_PX, CROP_PX)
    assert crop[4:-4, 4:-4].min() > 210
    (wide,) = cut_faces([picture], track, 2.0)
    assert wide[:10].max() < 30
    assert wide[26:38, 26:38].min() > 210


def test_a_crop_beyond_the_edge_repeats_the_edge():
    track = FaceTrack(np.array([[0, 0, 64]], np.float32), np.array([True]), None)
    (crop,) = cut_faces([np.full((64, 64), 77, dtype=np.uint8)], track, 1.0)
    assert (crop == 77).all()


def test_an_opencv_without_the_cascade_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(face, "haarcascades", str(tmp_path))
    with pytest.raises(ConfigError, match="cascade is not there"):
        FaceFinder(SETTINGS)

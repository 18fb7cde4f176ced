"""Detectors: OpenCV's cascade, and the code around YuNet with a stand-in for its network."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pytest
from rendered_media import write_mp4
from yunet_stand_in import FACE_SIDE, OFFSETS, write_yunet

from vavl.errors import ConfigError, StoreError
from vavl.extractors import face_detectors
from vavl.extractors.extractor import check_features, extractor_of, video_extractor, video_info
from vavl.extractors.face_detectors import make_detector
from vavl.extractors.faces import FaceFinder
from vavl.extractors.settings import FaceSettings, VideoFeatureSettings


@pytest.fixture(scope="module")
def yunet(tmp_path_factory):
    return write_yunet(tmp_path_factory.mktemp("yunet") / "yunet.onnx")


def blue_spot(x: int, y: int, size: tuple[int, int] = (240, 320)) -> np.ndarray:
    """Return a picture (row, column, RGB) whose cell of 8 pixels around x, y is blue."""
    picture = np.full((*size, 3), (90, 60, 20), dtype=np.uint8)
    picture[y // 8 * 8 : y // 8 * 8 + 8, x // 8 * 8 : x // 8 * 8 + 8] = (0, 0, 255)
    return picture


def test_an_opencv_without_the_cascade_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(face_detectors, "haarcascades", str(tmp_path))
    with pytest.raises(ConfigError, match="cascade is not there"):
        make_detector(FaceSettings())


@pytest.mark.parametrize("named", [None, "absent.onnx"])
def test_without_its_file_yunet_says_which_one_and_where_from(tmp_path, named):
    settings = FaceSettings(detector="yunet", yunet_model=None if named is None else tmp_path / named)
    problem = "needs its file" if named is None else r"absent\.onnx.* does not exist"
    with pytest.raises(ConfigError, match=problem) as refused:
        check_features(VideoFeatureSettings(faces=settings), "video")
    assert "face_detection_yunet_2023mar.onnx" in refused.value.fix
    assert "https://github.com/opencv/opencv_zoo" in refused.value.fix


def test_a_file_that_is_no_network_is_named(tmp_path, capfd):
    (tmp_path / "a.onnx").write_bytes(b"no network")
    with pytest.raises(ConfigError, match="OpenCV cannot read it"):
        make_detector(FaceSettings(detector="yunet", yunet_model=tmp_path / "a.onnx"))
    capfd.readouterr()


def test_yunet_gives_boxes_and_landmarks_in_pixels_of_the_reduced_picture(yunet):
    detector = make_detector(FaceSettings(detector="yunet", yunet_model=yunet))
    for size, expected in (((240, 320), (160, 80)), ((480, 640), (80, 40))):
        picture = blue_spot(160, 80, size)
        if size[0] == 480:
            picture[80:96, 160:176] = (0, 0, 255)
        (face,) = detector.candidates(detector.prepare(picture, 320), None)
        assert (face.x, face.y, face.side) == pytest.approx((*expected, FACE_SIDE), abs=0.01)
        np.testing.assert_allclose(face.landmarks, np.array(expected) + 8 * np.array(OFFSETS), atol=0.01)


def test_yunet_finds_nothing_where_nothing_is_and_drops_small_faces(yunet):
    detector = make_detector(FaceSettings(detector="yunet", yunet_model=yunet))
    assert detector.candidates(detector.prepare(np.zeros((240, 320, 3), np.uint8), 320), None) == []
    strict = make_detector(FaceSettings(detector="yunet", yunet_model=yunet, smallest_face=0.5))
    assert strict.candidates(strict.prepare(blue_spot(160, 80), 320), None) == []


def test_a_face_is_followed_with_yunet(yunet):
    settings = FaceSettings(detector="yunet", yunet_model=yunet, align=True, smoothing_ms=0)
    pictures = [blue_spot(96 + 8 * number, 120) for number in range(5)]
    pictures[2] = np.zeros_like(pictures[2])
    track = FaceFinder(settings, 25).track(pictures)
    assert track.is_found.tolist() == [True, True, False, True, True]
    np.testing.assert_allclose(track.boxes[:, 0], 96 + 8 * np.arange(5), atol=0.01)
    assert track.landmarks.shape == (5, 5, 2)


def test_a_model_wants_the_same_yunet_again(tmp_path, yunet):
    path = write_mp4(tmp_path / "a.mp4", np.stack([blue_spot(160, 80)] * 3))
    settings = VideoFeatureSettings(faces=FaceSettings(detector="yunet", yunet_model=yunet, align=True))
    recorded = asdict(video_info(settings))
    assert len(recorded["settings"]["faces"]["yunet_model_sha256"]) == 64
    np.testing.assert_array_equal(extractor_of(recorded, "video")(path).values, video_extractor(settings)(path).values)
    other = tmp_path / "other.onnx"
    other.write_bytes(yunet.read_bytes() + b" ")
    moved = VideoFeatureSettings(faces=settings.faces.model_copy(update={"yunet_model": other}))
    recorded["settings"]["faces"]["yunet_model"] = str(other)
    assert video_info(settings).provenance != video_info(moved).provenance
    with pytest.raises(StoreError, match="different here: yunet_model"):
        extractor_of(recorded, "video")


def test_alignment_with_the_cascade_is_said_to_be_level(caplog):
    check_features(VideoFeatureSettings(faces=FaceSettings(align=True)), "video")
    assert "its crops stay level" in caplog.text

"""Published weights through the extractors; other tests have tiny random networks in their place."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from rendered_media import write_mp4
from talking_face import talking_face

from vavl.extractors.extractor import video_extractor
from vavl.extractors.face_detectors import make_detector
from vavl.extractors.settings import FaceSettings, ImageNetworkSettings, PretrainedModel

pytestmark = pytest.mark.realmodel


def model_path(variable: str) -> Path:
    if not os.environ.get(variable):
        pytest.skip(f"{variable} is not set")
    return Path(os.environ[variable])


@pytest.mark.parametrize("speaker", ["f01", "m01"])
def test_yunet_finds_the_face_that_the_cascade_finds_and_its_eyes_above_its_mouth(speaker):
    yunet = make_detector(FaceSettings(detector="yunet", yunet_model=model_path("YUNET_ONNX")))
    wall = np.full((240, 320, 3), 128, dtype=np.uint8)
    wall[40:200, 80:240] = talking_face(1, speaker=speaker)[0]
    (found,) = yunet.candidates(yunet.prepare(wall, 320), None)
    cascade = make_detector(FaceSettings())
    (expected,) = cascade.candidates(cascade.prepare(cv2.cvtColor(wall, cv2.COLOR_RGB2GRAY), 320), None)
    assert (found.x, found.y, found.side) == pytest.approx((expected.x, expected.y, expected.side), abs=16)
    eye, other_eye, nose, mouth, other_mouth = found.landmarks
    assert max(eye[1], other_eye[1]) < nose[1] < min(mouth[1], other_mouth[1])
    assert eye[0] < nose[0] < other_eye[0]


def test_a_face_network_tells_drawn_speakers_apart(tmp_path):
    """Frames of one speaker are alike (cosine 0.92 and more), those of two are not (0.81 and less)."""
    backbone = PretrainedModel(folder=model_path("FACE_MOBILENET_DIR"), device="cpu")
    extract = video_extractor(ImageNetworkSettings(extractor="image_network", backbone=backbone))
    values = np.stack(
        [
            extract(write_mp4(tmp_path / f"{speaker}.mp4", talking_face(3, speaker=speaker))).values
            for speaker in ("f01", "f02", "m01")
        ]
    )
    assert values.shape == (3, 3, 1024)
    units = values / np.linalg.norm(values, axis=-1, keepdims=True)
    similarity = np.einsum("afc,bgc->abfg", units, units).reshape(3, 3, -1)
    is_same = np.eye(3, dtype=bool)
    assert similarity[is_same].min() > 0.88 > similarity[~is_same].max()

"""Published weights through the extractors; other tests have tiny random networks in their place."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from rendered_media import write_mp4, write_wav
from talking_face import talking_face

from vavl.extractors.extractor import audio_extractor, audio_info, video_extractor
from vavl.extractors.face_detectors import make_detector
from vavl.extractors.settings import FaceSettings, ImageNetworkSettings, PretrainedModel, SpeechTransformerSettings

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


def test_whispers_middle_layer_tells_a_vowel_from_another_and_reads_long_clips(tmp_path):
    backbone = PretrainedModel(folder=model_path("WHISPER_TINY_DIR"), device="cpu")
    settings = SpeechTransformerSettings(backbone=backbone, kind="whisper", layers=(2, 2))
    info, extract = audio_info(settings), audio_extractor(settings)
    assert (info.width, info.frame_rate_hz) == (384, 50)
    clips = {
        name: extract(write_wav(tmp_path / f"{name}.wav", vowel(*formants)))
        for name, formants in (("a", (130, 750, 1200)), ("a_higher", (180, 750, 1200)), ("i", (130, 280, 2300)))
    }
    assert all(found.values.shape == (75, 384) for found in clips.values())
    means = {name: found.values[10:].mean(axis=0) for name, found in clips.items()}
    center = np.mean(list(means.values()), axis=0)
    units = {name: (mean - center) / np.linalg.norm(mean - center) for name, mean in means.items()}
    assert units["a"] @ units["a_higher"] > max(units["a"] @ units["i"], units["a_higher"] @ units["i"])
    # Longer than the window of 8 s: the end is what the last window alone gives, up to the level of the clip.
    long = np.tile(vowel(130, 750, 1200), 8)
    found = extract(write_wav(tmp_path / "long.wav", long))
    last = extract(write_wav(tmp_path / "last.wav", long[-8 * 16_000 :]))
    assert found.values.shape == (600, 384)
    assert np.abs(found.values[-50:] - last.values[-50:]).max() < 0.05 * np.abs(last.values[-50:]).max()


def vowel(pitch_hz: float, *formants_hz: float) -> np.ndarray:
    """Return 1.5 s of pulses through two resonances."""
    from scipy.signal import lfilter

    pulses = np.zeros(24_000)
    pulses[:: round(16_000 / pitch_hz)] = 1
    for formant in formants_hz:
        pole = 0.98 * np.exp(2j * np.pi * formant / 16_000)
        pulses = lfilter([1], [1, -2 * pole.real, abs(pole) ** 2], pulses)
    return (0.3 * pulses / np.abs(pulses).max()).astype(np.float32)

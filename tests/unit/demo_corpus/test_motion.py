"""Movement over a clip: one pose per frame, lips in time with the syllables, expression by emotion."""

from __future__ import annotations

import numpy as np

from demo_corpus.latent import Clip, clip_latent
from demo_corpus.motion import face_motion
from demo_corpus.settings import DemoCorpusSettings, DifficultySettings

PURE = DemoCorpusSettings(
    difficulty=DifficultySettings(shared_noise=0, voice_noise=0, face_noise=0, strays=0, hidden_contrast=1)
)


def _motion(emotion, settings=PURE):
    latent = clip_latent(settings, Clip("f01", "s01", emotion, 1))
    return face_motion(settings, latent), latent


def test_one_pose_per_frame():
    frames, latent = _motion("neutral")
    assert len(frames) == round(latent.seconds * 25)
    at_50_hz, _ = _motion("neutral", DemoCorpusSettings(frame_rate_hz=50))
    assert abs(len(at_50_hz) - 2 * len(frames)) <= 10


def test_the_mouth_opens_with_the_syllables():
    frames, latent = _motion("neutral")
    gaps = np.array([pose.mouth_open for pose, _ in frames])
    seconds = (np.arange(len(gaps)) + 0.5) / 25
    speaking = np.zeros(len(gaps), bool)
    for syllable in latent.syllables:
        speaking |= np.abs(seconds - syllable.start_s - syllable.length_s / 2) < 0.03
    assert gaps[speaking].mean() > 0.15
    assert gaps[seconds < latent.syllables[0].start_s - 0.05].max() < 0.05


def test_emotions_move_the_features_that_belong_to_them():
    mean = {}
    for emotion in ("happy", "sad", "angry", "surprised"):
        poses = [pose for pose, _ in _motion(emotion)[0]]
        mean[emotion] = {name: np.mean([getattr(pose, name) for pose in poses]) for name in vars(poses[0])}
    assert mean["happy"]["smile"] > 0.5 > -0.3 > mean["sad"]["smile"]
    assert mean["angry"]["brow_slant"] > 0.5 > -0.2 > mean["sad"]["brow_slant"]
    assert mean["surprised"]["brow_raise"] > 0.4
    assert mean["surprised"]["eye_open"] > 0.4


def test_the_head_moves():
    places = [place for _, place in _motion("happy")[0]]
    assert np.std([place.shift[1] for place in places]) > 1
    assert np.std([place.tilt_degrees for place in places]) > 0.2

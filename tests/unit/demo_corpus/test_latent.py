"""What a clip expresses: names, independence of clips, hidden contrasts, and the difficulty that was set."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from demo_corpus.latent import (
    HIDDEN_FROM_FACE,
    HIDDEN_FROM_VOICE,
    Clip,
    clip_latent,
    clips_of,
    generator,
    hide,
    trajectory,
)
from demo_corpus.settings import EMOTIONS, DemoCorpusSettings, DifficultySettings, settings_hash

TEST_SPEAKERS = {"f01", "f02", "m01", "m02"}


def test_the_default_corpus_has_432_clips_with_readable_names():
    clips = clips_of(DemoCorpusSettings())
    names = [clip.clip_id for clip in clips]
    assert len(set(names)) == 432
    assert names[0] == "f01_s01_neutral_t1"
    assert {clip.speaker for clip in clips} == {f"{sex}0{number}" for sex in "fm" for number in range(1, 7)}
    assert sum(clip.speaker in TEST_SPEAKERS for clip in clips) == 144


def test_a_clip_depends_on_the_seed_and_its_own_name_only():
    clip = Clip("f02", "s01", "sad", 1)
    alone = clip_latent(DemoCorpusSettings(women=2, men=0, sentences=1, takes=1), clip)
    among_all = clip_latent(DemoCorpusSettings(), clip)
    other_seed = clip_latent(DemoCorpusSettings(seed=8), clip)
    other_take = clip_latent(DemoCorpusSettings(), Clip("f02", "s01", "sad", 2))
    np.testing.assert_array_equal(alone.face, among_all.face)
    assert alone.syllables == among_all.syllables
    assert not np.allclose(among_all.face, other_seed.face)
    assert not np.allclose(among_all.voice, other_take.voice)


def test_generators_of_other_names_are_other_generators():
    draws = {generator(1, *names).random() for names in (("a", "b"), ("ab",), ("b", "a"), ("a", "b", ""))}
    assert len(draws) == 4


@pytest.mark.parametrize("pairs", [HIDDEN_FROM_VOICE, HIDDEN_FROM_FACE])
def test_hiding_shrinks_the_contrasts_of_the_pairs(pairs):
    pure = dict(zip(EMOTIONS, np.eye(len(EMOTIONS)), strict=True))
    for one, other in pairs:
        whole = pure[one] - pure[other]
        hidden = hide(pure[one], pairs, 0.0) - hide(pure[other], pairs, 0.0)
        # Pairs that share an emotion pull on each other, so a little may remain.
        assert np.linalg.norm(hidden) < 0.55 * np.linalg.norm(whole)
    np.testing.assert_allclose(hide(pure["happy"], pairs, 1.0), pure["happy"])


def test_no_contrast_is_hidden_from_both():
    assert not {frozenset(pair) for pair in HIDDEN_FROM_VOICE} & {frozenset(pair) for pair in HIDDEN_FROM_FACE}


def test_clips_last_one_to_three_seconds_and_hold_their_syllables():
    for clip in clips_of(DemoCorpusSettings(sentences=9, takes=1)):
        latent = clip_latent(DemoCorpusSettings(), clip)
        last = latent.syllables[-1]
        assert 1.0 <= latent.seconds <= 3.0
        assert last.start_s + last.length_s < latent.seconds


def test_a_trajectory_knows_nothing_but_its_blend_and_moves():
    settings = DemoCorpusSettings()
    times = np.linspace(0, 1.5, 40)
    happy, angry = (clip_latent(settings, Clip("f01", "s01", emotion, 1)) for emotion in ("happy", "angry"))
    blend = np.ones(len(EMOTIONS))
    course = trajectory(happy, blend, times)
    assert course.shape == (40, len(EMOTIONS))
    assert (course.std(axis=0)[1:] > 0.03).all()
    same_timing = trajectory(type(angry)(**{**vars(angry), "peak": happy.peak, "seconds": happy.seconds}), blend, times)
    np.testing.assert_array_equal(course, same_timing)


def test_strays_show_another_emotion():
    quiet = {"shared_noise": 0, "voice_noise": 0, "face_noise": 0, "hidden_contrast": 1, "expressiveness_sd": 0}
    settings = DemoCorpusSettings(difficulty=DifficultySettings(**quiet, strays=0.25))
    clips = clips_of(settings)
    own = [EMOTIONS[clip_latent(settings, clip).face.argmax()] == clip.emotion for clip in clips]
    assert 0.65 < np.mean(own) < 0.85


def test_any_setting_changes_the_hash():
    default = settings_hash(DemoCorpusSettings())
    assert default != settings_hash(DemoCorpusSettings(seed=8))
    assert default != settings_hash(DemoCorpusSettings(difficulty=DifficultySettings(strays=0.08)))


def test_each_modality_is_partly_informative_and_both_together_more():
    settings = DemoCorpusSettings()
    latents = [clip_latent(settings, clip) for clip in clips_of(settings)]
    labels = np.array([EMOTIONS.index(latent.clip.emotion) for latent in latents])
    is_test = np.array([latent.clip.speaker in TEST_SPEAKERS for latent in latents])
    voice, face = (np.array([getattr(latent, view) for latent in latents]) for view in ("voice", "face"))

    def accuracy(values):
        model = LogisticRegression(max_iter=1000).fit(values[~is_test], labels[~is_test])
        return model.score(values[is_test], labels[is_test])

    alone = accuracy(voice), accuracy(face)
    assert min(alone) > 0.5
    assert max(alone) < 0.75
    assert 0.8 < accuracy(np.hstack([voice, face])) < 0.95

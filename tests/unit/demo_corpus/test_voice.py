"""The voice: reproducible, never clipped, and its pitch, energy and rhythm move with the emotion."""

from __future__ import annotations

import numpy as np
import pytest

from demo_corpus.latent import Clip, clip_latent
from demo_corpus.settings import DemoCorpusSettings, DifficultySettings
from demo_corpus.voice import render_voice

PURE = DemoCorpusSettings(
    difficulty=DifficultySettings(shared_noise=0, voice_noise=0, face_noise=0, strays=0, hidden_contrast=1)
)


def _speak(emotion, speaker="m01", settings=PURE):
    latent = clip_latent(settings, Clip(speaker, "s01", emotion, 1))
    return render_voice(settings, latent), latent


def _decibels(sound):
    return 20 * np.log10((sound / 32768).std())


def _pitch_hz(sound, rate=16_000):
    """Return the median over voiced 40 ms frames of the strongest lag of the autocorrelation."""
    frames = np.lib.stride_tricks.sliding_window_view(sound.astype(float), 640)[::160]
    loud = frames[frames.std(axis=1) > 0.5 * np.quantile(frames.std(axis=1), 0.9)]
    spectra = np.abs(np.fft.rfft(loud - loud.mean(axis=1, keepdims=True), 2048)) ** 2
    similarity = np.fft.irfft(spectra)[:, rate // 450 : rate // 70]
    return float(np.median(rate / (similarity.argmax(axis=1) + rate // 450)))


def test_the_same_clip_is_the_same_sound_and_another_take_is_not():
    once, latent = _speak("happy")
    again, _ = _speak("happy")
    np.testing.assert_array_equal(once, again)
    assert once.dtype == np.int16
    assert len(once) == round(latent.seconds * 16_000)
    other = render_voice(PURE, clip_latent(PURE, Clip("m01", "s01", "happy", 2)))
    assert len(other) != len(once) or (other != once).any()


@pytest.mark.parametrize("emotion", ["neutral", "angry", "surprised"])
def test_no_sample_is_clipped_and_no_clip_is_silent(emotion):
    sound, _ = _speak(emotion, "f01")
    assert np.abs(sound).max() < 32_700
    assert _decibels(sound) > -45


def test_anger_is_louder_than_sadness():
    assert _decibels(_speak("angry")[0]) > _decibels(_speak("sad")[0]) + 6


def test_fear_is_higher_than_sadness_and_women_higher_than_men():
    assert _pitch_hz(_speak("fearful")[0]) > 1.3 * _pitch_hz(_speak("sad")[0])
    assert _pitch_hz(_speak("neutral", "f01")[0]) > 1.4 * _pitch_hz(_speak("neutral", "m01")[0])


def test_energy_follows_the_syllables():
    sound, latent = _speak("neutral")
    seconds = np.arange(len(sound)) / 16_000
    speaking = np.zeros(len(sound), bool)
    for syllable in latent.syllables:
        middle = syllable.start_s + syllable.length_s / 2
        speaking |= np.abs(seconds - middle) < 0.03
    silent = seconds < latent.syllables[0].start_s - 0.1
    assert np.abs(sound[speaking]).mean() > 8 * np.abs(sound[silent]).mean()


def test_another_sample_rate_keeps_the_length_in_seconds():
    settings = DemoCorpusSettings(sample_rate_hz=8_000)
    sound, latent = _speak("neutral", settings=settings)
    assert len(sound) == round(latent.seconds * 8_000)

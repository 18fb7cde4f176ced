"""Several channels to one: nothing is lost in the mix without a word."""

from __future__ import annotations

import numpy as np
import pytest
from rendered_media import tone, write_wav

from vavl.media.sound import mix, read_sound

VOICE = tone(300, 0.5, amplitude=0.4).astype(np.float32)
SILENCE = np.zeros_like(VOICE)
OTHER = tone(1700, 0.5, amplitude=0.4).astype(np.float32)
FIVE_ONE = ("FL", "FR", "FC", "LFE", "BL", "BR")


def power(samples):
    return float((samples**2).mean())


@pytest.mark.parametrize("right", [VOICE, SILENCE, OTHER, 0.2 * VOICE - OTHER], ids=["same", "silent", "other", "both"])
def test_plain_stereo_is_the_mean_without_a_word(right):
    mixed = mix(np.stack([VOICE, right], axis=1))
    assert mixed.note is None
    np.testing.assert_allclose(mixed.samples, (VOICE + right) / 2, atol=1e-6)


@pytest.mark.parametrize("gain", [-1.0, -0.6, -1.7])
def test_an_inverted_channel_gives_way_to_the_louder_one_with_a_note(gain):
    mixed = mix(np.stack([VOICE, gain * VOICE + 0.01 * OTHER], axis=1).astype(np.float32))
    louder = VOICE if abs(gain) <= 1 else gain * VOICE
    assert power(mixed.samples) == pytest.approx(power(louder), rel=0.01)
    assert "cancel each other out" in mixed.note


def test_a_voice_in_the_centre_of_surround_sound_keeps_its_level():
    channels = np.stack([SILENCE, SILENCE, VOICE, OTHER, SILENCE, SILENCE], axis=1)
    mixed = mix(channels, FIVE_ONE)
    assert 10 * np.log10(power(mixed.samples) / power(VOICE)) == pytest.approx(-3, abs=0.1)  # effects are left out
    assert "6 channels" in mixed.note
    assert 3 not in mixed.taken
    unnamed = mix(channels)
    np.testing.assert_array_equal(unnamed.samples, mixed.samples)
    assert "taken as FL FR FC" in unnamed.note
    three = mix(channels[:, 1:4])
    assert power(three.samples) == pytest.approx(power(VOICE) * 2 / 9, rel=0.05)
    assert "equal weights" in three.note


def test_the_facts_are_of_the_channel_that_was_taken(tmp_path):
    path = write_wav(tmp_path / "a.wav", np.stack([VOICE, -VOICE], axis=1))
    sound = read_sound(path, 16_000)
    assert sound.facts["peak"] == pytest.approx(0.4, abs=0.01)
    assert sound.facts["silence_share"] == 0
    assert "cancel" in sound.note

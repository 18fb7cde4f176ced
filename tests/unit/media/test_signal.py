"""A modality that is there and carries nothing counts as missing; a quiet or dark one does not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from rendered_media import moving_square, tone, write_mp4, write_wav
from sounding_media import write_clip

from vavl.errors import NoSignalError
from vavl.media.media import Pictures
from vavl.media.sound import read_sound

RATE = 16_000


@pytest.mark.parametrize("level", [0.0, 1 / 32768, 5e-5])
def test_digital_silence_and_its_noise_are_no_sound(tmp_path: Path, level: float):
    noise = level * np.sign(np.random.default_rng(0).normal(size=RATE))
    with pytest.raises(NoSignalError, match="silence from start to end"):
        read_sound(write_wav(tmp_path / "a.wav", noise), RATE)


def test_a_silent_track_of_a_film_is_no_sound_while_its_pictures_are_read(tmp_path: Path):
    path = write_clip(tmp_path / "a.mp4", np.zeros(2 * RATE))
    with pytest.raises(NoSignalError):
        read_sound(path, RATE)
    assert len(list(Pictures(path, 25))) == 50


@pytest.mark.parametrize("level", [2e-4, 1.0])
def test_a_quiet_sound_is_one(tmp_path: Path, level: float):
    sound = read_sound(write_wav(tmp_path / "a.wav", level * tone(300, 0.5)), RATE)
    assert sound.waveform.max() > level / 2


def film(tmp_path: Path, pictures: np.ndarray) -> Pictures:
    return Pictures(write_mp4(tmp_path / "a.mp4", pictures.astype(np.uint8)), 25)


@pytest.mark.parametrize("level", [0, 16])
def test_black_is_no_video(tmp_path: Path, level: int):
    noise = np.random.default_rng(0).integers(0, 4, (25, 64, 64, 3))
    with pytest.raises(NoSignalError, match="black from start to end"):
        list(film(tmp_path, level + noise))


def test_a_still_picture_all_the_time_is_no_video(tmp_path: Path):
    with pytest.raises(NoSignalError, match="one still image"):
        list(film(tmp_path, np.repeat(moving_square(1, side=64), 25, axis=0)))


def test_a_small_movement_and_a_dark_film_are_video(tmp_path: Path):
    still = np.repeat(moving_square(1, side=64), 25, axis=0)
    still[12:, 30:34, 30:34] = 255 - still[12:, 30:34, 30:34]
    assert len(list(film(tmp_path, still))) == 25
    assert len(list(film(tmp_path, moving_square(25, side=64) // 4))) == 25


def test_a_picture_shown_for_a_moment_is_read(tmp_path: Path):
    assert len(list(film(tmp_path, np.repeat(moving_square(1, side=64), 5, axis=0)))) == 5

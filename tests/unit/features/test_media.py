"""Reading media: rates, channels and times are right; damaged files are told apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
from rendered_media import moving_square, tone, write_mp4, write_sound_only_mp4, write_wav
from talking_face import talking_face

from vavl.errors import ClipError
from vavl.features.media import read_audio, read_frames, sound_seconds


def dominant_hz(samples: np.ndarray, rate_hz: int) -> float:
    return float(np.abs(np.fft.rfft(samples)).argmax() * rate_hz / len(samples))


@pytest.mark.parametrize("rate_hz", [8000, 16_000, 44_100, 48_000])
@pytest.mark.parametrize("suffix", [".wav", ".flac"])
def test_sound_is_resampled_to_the_rate_asked_for(tmp_path, rate_hz, suffix):
    path = write_wav(tmp_path / f"a{suffix}", tone(440, 1.0, rate_hz, 0.5), rate_hz)
    samples = read_audio(path, 16_000)
    assert samples.dtype == np.float32
    assert len(samples) == pytest.approx(16_000, abs=2)
    assert dominant_hz(samples, 16_000) == pytest.approx(440, abs=1.5)
    assert np.abs(samples[1000:-1000]).max() == pytest.approx(0.5, abs=0.02)


def test_channels_are_averaged(tmp_path):
    both = np.stack([tone(300, 0.5, amplitude=0.8), np.zeros(8000)], axis=1)
    samples = read_audio(write_wav(tmp_path / "a.wav", both), 16_000)
    np.testing.assert_allclose(samples, both[:, 0] / 2, atol=1e-4)


def test_sound_in_a_container_is_read(tmp_path):
    path = write_mp4(tmp_path / "a.mp4", moving_square(5), sound=tone(440, 1.0, amplitude=0.5))
    samples = read_audio(path, 16_000)
    assert len(samples) == pytest.approx(16_000, abs=2100)
    assert dominant_hz(samples, 16_000) == pytest.approx(440, abs=2)


def test_the_stated_length_of_a_sound(tmp_path):
    assert sound_seconds(write_wav(tmp_path / "a.wav", np.zeros(4000))) == 0.25
    assert sound_seconds(tmp_path / "missing.wav") is None


def test_a_wav_that_was_cut_off_is_refused(tmp_path):
    path = write_wav(tmp_path / "a.wav", tone(440, 1.0))
    path.write_bytes(path.read_bytes()[:20_000])
    with pytest.raises(ClipError, match="cut off: 20000 of 32044 bytes"):
        read_audio(path, 16_000)


def test_a_wav_of_unknown_stated_length_is_read(tmp_path):
    path = write_wav(tmp_path / "a.wav", tone(440, 0.1))
    content = bytearray(path.read_bytes())
    content[4:8] = content[40:44] = b"\xff\xff\xff\xff"
    path.write_bytes(content)
    assert len(read_audio(path, 16_000)) == 1600


def test_a_flac_that_was_cut_off_is_refused(tmp_path):
    path = write_wav(tmp_path / "a.flac", np.random.default_rng(0).normal(0, 0.1, 16_000))
    path.write_bytes(path.read_bytes()[:9000])
    with pytest.raises(ClipError, match=r"cut off|not a readable"):
        read_audio(path, 16_000)


@pytest.mark.parametrize(
    ("content", "problem"),
    [(None, "zero samples"), (b"", "the file is empty"), (b"RIFFxxxx", "not a readable")],
)
def test_a_wav_without_sound_is_refused(tmp_path, content, problem):
    path = tmp_path / "a.wav"
    if content is None:
        write_wav(path, np.zeros(0))
    else:
        path.write_bytes(content)
    with pytest.raises(ClipError, match=problem):
        read_audio(path, 16_000)


def test_sound_that_is_not_finite_is_refused(tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, np.array([0.0, np.nan, 0.1]), 16_000, subtype="FLOAT")
    with pytest.raises(ClipError, match="NaN"):
        read_audio(path, 16_000)


def test_missing_files_and_long_clips_are_refused(tmp_path):
    with pytest.raises(ClipError, match="does not exist"):
        read_audio(tmp_path / "a.wav", 16_000)
    with pytest.raises(ClipError, match="not a regular file"):
        read_audio(tmp_path, 16_000)
    with pytest.raises(ClipError, match="does not exist"):
        next(read_frames(tmp_path / "a.mp4", 25))
    with pytest.raises(ClipError, match=r"longer than 0\.1 s"):
        read_audio(write_wav(tmp_path / "b.wav", np.zeros(3200)), 16_000, longest_s=0.1)
    with pytest.raises(ClipError, match=r"longer than 0\.1 s"):
        list(read_frames(write_mp4(tmp_path / "b.mp4", moving_square(8)), 25, longest_s=0.1))
    with pytest.raises(ClipError, match=r"longer than 0\.1 s"):
        read_audio(write_sound_only_mp4(tmp_path / "c.mp4", np.zeros(8000)), 16_000, longest_s=0.1)


def test_pictures_come_at_their_own_rate_with_the_times_of_their_middles(tmp_path):
    pictures = moving_square(10)
    read = list(read_frames(write_mp4(tmp_path / "a.mp4", pictures), 25))
    np.testing.assert_allclose([time for time, _ in read], (np.arange(10) + 0.5) / 25)
    for (_, found), rendered in zip(read, pictures, strict=True):
        assert found.shape == rendered.shape
        assert np.abs(found.astype(int) - rendered).mean() < 8


@pytest.mark.parametrize("rate_hz", [10, 12.5, 50])
def test_another_rate_takes_the_nearest_pictures(tmp_path, rate_hz):
    # The grey level tells which picture it is.
    pictures = np.repeat(np.arange(20, dtype=np.uint8) * 12, 64 * 64 * 3).reshape(20, 64, 64, 3)
    read = list(read_frames(write_mp4(tmp_path / "a.mp4", pictures), rate_hz))
    assert len(read) == pytest.approx(0.8 * rate_hz, abs=1)
    for time, found in read:
        picture = round(float(found.mean()) / 12)
        assert abs((picture + 0.5) / 25 - time) <= 0.5 / 25 + 1e-6


def test_a_video_that_was_turned_is_read_upright(tmp_path):
    face = talking_face(2)
    on_its_side = np.rot90(face, axes=(1, 2), k=1)
    ((_, found), _) = read_frames(write_mp4(tmp_path / "a.mp4", on_its_side, rotation=-90), 25)
    assert np.abs(found.astype(int) - face[0]).mean() < 8


@pytest.mark.parametrize(
    ("content", "problem"), [(b"", "the file is empty"), (b"not a video at all" * 100, "cannot be decoded")]
)
def test_an_unreadable_mp4_is_refused(tmp_path, content, problem):
    path = tmp_path / "a.mp4"
    path.write_bytes(content)
    with pytest.raises(ClipError, match=problem):
        list(read_frames(path, 25))


def test_an_mp4_that_was_cut_off_is_refused(tmp_path):
    path = write_mp4(tmp_path / "a.mp4", moving_square(30))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ClipError, match="cannot be decoded"):
        list(read_frames(path, 25))


def test_an_mp4_with_damaged_pictures_is_refused(tmp_path):
    path = write_mp4(tmp_path / "a.mp4", moving_square(60, side=128))
    content = bytearray(path.read_bytes())
    start = content.index(b"mdat") + 1500
    content[start : start + len(content) // 2] = bytes(len(content) // 2)
    path.write_bytes(content)
    with pytest.raises(ClipError, match=r"cut off|cannot be decoded"):
        list(read_frames(path, 25))


def test_an_mp4_without_pictures_or_without_sound_is_refused(tmp_path):
    sound_only = write_sound_only_mp4(tmp_path / "sound.mp4", tone(440, 0.5))
    pictures_only = write_mp4(tmp_path / "pictures.mp4", moving_square(3))
    with pytest.raises(ClipError, match="no video stream"):
        next(read_frames(sound_only, 25))
    with pytest.raises(ClipError, match="no audio stream"):
        read_audio(pictures_only, 16_000)
    assert Path(pictures_only).exists()


@pytest.mark.parametrize(
    "text",
    [
        "ffconcat version 1.0\nfile {}\n",
        "ffconcat version 1.0\nfile ../outside/other.mp4\n",
        "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile://{}\n#EXT-X-ENDLIST\n",
    ],
)
def test_a_playlist_under_the_name_of_a_clip_opens_no_other_file(tmp_path, text):
    """A clip comes from somebody else; FFmpeg would know how to follow it out of the corpus folder."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "corpus").mkdir()
    other = write_mp4(tmp_path / "outside/other.mp4", moving_square(5), sound=tone(440, 0.2))
    clip = tmp_path / "corpus/clip.mp4"
    clip.write_text(text.format(other))
    with pytest.raises(ClipError, match="cannot be decoded"):
        list(read_frames(clip, 5))
    with pytest.raises(ClipError, match="cannot be decoded"):
        read_audio(clip, 16_000)

"""Reading media: rates, channels and times are right; damaged files are told apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from rendered_media import moving_square, tone, write_mp4, write_sound_only_mp4
from talking_face import talking_face

from vavl.errors import ClipError
from vavl.features.media import read_frames
from vavl.features.sound import read_audio


def test_missing_files_and_long_clips_are_refused(tmp_path):
    with pytest.raises(ClipError, match="does not exist"):
        next(read_frames(tmp_path / "a.mp4", 25))
    with pytest.raises(ClipError, match=r"longer than 0\.1 s"):
        list(read_frames(write_mp4(tmp_path / "b.mp4", moving_square(8)), 25, longest_s=0.1))


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

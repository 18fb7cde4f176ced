"""Pictures of a video: whole, upright, and at an even rate."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from rendered_media import grey_levels, moving_square, tone, write_media, write_mp4, write_sound_only_mp4
from talking_face import talking_face

from vavl.errors import ClipError
from vavl.extractors.extractor import extract_audio
from vavl.extractors.settings import AudioFeatureSettings
from vavl.media.media import Pictures, Shown, evenly, read_frames
from vavl.media.sound import read_audio


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
    # The gray level tells which picture it is.
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
    """A clip comes from somebody else; FFmpeg would know how to follow it out of the corpus directory."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "corpus").mkdir()
    other = write_mp4(tmp_path / "outside/other.mp4", moving_square(5), sound=tone(440, 0.2))
    clip = tmp_path / "corpus/clip.mp4"
    clip.write_text(text.format(other))
    with pytest.raises(ClipError, match="cannot be decoded"):
        list(read_frames(clip, 5))
    with pytest.raises(ClipError, match="cannot be decoded"):
        read_audio(clip, 16_000)


def levels_of(path, rate_hz=25):
    """Return (time, gray level) of every frame, and the facts."""
    pictures = Pictures(path, rate_hz)
    return [(round(time, 4), round(float(picture.mean()))) for time, picture in pictures], pictures.facts


@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
def test_a_picture_is_shown_until_the_next_one(tmp_path, suffix):
    """The rate of such a file varies: a frame may not go by the number of its picture."""
    shown_ms = (0, 40, 300, 340, 400)
    path = write_media(tmp_path / f"a{suffix}", grey_levels((40, 80, 120, 160, 200)), shown_ms=shown_ms,
                       options={"bf": "0"})  # fmt: skip
    found, facts = levels_of(path)
    expected = [40, 80, 80, 80, 80, 80, 80, 120, 160, 160, 200]
    assert [round(level / 40) * 40 for _, level in found][:11] == expected
    assert [time for time, _ in found] == pytest.approx([(k + 0.5) / 25 for k in range(len(found))])
    assert facts["seconds"] == pytest.approx(0.44, abs=0.05)
    assert facts["frame_rate_hz"] == pytest.approx(5 / facts["seconds"], abs=0.01)


@pytest.mark.parametrize(("suffix", "has_sound"), [(".mkv", True), (".mov", True), (".mkv", False), (".ts", False)])
def test_time_0_is_where_the_presentation_starts(tmp_path, suffix, has_sound):
    """Pictures that come later than the sound keep their delay; without sound the first one is at 0."""
    path = write_media(
        tmp_path / f"a{suffix}", grey_levels(range(40, 200, 20)), shown_ms=range(480, 800, 40),
        sound=tone(300, 0.9, amplitude=0.5) if has_sound else None, audio="pcm_s16le",
    )  # fmt: skip
    found, facts = levels_of(path)
    late = 0.48 if has_sound else 0
    assert [time for time, _ in found] == pytest.approx([late + 0.04 * (k + 0.5) for k in range(8)])
    assert facts["seconds"] == pytest.approx(0.32, abs=1e-3)


def test_frames_of_sound_and_pictures_cover_the_same_interval(tmp_path):
    sound = tone(300, 1.2, amplitude=0.5)
    path = write_media(tmp_path / "a.mkv", grey_levels(range(60, 210, 5)), sound, audio="pcm_s16le")
    pictures, _ = levels_of(path)
    sounds = extract_audio(path, AudioFeatureSettings()).frame_times
    assert pictures[0][0] == pytest.approx(float(sounds[0]), abs=0.03)
    assert pictures[-1][0] == pytest.approx(float(sounds[-1]), abs=0.03)


def test_the_facts_are_those_of_the_file_at_any_rate_asked_for(tmp_path):
    path = write_mp4(tmp_path / "a.mp4", moving_square(25, side=64), rotation=90)
    for rate in (2, 25, 60):
        _, facts = levels_of(path, rate)
        assert facts == {"seconds": 1.0, "frame_rate_hz": 25.0, "width_px": 64, "height_px": 64}


def test_the_size_on_record_is_that_of_the_upright_picture(tmp_path):
    path = write_mp4(tmp_path / "a.mp4", grey_levels((9, 9), 48, 64), rotation=90)
    assert levels_of(path)[1]["width_px"] == 48


@pytest.mark.parametrize(
    ("suffix", "codec", "pixels"),
    [(".mov", "png", "rgba"), (".mov", "qtrle", "argb"), (".mov", "prores_ks", "yuva444p10le"),
     (".mkv", "ffv1", "yuva420p"), (".webm", "libvpx-vp9", "yuva420p")],
)  # fmt: skip
def test_what_is_transparent_shows_a_grey_ground(tmp_path, suffix, codec, pixels):
    pictures = np.full((4, 48, 64, 4), 220, dtype=np.uint8)
    pictures[..., 3] = 255
    pictures[:, :, 32:] = (255, 0, 0, 0)
    path = write_media(tmp_path / f"a{suffix}", pictures, video=codec, pixels=pixels)
    for _, found in Pictures(path, 25):
        assert np.abs(found[:, :28].astype(int) - 220).max() < 12
        assert np.abs(found[:, 36:].astype(int) - 128).max() < 12


@pytest.mark.parametrize(("suffix", "codec", "pixels"), [(".mkv", "ffv1", "yuv420p"), (".avi", "mjpeg", "yuvj420p")])
def test_odd_sizes_are_read_whole(tmp_path, suffix, codec, pixels):
    path = write_media(tmp_path / f"a{suffix}", grey_levels((50, 90), 33, 47), video=codec, pixels=pixels)
    found = [picture for _, picture in Pictures(path, 25)]
    assert [picture.shape for picture in found] == [(33, 47, 3)] * 2
    assert [round(picture.mean() / 10) for picture in found] == [5, 9]


@pytest.mark.parametrize(("shape", "size"), [(Fraction(2, 1), (48, 128)), (Fraction(3, 4), (64, 64))])
def test_pixels_become_square_without_loss(tmp_path, shape, size):
    path = write_media(tmp_path / "a.mp4", grey_levels((50, 90)), pixel_shape=shape)
    pictures = Pictures(path, 25)
    assert {picture.shape[:2] for _, picture in pictures} == {size}
    assert (pictures.facts["height_px"], pictures.facts["width_px"]) == size


def test_interlaced_pictures_are_put_together(tmp_path):
    """A bar that moves between the two half pictures would come out as a comb."""
    pictures = np.full((8, 64, 96, 3), 30, dtype=np.uint8)
    for number, picture in enumerate(pictures):
        for half in range(2):
            start = 8 + 8 * number + 4 * half
            picture[half::2, start : start + 16] = 220
    options = {"x264-params": "tff=1:interlaced=1", "crf": "6"}
    interlaced = write_media(tmp_path / "a.mp4", pictures, options=options)
    progressive = write_media(tmp_path / "b.mp4", pictures, options={"crf": "6"})

    def combing(path):
        found = np.stack([picture for _, picture in Pictures(path, 25)]).astype(int)
        return np.abs(2 * found[:, 1:-1] - found[:, :-2] - found[:, 2:]).mean(), len(found), found

    comb, count, found = combing(interlaced)
    assert count == 8
    assert comb < 0.3 * combing(progressive)[0]
    assert found.max() > 200
    np.testing.assert_allclose([time for time, _ in levels_of(interlaced)[0]], (np.arange(8) + 0.5) / 25)


def frames(times, rate, seconds=0.04):
    shown = [Shown(time, seconds, number) for number, time in enumerate(times)]
    return [(round(time, 6), picture.picture) for time, picture in evenly(shown, rate)]


@pytest.mark.parametrize(
    ("times", "rate", "expected"),
    [
        ((0, 0.04, 0.08), 25, [(0.02, 0), (0.06, 1), (0.1, 2)]),
        ((0, 0.04, 0.08), 50, [(0.01, 0), (0.03, 0), (0.05, 1), (0.07, 1), (0.09, 2), (0.11, 2)]),
        ((0, 0.04, 0.08), 12.5, [(0.04, 1)]),
        ((0, 0.3), 10, [(0.05, 0), (0.15, 0), (0.25, 0)]),
        ((0.1, 0.14), 25, [(0.1, 0), (0.14, 1)]),
        ((0.11, 0.15), 25, [(0.14, 0), (0.18, 1)]),
        ((0, 0.033, 0.067, 0.1), 30, [(0.016667, 0), (0.05, 1), (0.083333, 2), (0.116667, 3)]),
        ((0,), 1, [(0.02, 0)]),
        ((5,), 1, [(5.02, 0)]),
        ((), 25, []),
    ],
)
def test_each_frame_shows_what_was_on_show(times, rate, expected):
    assert frames(times, rate) == expected

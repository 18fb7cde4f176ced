"""Media given as bytes, and what is in a file."""

from __future__ import annotations

import base64
import stat

import av
import numpy as np
import pytest
import soundfile
from rendered_media import encode_sound, moving_square, tone, write_mp4, write_sound_only_mp4, write_wav

from vavl.errors import ClipError, InputError
from vavl.media.media import Pictures
from vavl.media.media_bytes import media_file, modalities_in
from vavl.media.sound import read_sound


@pytest.mark.parametrize(
    ("content", "suffix"),
    [
        (b"RIFF\x00\x00\x00\x00WAVEfmt ", ".wav"),
        (b"RIFF\x00\x00\x00\x00AVI LIST", ""),
        (b"fLaC\x00", ".flac"),
        (b"OggS\x00", ".ogg"),
        (b"ID3\x04", ".mp3"),
        (b"\xff\xfb\x90", ".mp3"),
        (b"FORM\n\n\n\nAIFF", ".aiff"),
        (b"\x00\x00\x00\x20ftypisom", ""),
        (b"", ""),
    ],
)
def test_the_file_has_the_suffix_of_its_content(content, suffix):
    with media_file(content, "audio_bytes") as path:
        assert path.suffix == suffix
        assert path.read_bytes() == content
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not path.exists()


@pytest.mark.parametrize("form", [bytes, bytearray, memoryview, lambda raw: base64.b64encode(raw).decode()])
def test_bytes_come_in_any_form(form):
    raw = bytes(range(256))
    with media_file(form(raw), "audio_bytes") as path:
        assert path.read_bytes() == raw


@pytest.mark.parametrize(
    "form",
    [
        lambda raw: base64.encodebytes(raw).decode(),
        lambda raw: base64.encodebytes(raw).decode().replace("\n", "\r\n"),
        lambda raw: base64.urlsafe_b64encode(raw).decode(),
        lambda raw: base64.urlsafe_b64encode(raw).decode().rstrip("="),
        lambda raw: "data:audio/wav;base64," + base64.b64encode(raw).decode(),
        lambda raw: " data:audio/x-wav;codecs=1;base64," + base64.encodebytes(raw).decode(),
    ],
    ids=["lines", "crlf", "url_safe", "without_padding", "data_url", "data_url_in_lines"],
)
@pytest.mark.parametrize("length", [255, 256, 257])
def test_base64_is_read_as_it_comes(form, length):
    raw = bytes(number * 7 % 256 for number in range(length))
    with media_file(form(raw), "audio_bytes") as path:
        assert path.read_bytes() == raw


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("äöü", "audio_bytes: is a text that is not base64"),
        ("YWJj=YWJj", "not base64"),
        (5, "audio_bytes: is int, not bytes"),
        (b"0123456789", "audio_bytes: holds 10 bytes, at most 9 are taken"),
    ],
)
def test_other_things_are_refused(content, message, monkeypatch):
    monkeypatch.setattr("vavl.media.media_bytes.MOST_BYTES", 9)
    with pytest.raises(InputError, match=message), media_file(content, "audio_bytes"):
        pass


def test_an_error_of_the_file_speaks_of_the_bytes():
    with pytest.raises(ClipError, match=r"^video_bytes: audio: of 'video_bytes'") as caught:  # noqa: SIM117
        with media_file(b"abc", "video_bytes") as path:
            raise ClipError(str(path), "audio", f"of '{path}'", "none")
    assert not path.exists()
    with pytest.raises(ClipError, match=r"^other\.wav"), media_file(b"abc", "video_bytes"):
        raise ClipError("other.wav", "audio", "of another", "none")
    assert caught.value.fix == "none"


def test_what_is_in_a_file(tmp_path):
    sound, pictures = tone(300, 0.1), moving_square(2, side=32)
    assert modalities_in(write_wav(tmp_path / "a.wav", sound)) == ("audio",)
    assert modalities_in(write_mp4(tmp_path / "v.mp4", pictures)) == ("video",)
    assert modalities_in(write_mp4(tmp_path / "av.mp4", pictures, sound=sound)) == ("audio", "video")
    assert modalities_in(write_sound_only_mp4(tmp_path / "s.mp4", sound)) == ("audio",)
    soundfile.write(tmp_path / "a.flac", sound, 16000)
    assert modalities_in(tmp_path / "a.flac") == ("audio",)


def test_the_cover_of_a_song_is_no_video_and_no_picture_to_keep_time_with(tmp_path):
    """A music player's m4a: one picture, shown for as long as the sound lasts."""
    path = tmp_path / "song.m4a"
    with av.open(str(path), "w", format="mp4") as container:
        cover = container.add_stream("mjpeg", rate=25)
        cover.width = cover.height = 32
        cover.pix_fmt, cover.disposition = "yuvj420p", av.stream.Disposition.attached_pic
        sound = container.add_stream("aac", rate=16_000, layout="mono")
        picture = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
        container.mux(cover.encode(picture.reformat(format="yuvj420p")))
        container.mux(cover.encode())
        encode_sound(container, sound, tone(440, 1.0))
    assert modalities_in(path) == ("audio",)
    assert read_sound(path, 16_000).note is None
    with pytest.raises(ClipError, match="no video stream"):
        list(Pictures(path, 25))


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "media: the file does not exist"), (b"", "is empty"), (b"words " * 50, "media: cannot be decoded")],
)
def test_what_is_no_media_file_is_refused(tmp_path, content, message):
    path = tmp_path / "clip.mp4"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ClipError, match=message):
        modalities_in(path)

"""Broken and odd media files, each made by a rule, with what must become of it."""

from __future__ import annotations

import os
import socket
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import av
import numpy as np
import soundfile
from numpy.typing import NDArray
from rendered_media import grey_levels, moving_square, tone, write_media, write_mp4, write_sound_only_mp4, write_wav

HANDLED = None
Make = Callable[[Path], object]


@dataclass(frozen=True)
class OddFile:
    """One kind of odd file.

    Attributes:
        name: of the clip.
        suffix: of its file.
        make: writes the file to a path.
        reason: regular expression of the reason in quarantine; None where the file must be read.
        frames: that its features must have; None where any number will do.
    """

    name: str
    suffix: str
    make: Make
    reason: str | None = HANDLED
    frames: int | None = None


def voice(seconds: float = 0.4) -> NDArray:
    noise = 0.01 * np.random.default_rng(0).normal(size=round(seconds * 16_000))
    return tone(220, seconds, amplitude=0.4) + noise


def good_wav(path: Path) -> Path:
    return write_wav(path.with_suffix(".wav"), voice()).rename(path)


def good_flac(path: Path) -> Path:
    return write_wav(path.with_suffix(".flac"), voice()).rename(path)


def good_mp4(path: Path) -> Path:
    return write_mp4(path.with_suffix(".mp4"), moving_square(6, side=64), sound=voice(0.24)).rename(path)


def cut(whole: Make, at: int) -> Make:
    """The first bytes of a good file; the place is drawn by the seed ``at`` between 15 % and 90 %."""

    def make(path: Path) -> None:
        whole(path)
        content = path.read_bytes()
        share = np.random.default_rng(at).uniform(0.15, 0.9)
        path.write_bytes(content[: int(share * len(content))])

    return make


def patched(whole: Make, place: int, value: bytes) -> Make:
    """A good file with other bytes at one place: a header that lies."""

    def make(path: Path) -> None:
        whole(path)
        content = bytearray(path.read_bytes())
        content[place : place + len(value)] = value
        path.write_bytes(content)

    return make


def sound(samples: NDArray, rate_hz: int = 16_000, subtype: str = "PCM_16") -> Make:
    def make(path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, samples, rate_hz, subtype=subtype)

    return make


def content(data: bytes) -> Make:
    return lambda path: path.write_bytes(data)


def with_damage(whole: Make, seed: int) -> Make:
    """A good file with a run of noise in its middle."""

    def make(path: Path) -> None:
        whole(path)
        damaged = bytearray(path.read_bytes())
        generator = np.random.default_rng(seed)
        start = int(generator.uniform(0.3, 0.6) * len(damaged))
        length = min(400, len(damaged) // 4)
        damaged[start : start + length] = generator.bytes(length)
        path.write_bytes(damaged)

    return make


def with_damaged_picture(path: Path) -> None:
    """A good MP4 file with noise for its third picture, length and all: within a picture no decoder need notice it."""
    good_mp4(path)
    with av.open(str(path)) as container:
        picture = [packet for packet in container.demux(video=0) if packet.size][2]
        start, size = picture.pos, picture.size
    damaged = bytearray(path.read_bytes())
    damaged[start : start + size] = np.random.default_rng(4).bytes(size)
    path.write_bytes(damaged)


def pictures(frames: int, height: int, width: int) -> Make:
    """A lossless video of any size, without sound."""
    shown = grey_levels([number * 7 % 256 for number in range(frames)], height, width)
    return lambda path: write_media(path, shown, video="ffv1", pixels="yuv444p")


def header_alone(path: Path) -> None:
    """A Matroska file that ends where its first picture begins."""
    pictures(3, 64, 64)(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: whole.index(b"\x1f\x43\xb6\x75")])


def ten_thousand_frames(path: Path) -> None:
    shown = np.repeat(moving_square(1, side=32), 10_000, axis=0)
    write_media(path, shown, rate_hz=400, options={"preset": "ultrafast"})


def picture_bomb(path: Path, side: int = 30_000) -> None:
    """A PNG of a few kilobytes that states a picture of 2.7 GB."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes(1000 * (3 * side + 1)), 9)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b""))


def raw_video_of_huge_size(path: Path) -> None:
    path.write_bytes(b"YUV4MPEG2 W60000 H60000 F25:1 Ip A1:1 C420jpeg\nFRAME\n" + bytes(5000))


def late_picture(path: Path) -> None:
    """Three pictures, the last a week after the first."""
    shown_ms = (0, 40, 7 * 24 * 3_600_000)
    write_media(path, moving_square(3, side=64), video="ffv1", pixels="yuv444p", shown_ms=shown_ms)


def listening_socket(path: Path) -> None:
    # The path of a socket is limited to about 100 bytes; a relative one is not.
    before = os.open(".", os.O_RDONLY)
    try:
        os.chdir(path.parent)
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path.name)
    finally:
        os.fchdir(before)
        os.close(before)


_wav = voice()
_not_video = r"cannot be decoded|cut off|holds no frame|no video stream"
_not_a_file = "not a regular file"

AUDIO: tuple[OddFile, ...] = (
    OddFile("good", ".wav", good_wav, frames=19),
    OddFile("wav_cut_a", ".wav", cut(good_wav, 1), "cut off"),
    OddFile("wav_cut_b", ".wav", cut(good_wav, 2), "cut off"),
    OddFile("wav_cut_in_header", ".wav", lambda p: p.write_bytes(good_wav(p).read_bytes()[:30]), "cut off"),
    OddFile("flac_cut_a", ".flac", cut(good_flac, 3), "cut off|not a readable"),
    OddFile("flac_cut_b", ".flac", cut(good_flac, 4), "cut off|not a readable"),
    OddFile("mp4_cut", ".mp4", cut(good_mp4, 5), "cannot be decoded"),
    OddFile("flac_damaged", ".flac", with_damage(good_flac, 6), "damaged|cut off|not a readable"),
    OddFile("zero_bytes", ".wav", content(b""), "the file is empty"),
    OddFile("one_byte", ".wav", content(b"R"), "not a readable"),
    OddFile("only_zeros", ".wav", content(bytes(4096)), "not a readable"),
    OddFile("only_noise", ".flac", content(np.random.default_rng(7).bytes(4096)), "not a readable"),
    OddFile("text", ".wav", content(b"to be recorded on Monday\n" * 40), "not a readable"),
    OddFile("html", ".mp4", content(b"<!doctype html><title>404</title>" * 40), "cannot be decoded"),
    OddFile(
        "git_lfs_pointer",
        ".wav",
        content(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n"),
        "not a readable",
    ),
    OddFile("flac_named_wav", ".wav", good_flac, frames=19),
    OddFile("wav_named_flac", ".flac", good_wav, frames=19),
    OddFile("wav_named_mp4", ".mp4", good_wav, frames=19),
    OddFile("mp4_named_wav", ".wav", good_mp4, "not a readable"),
    OddFile("no_audio_stream", ".mp4", partial(write_mp4, pictures=moving_square(3, side=64)), "no audio stream"),
    OddFile("riff_size_lies", ".wav", patched(good_wav, 4, b"\xff\xff\xff\x00"), "cut off"),
    OddFile("data_size_lies", ".wav", patched(good_wav, 40, b"\xff\xff\xff\x00"), "cut off"),
    OddFile("rate_zero", ".wav", patched(good_wav, 24, bytes(4)), "sample rate of 0|not a readable"),
    OddFile("rate_huge", ".wav", patched(good_wav, 24, b"\xfb\xff\xff\x7f"), "sample rate"),
    OddFile("rate_one", ".wav", patched(good_wav, 24, b"\x01\x00\x00\x00"), "sample rate"),
    OddFile("channels_zero", ".wav", patched(good_wav, 22, bytes(2)), "not a readable"),
    OddFile("channels_65535", ".wav", patched(good_wav, 22, b"\xff\xff"), "not a readable"),
    OddFile("bits_zero", ".wav", patched(good_wav, 34, bytes(2)), "not a readable|zero samples"),
    OddFile("unknown_coding", ".wav", patched(good_wav, 20, b"\x99\x77"), "not a readable"),
    OddFile("no_samples", ".wav", sound(np.zeros(0)), "zero samples"),
    OddFile("no_samples_flac", ".flac", sound(np.zeros(0)), "zero samples|not a readable|the file is empty"),
    OddFile("one_sample", ".wav", sound(np.array([0.5])), HANDLED),
    OddFile("nan", ".wav", sound(np.where(np.arange(6400) == 99, np.nan, _wav), subtype="FLOAT"), "NaN"),
    OddFile("infinite", ".wav", sound(np.where(np.arange(6400) == 99, np.inf, _wav), subtype="FLOAT"), "infinite"),
    OddFile("enormous", ".wav", sound(1e30 * _wav, subtype="FLOAT"), "infinite|louder|NaN"),
    OddFile("one_direction", ".wav", sound(np.full(6400, 0.5)), frames=19),
    OddFile("silence", ".wav", sound(np.zeros(6400)), "silence from start to end"),
    OddFile("eight_bit", ".wav", sound(_wav, subtype="PCM_U8"), frames=19),
    OddFile("double", ".wav", sound(_wav, subtype="DOUBLE"), frames=19),
    OddFile("adpcm", ".wav", sound(_wav, subtype="IMA_ADPCM"), HANDLED),
    OddFile("sixty_four_channels", ".wav", sound(np.repeat(_wav[:, None], 64, axis=1)), frames=19),
    OddFile("rate_prime", ".wav", sound(_wav, rate_hz=44_101), HANDLED),
    OddFile("too_long", ".wav", sound(np.zeros(40 * 8000, np.int16), rate_hz=8000), "longer than 30 s"),
    OddFile("fifo", ".wav", os.mkfifo, _not_a_file),
    OddFile("socket", ".wav", listening_socket, _not_a_file),
)

VIDEO: tuple[OddFile, ...] = (
    OddFile("good", ".mp4", good_mp4, frames=6),
    OddFile("mp4_cut_a", ".mp4", cut(good_mp4, 1), _not_video),
    OddFile("mp4_cut_b", ".mp4", cut(good_mp4, 2), _not_video),
    OddFile("mkv_cut", ".mkv", cut(pictures(12, 64, 64), 3), _not_video),
    OddFile("mp4_damaged", ".mp4", with_damaged_picture, "damaged|cannot be decoded|cut off"),
    OddFile("zero_bytes", ".mp4", content(b""), "the file is empty"),
    OddFile("only_noise", ".mp4", content(np.random.default_rng(7).bytes(4096)), "cannot be decoded"),
    OddFile("text", ".avi", content(b"00:00:01,000 --> 00:00:02,000\nhello\n"), _not_video),
    OddFile("mp4_named_avi", ".avi", good_mp4, frames=6),
    OddFile("sound_only", ".mp4", partial(write_sound_only_mp4, sound=voice()), "no video stream"),
    OddFile("wav_named_mp4", ".mp4", good_wav, "no video stream"),
    OddFile("no_pictures", ".mkv", header_alone, _not_video),
    OddFile("single_frame", ".mkv", pictures(1, 64, 64), frames=1),
    OddFile("ten_thousand_frames", ".mp4", ten_thousand_frames, frames=625),
    OddFile("one_pixel", ".mkv", pictures(3, 1, 1), HANDLED),
    OddFile("odd_sides", ".mkv", pictures(3, 33, 47), frames=3),
    OddFile("ribbon", ".mkv", pictures(3, 2, 2000), HANDLED),
    OddFile("picture_bomb", ".mp4", picture_bomb, "cannot be decoded|frames of"),
    OddFile("huge_declared_size", ".avi", raw_video_of_huge_size, "frames of|cannot be decoded"),
    OddFile("a_week_of_nothing", ".mkv", late_picture, "longer than|gap"),
    OddFile("fifo", ".mp4", os.mkfifo, _not_a_file),
)

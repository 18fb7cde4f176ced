"""One sound in every container, coding and form of header that corpora come in, written by PyAV."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray
from rendered_media import RATE_HZ, encode_sound

Form = Callable[[Path, NDArray], None]
"""Writes a stereo or mono sound (sample, channel) at RATE_HZ into a file."""


class _Pipe(io.RawIOBase):
    """A file that cannot go back, as a pipe or a socket: a writer cannot correct its header."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")

    def writable(self) -> bool:
        return True

    def write(self, content: object) -> int:  # type: ignore[override]
        return self._file.write(bytes(content))  # type: ignore[call-overload]

    def close(self) -> None:
        self._file.close()
        super().close()


def coded(
    muxer: str, codec: str, *, piped: bool = False, rate_hz: int = RATE_HZ,
    codec_options: dict[str, str] | None = None, **options: str,
) -> Form:  # fmt: skip
    """Return the form that FFmpeg's ``muxer`` and ``codec`` write; ``options`` are the muxer's."""

    def write(path: Path, samples: NDArray) -> None:
        target = _Pipe(path) if piped else str(path)
        layout = "stereo" if samples.shape[1] == 2 else "mono"
        with av.open(target, "w", format=muxer, options=options) as container:
            stream = container.add_stream(codec, rate=rate_hz, layout=layout, options=codec_options or {})
            encode_sound(container, stream, samples, rate_hz=RATE_HZ)
        if piped:
            target.close()  # type: ignore[union-attr]

    return write


def joined(form: Form) -> Form:
    """Return the form of two parts as ``cat first second`` leaves them."""

    def write(path: Path, samples: NDArray) -> None:
        parts = []
        for half in np.array_split(samples, [len(samples) // 3]):
            form(path, half)
            parts.append(path.read_bytes())
        path.write_bytes(b"".join(parts))

    return write


def wav_sizes(riff: int | None = None, data: int | None = None, *, odd: bool = False) -> Form:
    """Return 16-bit (``odd``: 8-bit, odd length) wav whose sizes are what is given; None leaves them right."""

    def write(path: Path, samples: NDArray) -> None:
        codec = "pcm_u8" if odd else "pcm_s16le"
        coded("wav", codec, fflags="+bitexact")(path, samples[: len(samples) - odd, :1] if odd else samples)
        content = bytearray(path.read_bytes())
        place = content.index(b"data")
        if odd:
            content = content[: place + 8 + len(samples) - 1]  # without the pad byte
        size = len(content) - 8
        content[4:8] = ((size + riff if riff is not None and abs(riff) < 1000 else riff or size) % 2**32).to_bytes(
            4, "little"
        )
        if data is not None:
            content[place + 4 : place + 8] = (data % 2**32).to_bytes(4, "little")
        path.write_bytes(content)

    return write


FORMS: dict[str, Form] = {
    **{f"{codec}.wav": coded("wav", codec) for codec in (
        "pcm_u8", "pcm_s16le", "pcm_s24le", "pcm_s32le", "pcm_f32le", "pcm_f64le", "pcm_alaw", "pcm_mulaw",
        "adpcm_ima_wav", "adpcm_ms", "adpcm_yamaha", "libmp3lame",
    )},
    "ac3_inside.wav": coded("wav", "ac3", rate_hz=48_000),
    "flac.flac": coded("flac", "flac"),
    "flac_piped.flac": coded("flac", "flac", piped=True),
    "flac.ogg": coded("ogg", "flac"),
    "flac.mkv": coded("matroska", "flac"),
    "alac.caf": coded("caf", "alac"),
    "alac.m4a": coded("ipod", "alac"),
    "pcm_s16be.caf": coded("caf", "pcm_s16be"),
    "pcm_s16be_piped.caf": coded("caf", "pcm_s16be", piped=True),
    "pcm_s16be.aiff": coded("aiff", "pcm_s16be"),
    "pcm_s16be.au": coded("au", "pcm_s16be"),
    "pcm_s16be_piped.au": coded("au", "pcm_s16be", piped=True),
    "pcm_s16le.w64": coded("w64", "pcm_s16le"),
    "pcm_s16le_rf64.wav": coded("wav", "pcm_s16le", rf64="always"),
    "pcm_s16le_piped.wav": coded("wav", "pcm_s16le", piped=True),
    "pcm_s16le.mov": coded("mov", "pcm_s16le"),
    "pcm_s16le.avi": coded("avi", "pcm_s16le"),
    "pcm_s16le.mkv": coded("matroska", "pcm_s16le"),
    "mp3.mp3": coded("mp3", "libmp3lame"),
    "mp3_without_index.mp3": coded("mp3", "libmp3lame", write_xing="0"),
    "mp3_vbr.mp3": coded("mp3", "libmp3lame", codec_options={"abr": "1"}),
    "mp3_vbr_without_index.mp3": coded("mp3", "libmp3lame", codec_options={"abr": "1"}, write_xing="0"),
    "mp3_vbr_piped.mp3": coded("mp3", "libmp3lame", codec_options={"abr": "1"}, piped=True),
    "mp3_without_tag.mp3": coded("mp3", "libmp3lame", id3v2_version="0", write_xing="0"),
    "mp3_joined.mp3": joined(coded("mp3", "libmp3lame")),
    "mp3_joined_without_index.mp3": joined(coded("mp3", "libmp3lame", write_xing="0")),
    "mp3_joined_piped.mp3": joined(coded("mp3", "libmp3lame", piped=True)),
    "mp3_44100.mp3": coded("mp3", "libmp3lame", rate_hz=44_100),
    "mp3.mkv": coded("matroska", "libmp3lame"),
    "mp3.mp4": coded("mp4", "libmp3lame", rate_hz=44_100),
    "mp3.avi": coded("avi", "libmp3lame"),
    "mp3.flv": coded("flv", "libmp3lame", rate_hz=44_100),
    "mp2.mp2": coded("mp2", "mp2", rate_hz=32_000),
    "mp2.ts": coded("mpegts", "mp2", rate_hz=32_000),
    "aac.m4a": coded("ipod", "aac"),
    "aac.mp4": coded("mp4", "aac"),
    "aac_fragmented.mp4": coded("mp4", "aac", movflags="frag_keyframe+empty_moov"),
    "aac_faststart.mp4": coded("mp4", "aac", movflags="faststart"),
    "aac.mov": coded("mov", "aac"),
    "aac.aac": coded("adts", "aac"),
    "aac.mkv": coded("matroska", "aac"),
    "aac.ts": coded("mpegts", "aac"),
    "aac.flv": coded("flv", "aac"),
    "aac_piped.mkv": coded("matroska", "aac", piped=True),
    "opus.opus": coded("opus", "libopus", rate_hz=48_000),
    "opus_chained.opus": joined(coded("opus", "libopus", rate_hz=48_000)),
    "opus.webm": coded("webm", "libopus", rate_hz=48_000),
    "opus_live.webm": coded("webm", "libopus", rate_hz=48_000, piped=True),
    "opus.mp4": coded("mp4", "libopus", rate_hz=48_000),
    "ac3.ac3": coded("ac3", "ac3", rate_hz=48_000),
    "ac3.mkv": coded("matroska", "ac3", rate_hz=48_000),
    "eac3.mp4": coded("mp4", "eac3", rate_hz=48_000),
    "riff_plus_8.wav": wav_sizes(riff=8),
    "riff_minus_1.wav": wav_sizes(riff=2**32 - 1),
    "riff_pad.wav": wav_sizes(riff=1, odd=True),
    "data_0.wav": wav_sizes(data=0),
    "data_minus_1.wav": wav_sizes(riff=2**32 - 1, data=-1),
    "data_sox_pipe.wav": wav_sizes(riff=0x7FFFF024, data=0x7FFFF000),
    "data_int_max.wav": wav_sizes(riff=2**32 - 1, data=2**31 - 1),
}  # fmt: skip
"""By file name."""

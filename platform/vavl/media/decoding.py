"""What the readers of sound and of pictures share: time 0, errors, and whether a file is all there.

The last is seen in the structure of a container. Nothing is decoded, and no length that a header states for playing
is believed: what counts is whether the chunks, boxes, elements or pages that hold the samples end within the file.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import av

from vavl.errors import ClipError, NoSignalError

MOST_PIXELS = 1 << 26
"""A header may state anything; a picture beyond this takes all memory before it is read."""

OPTIONS = {"max_pixels": str(MOST_PIXELS)}
"""For FFmpeg, of containers and of decoders."""

_PERCEIVE = {"audio": "listen to", "video": "look at", "media": "play"}


def unusable(path: Path, field: str, problem: str) -> ClipError:
    """Return the error for a file that gives no ``field``: "audio", "video" or, where both are meant, "media"."""
    fix = f"{_PERCEIVE[field]} the file; make it again from its source, or leave the clip out"
    return ClipError(str(path), field, problem, fix)


def no_signal(path: Path, field: str, problem: str) -> NoSignalError:
    """Return the error for a modality that is there and carries nothing."""
    fix = f"do nothing where the clip has no {field}; else {unusable(path, field, problem).fix}"
    return NoSignalError(str(path), field, problem, fix)


def require_media_file(path: Path, field: str) -> None:
    """Refuse what is no file with content, before a library opens it: a pipe would never answer.

    Raises:
        ClipError: nothing is there, it is a directory, pipe, socket or device, or it holds no byte.
    """
    if not path.exists():
        raise ClipError(str(path), field, "the file does not exist", "restore the file")
    if not path.is_file():
        raise ClipError(
            str(path), field, "not a regular file", "remove this directory, pipe, socket or device, or rename it"
        )
    if path.stat().st_size == 0:
        raise ClipError(str(path), field, "the file is empty", "restore the file, or leave the clip out")


def presentation_start(container: Any) -> float:
    """Return the time at which a container's presentation starts, in seconds: time 0 of both modalities of a clip.

    It is that of the stream that starts first; a stream that starts later is late by the difference.
    """
    return 0.0 if container.start_time is None else float(container.start_time) / av.time_base


def video_streams(container: Any) -> list[Any]:
    """Return the streams of pictures; the cover of a song is none."""
    cover = av.stream.Disposition.attached_pic
    return [stream for stream in container.streams.video if not stream.disposition & cover]


@contextlib.contextmanager
def ffmpeg_errors(path: Path, field: str) -> Iterator[None]:
    """Say of an error inside FFmpeg which file provoked it. Raises ClipError in place of FFmpeg's."""
    try:
        yield
    except (av.error.FFmpegError, ValueError) as error:
        raise unusable(path, field, f"cannot be decoded: {error}") from error


def too_long(path: Path, field: str, longest_s: float) -> ClipError:
    """Return the error for a file that is longer than the settings allow."""
    where = f"features.{field}" + (" (of functionals: features.audio.spectra)" if field == "audio" else "")
    fix = f"cut the clip, or raise longest_clip_s of {where}"
    return ClipError(str(path), field, f"longer than {longest_s:g} s", fix)


_MOST_PARTS = 1 << 20
# Some writers count their own header, a pad byte or chunks that never came.
_RIFF_SLACK = 4096
_BOXES_WITH_SAMPLES = {b"mdat", b"moof", b"moov"}
_EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"


@dataclass(frozen=True)
class _Chunks:
    """How a container writes its chunks, one after the other: a name, a size, the content."""

    first: int  # byte of the first chunk
    samples: bytes | None = None  # name of the chunk with the samples; what follows it does not count
    name_bytes: int = 4  # name_bytes, size_bytes, order: of the head of a chunk
    size_bytes: int = 4
    order: Literal["big", "little"] = "big"
    step: int = 2  # chunks begin at its multiples
    counts_head: bool = False  # the size is that of head and content

    def is_open(self, size: int) -> bool:
        """Tell whether a size is that of a writer that could not go back to correct it: to the end of the file."""
        if self.size_bytes == 8:
            return size >= 1 << 62
        return 0x7FFF0000 <= size < 0x80000000 or size >= 0xFFFF0000


def check_whole(path: Path, field: str) -> None:
    """Refuse a file that ends before its container says: wav, Wave64, AVI, AIFF, AU, CAF, mp4, Matroska, Ogg.

    Sizes that a writer left open (live recordings, pipes) mean the end of the file. Other formats pass. The message
    names ``field``: "audio", "video" or "media".

    Raises:
        ClipError: cut off.
    """
    with path.open("rb") as stream:
        end = os.fstat(stream.fileno()).st_size
        head = stream.read(12)
        stream.seek(0)
        wanted = _end_of(stream, head, end)
    if wanted > end:
        raise unusable(path, field, f"cut off: {end} of {wanted} bytes")


def _end_of(stream: BinaryIO, head: bytes, end: int) -> int:
    """Return where the file ought to end at least; 0 where nothing tells."""
    if head[:4] in _CHUNKS:
        return _chunks_end(stream, end, _CHUNKS[head[:4]])
    if head[:4] in _ENDS:
        return _ENDS[head[:4]](stream, end)
    is_mp4 = head[4:8] in {b"ftyp", b"wide", b"free", b"skip", *_BOXES_WITH_SAMPLES}
    return _boxes_end(stream, end) if is_mp4 else 0


def _chunks_end(stream: BinaryIO, end: int, form: _Chunks) -> int:
    """Return the end of the first chunk that goes beyond the file's, or of the samples; 0 where a size is left open."""
    place, long_size = form.first, 0
    for _ in range(_MOST_PARTS):
        stream.seek(place)
        head = stream.read(form.name_bytes + form.size_bytes)
        if len(head) < form.name_bytes + form.size_bytes:
            return 0
        size = int.from_bytes(head[form.name_bytes :], form.order)
        if head[:4] == b"ds64":  # of RF64: the size of the samples, which the chunk leaves open
            long_size = int.from_bytes(stream.read(16)[8:], "little")
        if form.is_open(size):
            size = long_size or -1
        elif form.counts_head:
            size -= len(head)
        if size < 0:
            return 0
        place += len(head) + size
        if place > end or head[:4] == form.samples:
            return place
        place += -place % form.step
    return 0


def _riff_end(stream: BinaryIO, end: int) -> int:
    head = stream.read(12)
    if len(head) < 12:
        return 0
    samples = b"data" if head[8:] == b"WAVE" else None
    form = _Chunks(12, samples, order="big" if head[:4] == b"RIFX" else "little")
    wanted = _chunks_end(stream, end, form)
    size = int.from_bytes(head[4:8], form.order)
    if wanted > end or form.is_open(size):
        return wanted
    return 8 + size if 8 + size > end + _RIFF_SLACK else 0


def _au_end(stream: BinaryIO, _: int) -> int:
    head = stream.read(12)
    start, size = int.from_bytes(head[4:8], "big"), int.from_bytes(head[8:12], "big")
    return 0 if size == 0xFFFFFFFF else start + size


def _boxes_end(stream: BinaryIO, end: int) -> int:
    """Walk the boxes at the top of an mp4; one without an index is left to FFmpeg, which knows why it fails."""
    place, has_index = 0, False
    for _ in range(_MOST_PARTS):
        stream.seek(place)
        box = stream.read(16)
        if len(box) < 8 or not box[4:8].isalnum():
            return 0
        size = int.from_bytes(box[:4], "big")
        if size == 1:
            size = int.from_bytes(box[8:16], "big")
        if size < 8:
            return 0
        has_index = has_index or box[4:8] == b"moov"
        if place + size > end:
            return place + size if has_index and box[4:8] in _BOXES_WITH_SAMPLES else 0
        place += size
    return end


def _matroska_end(stream: BinaryIO, _: int) -> int:
    stream.seek(4)
    stream.seek(_variable_size(stream) or 0, os.SEEK_CUR)
    if stream.read(4) != _SEGMENT:
        return 0
    size = _variable_size(stream)
    return 0 if size is None else stream.tell() + size


def _variable_size(stream: BinaryIO) -> int | None:
    """Return a size as EBML writes it; None where it is left open."""
    first = stream.read(1)
    if not first or first[0] == 0:
        return None
    length = 8 - first[0].bit_length()
    value = int.from_bytes(bytes([first[0] & (0x7F >> length)]) + stream.read(length), "big")
    return None if value == (1 << (7 * (length + 1))) - 1 else value


def _ogg_end(stream: BinaryIO, end: int) -> int:
    place = 0
    while place < end:
        stream.seek(place)
        page = stream.read(27)
        if page[:4] != b"OggS"[: len(page)]:
            return 0
        if len(page) < 27:
            return place + 27
        segments = stream.read(page[26])
        if len(segments) < page[26]:
            return place + 27 + page[26]
        place += 27 + len(segments) + sum(segments)
    return place


_CHUNKS = {
    b"FORM": _Chunks(12, b"SSND"),
    b"caff": _Chunks(8, b"data", size_bytes=8, step=1),
    # Sony's Wave64.
    b"riff": _Chunks(40, b"data", name_bytes=16, size_bytes=8, order="little", step=8, counts_head=True),
}
_ENDS: dict[bytes, Callable[[BinaryIO, int], int]] = {
    **dict.fromkeys((b"RIFF", b"RIFX", b"RF64", b"BW64"), _riff_end),
    b".snd": _au_end,
    b"OggS": _ogg_end,
    _EBML: _matroska_end,
}
"""By the first four bytes of a file."""

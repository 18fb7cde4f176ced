"""Whether a media file is all there, by the structure of its container.

Nothing is decoded, and no length that a header states for playing is believed: what counts is whether the
chunks, boxes, elements or pages that hold the samples end within the file.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Literal

from vavl.errors import ClipError

_FIX = "play the file; make it again from its source, or leave the clip out"
_MOST_PARTS = 1 << 20
# Sizes of a RIFF chunk from here on come from writers that could not go back to correct them: to the end of the file.
_UNKNOWN_RIFF = (0x7FFF0000, 0xFFFF0000)
# Some writers count their own header, a pad byte or chunks that never came.
_RIFF_SLACK = 4096
_BOXES_WITH_SAMPLES = {b"mdat", b"moof", b"moov"}
_EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"


def check_whole(path: Path, field: str) -> None:
    """Refuse a file that ends before its container says: wav, Wave64, AVI, AIFF, AU, CAF, mp4, Matroska, Ogg.

    Sizes that a writer left open (live recordings, pipes) mean the end of the file. Other formats pass.

    Args:
        path: of the file.
        field: "audio", "video" or "media", for the message.

    Raises:
        ClipError: cut off.
    """
    with path.open("rb") as stream:
        end = os.fstat(stream.fileno()).st_size
        head = stream.read(12)
        stream.seek(0)
        wanted = _end_of(stream, head, end)
    if wanted > end:
        raise ClipError(str(path), field, f"cut off: {end} of {wanted} bytes", _FIX)


def _end_of(stream: BinaryIO, head: bytes, end: int) -> int:
    """Return where the file ought to end at least; 0 where nothing tells."""
    if head[:4] in _ENDS:
        return _ENDS[head[:4]](stream, end)
    return (
        _boxes_end(stream, end)
        if head[4:8] in {b"ftyp", b"wide", b"free", b"skip", *_BOXES_WITH_SAMPLES}
        else 0
    )


def _riff_end(stream: BinaryIO, end: int) -> int:
    head = stream.read(12)
    order: Literal["big", "little"] = "big" if head[:4] == b"RIFX" else "little"
    if len(head) < 12:
        return 0
    whole = 8 + _riff_size(head[4:8], order, end - 8)
    is_wave, long_size, place = head[8:12] == b"WAVE", 0, 12
    for _ in range(_MOST_PARTS):
        stream.seek(place)
        chunk = stream.read(8)
        if len(chunk) < 8:
            break
        start = place + 8
        size = _riff_size(chunk[4:8], order, long_size or end - start)
        if chunk[:4] == b"ds64":
            long_size = int.from_bytes(stream.read(16)[8:], "little")
        if start + size > end:
            return start + size
        if is_wave and chunk[:4] == b"data":
            break
        place = start + size + size % 2
    return whole if whole > end + _RIFF_SLACK else 0


def _riff_size(raw: bytes, order: Literal["big", "little"], to_the_end: int) -> int:
    size = int.from_bytes(raw, order)
    is_open = any(lowest <= size < lowest + 0x10000 for lowest in _UNKNOWN_RIFF)
    return max(0, to_the_end) if is_open else size


def _form_end(stream: BinaryIO, end: int) -> int:
    place = 12
    for _ in range(_MOST_PARTS):
        stream.seek(place)
        chunk = stream.read(8)
        if len(chunk) < 8:
            return 0
        size = int.from_bytes(chunk[4:8], "big")
        if chunk[:4] == b"SSND":
            return 0 if size >= _UNKNOWN_RIFF[0] else place + 8 + size
        place += 8 + size + size % 2
    return end


def _caf_end(stream: BinaryIO, end: int) -> int:
    place = 8
    for _ in range(_MOST_PARTS):
        stream.seek(place)
        chunk = stream.read(12)
        if len(chunk) < 12:
            return 0
        size = int.from_bytes(chunk[4:12], "big", signed=True)
        if size < 0:
            return 0
        if chunk[:4] == b"data":
            return place + 12 + size
        place += 12 + size
    return end


def _au_end(stream: BinaryIO, _: int) -> int:
    head = stream.read(12)
    start, size = int.from_bytes(head[4:8], "big"), int.from_bytes(head[8:12], "big")
    return 0 if size == 0xFFFFFFFF else start + size


def _w64_end(stream: BinaryIO, end: int) -> int:
    """Walk the chunks of Sony's Wave64: names of 16 bytes, sizes with their header, places in steps of 8."""
    place = 40
    for _ in range(_MOST_PARTS):
        stream.seek(place)
        chunk = stream.read(24)
        size = int.from_bytes(chunk[16:24], "little")
        if len(chunk) < 24 or size < 24:
            return 0
        if chunk[:4] == b"data":
            return place + size if size < 1 << 62 else 0
        place += -(-size // 8) * 8
    return end


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


_ENDS: dict[bytes, Callable[[BinaryIO, int], int]] = {
    b"RIFF": _riff_end, b"RIFX": _riff_end, b"RF64": _riff_end, b"BW64": _riff_end, b"riff": _w64_end,
    b"FORM": _form_end, b"caff": _caf_end, b".snd": _au_end, b"OggS": _ogg_end, _EBML: _matroska_end,
}  # fmt: skip
"""By the first four bytes of a file."""

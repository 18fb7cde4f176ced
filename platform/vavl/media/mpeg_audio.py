"""What lies between the frames of MPEG audio: tags, and the headers of parts that were joined to one file."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import av

# A decoder's own delay, by the convention of LAME's tag.
_DECODER_DELAY = 529
_INFO = re.compile(rb"Xing|Info")

_KBITS = {
    (True, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}  # fmt: skip
"""By (is MPEG-1, layer), of ISO 11172-3 and 13818-3."""


def frame_bytes(frame: bytes) -> int:
    """Return the length that the header of an MPEG audio frame states; 0 where it is no header, or states none."""
    if len(frame) < 4 or frame[0] != 0xFF or frame[1] & 0xE0 != 0xE0:
        return 0
    version, layer = frame[1] >> 3 & 3, 4 - (frame[1] >> 1 & 3)
    rate_index, bits_index = frame[2] >> 2 & 3, frame[2] >> 4
    if version == 1 or layer == 4 or rate_index == 3 or bits_index in (0, 15):
        return 0
    rate = (44_100, 48_000, 32_000)[rate_index] // {3: 1, 2: 2, 0: 4}[version]
    bits = 1000 * _KBITS[version == 3, layer][bits_index - 1]
    padding = frame[2] >> 1 & 1
    if layer == 1:
        return (12 * bits // rate + padding) * 4
    return (72 if layer == 3 and version != 3 else 144) * bits // rate + padding


class MpegParts:
    """Decodes the packets of a file; where a second part begins, its tags are no sound and its delay is left out.

    FFmpeg does this for the first part of a file.

    Attributes:
        skip: samples to drop before the next ones; the caller sets it back.
        padding: samples that the encoder added at the end of the newest part.
        left_out_s: by which time stamps are ahead of the sound, since tags and delays are left out.
    """

    def __init__(self) -> None:
        self.skip = self.padding = 0
        self.left_out_s = 0.0

    def frames(self, packet: Any) -> Iterator[Any]:
        """Decode a packet. Raises ValueError for the rest of a cut-off frame, FFmpegError for a damaged one."""
        content = bytes(packet) if packet.size else b""
        rest = _without_tags(content)
        if rest and len(rest) < frame_bytes(rest):
            raise ValueError(f"cut off within its last frame: {len(rest)} of {frame_bytes(rest)} bytes")
        if rest == content:
            yield from packet.decode()
        elif rest and (info := _INFO.search(rest, 0, 64)):
            self.skip, self.padding = _delay_and_padding(rest[info.end() :])
            rate_hz = packet.stream.codec_context.sample_rate or 1
            self.left_out_s += float((packet.duration or 0) * packet.time_base) + self.skip / rate_hz
        elif rest:
            part = av.Packet(rest)
            part.time_base, part.pts = packet.time_base, None
            yield from packet.stream.codec_context.decode(part)


def _delay_and_padding(info: bytes) -> tuple[int, int]:
    """Return what LAME's tag says that was added before and after the sound, in samples; 0 without a tag."""
    flags = int.from_bytes(info[:4], "big")
    start = 4 + 4 * (flags & 1) + 4 * (flags >> 1 & 1) + 100 * (flags >> 2 & 1) + 4 * (flags >> 3 & 1)
    raw = info[start + 21 : start + 24]
    if len(raw) < 3 or not info[start : start + 4].strip(b"\0"):
        return 0, 0
    delay, padding = raw[0] << 4 | raw[1] >> 4, (raw[1] & 15) << 8 | raw[2]
    return delay + _DECODER_DELAY, max(0, padding - _DECODER_DELAY)


def _without_tags(content: bytes) -> bytes:
    """Return a packet without the ID3 and APE tags at its start."""
    while content[:3] == b"ID3" and len(content) >= 10:
        size = 0
        for byte in content[6:10]:
            size = size << 7 | byte & 0x7F
        content = content[10 + size :]
    return b"" if content[:3] == b"TAG" or content[:8] == b"APETAGEX" else content

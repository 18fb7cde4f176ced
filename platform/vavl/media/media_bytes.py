"""Media that a caller has as bytes, or as one file with audio and video."""

from __future__ import annotations

import base64
import binascii
import contextlib
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import av

from vavl.errors import InputError, VavlError
from vavl.media.decoding import OPTIONS, ffmpeg_errors, require_media_file, video_streams

MOST_BYTES = 1 << 30
"""Of one file given as bytes; a larger one is to be given by its path."""

_DATA_URL = re.compile(r"\s*data:[^,]*;base64,", re.IGNORECASE)
# The readers of sound look at the suffix: it says which checks a file has to pass.
_SUFFIXES = {
    ".wav": re.compile(rb"(RIFF|RF64)....WAVE", re.DOTALL),
    ".flac": re.compile(rb"fLaC"),
    ".ogg": re.compile(rb"OggS"),
    ".mp3": re.compile(rb"ID3|\xff[\xf2\xf3\xfb]"),
    ".aiff": re.compile(rb"FORM....AIF", re.DOTALL),
}


@contextlib.contextmanager
def media_file(content: bytes | bytearray | memoryview | str, field: str) -> Iterator[Path]:
    """Lay the bytes of a media file down as a file that is gone when the block ends.

    A file serves every extractor, in the way in which it read the training's files. It lies in the directory for
    temporary files (``TMPDIR``), and its owner alone may read it. A text holds the bytes in base64, as JSON carries
    them: in lines, URL-safe, or as a data URL. ``field`` is for messages.

    Raises:
        InputError: neither bytes nor base64, or more than MOST_BYTES. What the block raises about the file
            names ``field`` in its stead.
    """
    raw = _decoded(content, field)
    if len(raw) > MOST_BYTES:
        raise InputError(
            field, "", f"holds {len(raw)} bytes, at most {MOST_BYTES} are taken", "give the path of the file"
        )
    with tempfile.NamedTemporaryFile(prefix="vavl-", suffix=suffix_of(raw)) as file:
        file.write(raw)
        file.flush()
        try:
            yield Path(file.name)
        except VavlError as error:
            if error.file != file.name:
                raise
            problem = error.problem.replace(file.name, field)  # FFmpeg repeats it
            raise type(error)(field, error.field, problem, error.fix) from None


def modalities_in(path: Path) -> tuple[str, ...]:
    """Return which of "audio" and "video" a media file holds; a song's cover is no video.

    Raises:
        ClipError: no such file, or not a media file.
    """
    require_media_file(path, "media")
    with ffmpeg_errors(path, "media"), av.open(str(path), options=OPTIONS) as container:
        streams = {"audio": container.streams.audio, "video": video_streams(container)}
        return tuple(modality for modality, found in streams.items() if found)


def _decoded(content: bytes | bytearray | memoryview | str, field: str) -> bytes | bytearray | memoryview:
    if isinstance(content, (bytes, bytearray, memoryview)):
        return content
    problem = f"is {type(content).__name__}, not bytes"
    if isinstance(content, str):
        with contextlib.suppress(binascii.Error, ValueError):
            return _from_base64(content)
        problem = "is a text that is not base64"
    raise InputError(field, "", problem, "give the bytes of the file, or base64 of them")


def _from_base64(text: str) -> bytes:
    """Decode base64 as it comes: in lines (RFC 2045), in the URL-safe alphabet, without padding, as a data URL."""
    bare = re.sub(r"\s+", "", _DATA_URL.sub("", text, count=1)).rstrip("=")
    bare = bare.replace("-", "+").replace("_", "/")
    return base64.b64decode(bare + "=" * (-len(bare) % 4), validate=True)


def suffix_of(content: bytes | bytearray | memoryview) -> str:
    """Return the suffix of a kind of audio file by its first bytes; "" for any other content."""
    start = bytes(content[:12])
    return next((suffix for suffix, magic in _SUFFIXES.items() if magic.match(start)), "")

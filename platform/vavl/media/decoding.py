"""What the readers of sound and of pictures share."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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

"""What media files are: rates and sizes from their heads, the length from their packets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import soundfile

from vavl.errors import ClipError
from vavl.media.decoded_sound import packet_end_s, sound_length
from vavl.media.decoding import OPTIONS, presentation_start, require_media_file

_GOLDEN = 0.618034


@dataclass(frozen=True)
class Probed:
    """One media file.

    Attributes:
        name: below the directory.
        seconds: length of its sound, or else of its pictures.
        sample_rate_hz, channels: of its sound; None without sound.
        frame_rate_hz, width, height: of its pictures; None without pictures.
        coding: of audio and video.
        problem: why it could not be opened.
    """

    name: str
    seconds: float | None = None
    sample_rate_hz: int | None = None
    channels: int | None = None
    frame_rate_hz: float | None = None
    width: int | None = None
    height: int | None = None
    coding: str = ""
    problem: str = ""

    @property
    def has_sound(self) -> bool:
        """True where the file states a sound."""
        return self.sample_rate_hz is not None


def evenly(names: Sequence[str], most: int) -> list[str]:
    """Return at most ``most`` names, spread over all; a plain step would meet one class again and again."""
    if len(names) <= most:
        return list(names)
    steps = (place + place * _GOLDEN % 1 for place in range(most))
    return [names[int(step * len(names) / most)] for step in steps]


def probe_files(root: Path, names: Sequence[str]) -> Iterator[Probed]:
    """Open each file and yield what its head says."""
    for name in names:
        yield probe(root / name, name)


def probe(path: Path, name: str) -> Probed:
    """Return what the head of one file says; a file that cannot be opened has a ``problem``."""
    try:
        require_media_file(path, "media")
        return _probe_sound(path, name) or _probe_container(path, name)
    except ClipError as error:
        return Probed(name, problem=error.problem)
    except (av.error.FFmpegError, ValueError, OSError) as error:
        return Probed(name, problem=f"cannot be opened: {getattr(error, 'strerror', None) or error}")


def _probe_sound(path: Path, name: str) -> Probed | None:
    try:
        head = soundfile.info(str(path))
    except (soundfile.SoundFileError, OSError):
        return None
    return Probed(
        name, sound_length(path), int(head.samplerate), int(head.channels), coding=f"{head.format} {head.subtype}"
    )  # fmt: skip


def _probe_container(path: Path, name: str) -> Probed:
    with av.open(str(path), options=OPTIONS) as container:
        sound, pictures = (
            next((stream for stream in streams if stream.codec_context is not None), None)
            for streams in (container.streams.audio, container.streams.video)
        )
        if sound is None and pictures is None:
            return Probed(name, problem="holds neither sound nor pictures")
        return Probed(
            name,
            _seconds(container, path, sound, pictures),
            None if sound is None else int(sound.codec_context.sample_rate),
            None if sound is None else int(sound.codec_context.channels),
            None if pictures is None or not pictures.average_rate else float(pictures.average_rate),
            None if pictures is None else int(pictures.codec_context.width),
            None if pictures is None else int(pictures.codec_context.height),
            " + ".join(stream.codec_context.name for stream in (pictures, sound) if stream is not None),
        )


def _seconds(container: Any, path: Path, sound: Any, pictures: Any) -> float:
    if sound is not None:
        return sound_length(path)
    start_s = presentation_start(container)
    return max((packet_end_s(packet, start_s) for packet in container.demux(pictures)), default=0.0)

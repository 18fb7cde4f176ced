"""What media files are: rates and sizes from their heads, the length from their packets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import av
import soundfile

from vavl.errors import ClipError
from vavl.media.decoded_sound import length_in, packet_end_s, stated_length
from vavl.media.decoding import OPTIONS, check_whole, ffmpeg_errors, presentation_start, require_media_file

_GOLDEN = 0.618034


@dataclass(frozen=True)
class Probed:
    """One media file."""

    name: str
    seconds: float | None = None  # length of its sound, or else of its pictures
    sample_rate_hz: int | None = None  # sample_rate_hz, channels: of its sound; None without sound
    channels: int | None = None
    frame_rate_hz: float | None = None  # frame_rate_hz, width, height: of its pictures; None without pictures
    width: int | None = None
    height: int | None = None
    coding: str = ""  # of audio and video
    problem: str = ""  # why it could not be opened

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
        head = _libsndfile_head(path, name)
        if head is not None and head.seconds is not None:
            return head
        with av.open(str(path), options=OPTIONS) as container:
            if head is None:
                return _probe_container(container, path, name)
            with ffmpeg_errors(path, "audio"):
                return replace(head, seconds=length_in(container, path))
    except ClipError as error:
        return Probed(name, problem=error.problem)
    except (av.error.FFmpegError, ValueError, OSError) as error:
        return Probed(name, problem=f"cannot be opened: {getattr(error, 'strerror', None) or error}")


def sound_seconds(path: Path) -> float | None:
    """Return the length of a file's sound; None if it has none or cannot be read."""
    head = probe(path, path.name)
    return head.seconds if head.has_sound else None


def _libsndfile_head(path: Path, name: str) -> Probed | None:
    """Return what libsndfile reads, the length None where it only estimates it; None for a file of another kind."""
    try:
        with soundfile.SoundFile(str(path)) as sound:
            coding = f"{sound.format} {sound.subtype}"
            head = Probed(name, stated_length(sound), sound.samplerate, sound.channels, coding=coding)
    except (soundfile.SoundFileError, OSError):
        return None
    check_whole(path, "audio")
    return head


def _probe_container(container: Any, path: Path, name: str) -> Probed:
    sound, pictures = (
        next((stream for stream in streams if stream.codec_context is not None), None)
        for streams in (container.streams.audio, container.streams.video)
    )
    if sound is None and pictures is None:
        return Probed(name, problem="holds neither audio nor video")
    streams = [stream for stream in (pictures, sound) if stream is not None]
    found = Probed(name, coding=" + ".join(stream.codec_context.name for stream in streams))
    if pictures is not None:
        rate, size = pictures.average_rate, pictures.codec_context
        found = replace(
            found, frame_rate_hz=float(rate) if rate else None, width=int(size.width), height=int(size.height)
        )
    if sound is None:
        start_s = presentation_start(container)
        ends = (packet_end_s(packet, start_s) for packet in container.demux(pictures))
        return replace(found, seconds=max(ends, default=0.0))
    check_whole(path, "audio")
    context = sound.codec_context
    found = replace(found, sample_rate_hz=int(context.sample_rate), channels=int(context.channels))
    with ffmpeg_errors(path, "audio"):
        return replace(found, seconds=length_in(container, path))

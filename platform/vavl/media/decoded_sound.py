"""Decode the sound of a file as the file holds it: every channel, its own rate, and when it starts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import soundfile
from numpy.typing import NDArray

from vavl.errors import ClipError
from vavl.media.decoding import (
    OPTIONS,
    check_whole,
    ffmpeg_errors,
    presentation_start,
    too_long,
    unusable,
    video_streams,
)
from vavl.media.mpeg_audio import MpegParts

LEAST_GAP_S = 0.02
"""Time stamps of some containers are rounded to milliseconds; only more than this is a gap."""

# A header may state anything; beyond these a resampler takes all memory.
_SAMPLE_RATES_HZ = (1000, 768_000)
# What a lossy codec adds before and after the sound; players leave it out, and so does libsndfile.
_LONGEST_FILLING = 4096  # samples
_EIGHT_BITS = {"PCM_U8", "PCM_S8", "u8", "u8p"}
# Formats whose headers guess or state nothing of the length: what libsndfile reads is held against the packets.
_GUESSED = {"MP3", "MPEG", "OGG", "ALAC"}
_UNKNOWN_FRAMES = 1 << 62
# So many channels are mixed by their names, which FFmpeg knows; of more it makes nothing.
_SURROUND = range(3, 9)

Samples = NDArray[np.float32]


@dataclass(frozen=True)
class DecodedSound:
    """Sound as the file holds it."""

    channels: Samples  # (sample, channel), float32; gaps between time stamps are silence
    rate_hz: int
    full_scale: float  # largest sample above zero that the file's format can hold
    # from the start of the container's presentation to the first sample; negative for priming samples
    late_s: float = 0.0
    pictures_end_s: float = 0.0  # end of the pictures in the same file; 0 if there are none
    # name of each channel as FFmpeg knows it, e.g. ("FL", "FR"); empty where nothing says
    layout: tuple[str, ...] = ()
    note: str | None = None  # which of several audio tracks was taken; None if there is one


def decode_sound(path: Path, longest_s: float) -> DecodedSound:
    """Decode a file: by libsndfile what it reads whole (wav, flac, ogg, mp3), everything else by FFmpeg.

    The length is that of the decoded samples. libsndfile reads one part of a chained Ogg or joined mp3 file and
    trusts the estimate of an mp3 without an index; what it gives is taken only if it has the samples of all packets.

    Raises:
        ClipError: not a sound file, cut off, or too long.
    """
    check_whole(path, "audio")
    problem: soundfile.SoundFileError | None = None
    try:
        found = _by_libsndfile(path, longest_s)
        if found is not None and found.channels.shape[1] not in _SURROUND:
            return found
    except soundfile.SoundFileError as error:
        found, problem = None, error
    suffix = path.suffix.lower().lstrip(".")
    is_known = suffix.upper() in {*soundfile.available_formats(), "WAVE"}
    try:
        with ffmpeg_errors(path, "audio"), av.open(str(path), options=OPTIONS) as container:
            # FFmpeg takes noise for the one or other format; it is asked for codings of this one only.
            if problem is None or not is_known or container.format.name.startswith(suffix[:3]):
                return _decode_container(container, path, longest_s)
    except ClipError as error:
        if found is not None:  # several channels in a coding that FFmpeg does not know
            return found
        if problem is None or not is_known or error.problem.startswith("cut off"):
            raise
    raise unusable(path, "audio", f"not a readable audio file: {problem}") from problem


def stated_length(sound: soundfile.SoundFile) -> float | None:
    """Return the length in seconds that libsndfile reads; None where the header only estimates it."""
    return None if _is_estimated(sound) else float(sound.frames / sound.samplerate)


def length_in(container: Any, path: Path) -> float:
    """Return the length of a container's sound in seconds: of its packets, or of what is decoded."""
    stream = _sound_stream(container, path)
    if stream.codec_context.name.startswith(("vorbis", "opus")):
        return _packet_seconds(container, stream)
    found = _decode_container(container, path, float("inf"))
    return len(found.channels) / found.rate_hz


def _is_estimated(sound: soundfile.SoundFile) -> bool:
    codings = {sound.format, *str(sound.subtype).split("_")}
    return bool(codings & _GUESSED) or sound.frames >= _UNKNOWN_FRAMES or sound.frames == 0


def _by_libsndfile(path: Path, longest_s: float) -> DecodedSound | None:
    """Return what libsndfile reads; None where that is not the whole sound.

    Raises:
        SoundFileError: libsndfile cannot read the file.
        ClipError: cut off, or too long.
    """
    with soundfile.SoundFile(str(path)) as sound:
        _check_rate(path, sound.samplerate)
        is_estimated = _is_estimated(sound)
        if is_estimated and _samples_of_packets(path, sound.samplerate) - sound.frames > _LONGEST_FILLING:
            return None
        # Of ALAC libsndfile leaves the last packet out.
        if sound.frames == 0 or sound.frames >= _UNKNOWN_FRAMES or "ALAC" in sound.subtype:
            return None
        if sound.frames > longest_s * sound.samplerate:
            raise too_long(path, "audio", longest_s)
        samples: Samples = sound.read(dtype="float32", always_2d=True)
        if len(samples) < sound.frames:
            if is_estimated:
                return None
            raise unusable(path, "audio", f"cut off: {len(samples)} of {sound.frames} samples")
        return DecodedSound(samples, int(sound.samplerate), _full_scale(sound.subtype))


def _samples_of_packets(path: Path, rate_hz: int) -> float:
    """Return the length of all packets in samples; 0 where FFmpeg cannot tell."""
    try:
        with av.open(str(path), options=OPTIONS) as container:
            return _packet_seconds(container, _sound_stream(container, path)) * rate_hz
    except (av.error.FFmpegError, ValueError, ClipError):
        return 0


def _packet_seconds(container: Any, stream: Any) -> float:
    return float(sum(packet.duration or 0 for packet in container.demux(stream)) * stream.time_base)


def _check_rate(path: Path, rate_hz: int) -> None:
    lowest, highest = _SAMPLE_RATES_HZ
    if not lowest <= rate_hz <= highest:
        raise unusable(path, "audio", f"a sample rate of {rate_hz} Hz, outside {lowest} .. {highest}")


def _full_scale(sample_format: str) -> float:
    return 127 / 128 if sample_format in _EIGHT_BITS else 32767 / 32768


def _sound_stream(container: Any, path: Path) -> Any:
    """Return the track that a player takes: the default one, or else the best."""
    stream = container.streams.best("audio")
    if stream is None or stream.codec_context is None:
        what = "the file has no audio stream" if stream is None else "there is no decoder for its audio"
        raise unusable(path, "audio", what)
    return stream


def _decode_container(container: Any, path: Path, longest_s: float) -> DecodedSound:
    stream = _sound_stream(container, path)
    start_s = presentation_start(container)
    pictures = video_streams(container)
    blocks, end_s, parts = _Blocks(), 0.0, MpegParts()
    is_mpeg = stream.codec_context.name.startswith(("mp1", "mp2", "mp3"))
    for packet in container.demux(stream, *pictures):
        if packet.stream is not stream:
            end_s = max(end_s, packet_end_s(packet, start_s))
            continue
        for frame in parts.frames(packet) if is_mpeg else packet.decode():
            _check_rate(path, int(frame.sample_rate))
            blocks.add(frame, start_s + parts.left_out_s, longest_s, parts.skip)
            parts.skip = max(0, parts.skip - int(frame.samples))
            if blocks.length > longest_s * blocks.rate_hz:
                raise too_long(path, "audio", longest_s)
    stated = _stated_length(container, stream, blocks.rate_hz)
    filling = blocks.length - stated
    end = stated if stated and 0 < filling <= _LONGEST_FILLING else blocks.length - parts.padding
    return DecodedSound(
        blocks.joined()[:end],
        blocks.rate_hz,
        _full_scale(blocks.sample_format),
        # Sound alone starts its own presentation; what headers say of it may be some milliseconds off.
        blocks.late_s if pictures else 0.0,
        end_s,
        blocks.layout,
        _track_note(container, stream),
    )


def _track_note(container: Any, stream: Any) -> str | None:
    tracks = container.streams.audio
    if len(tracks) < 2:
        return None
    is_default = stream.disposition & av.stream.Disposition.default
    why = "marked as default" if is_default else "the best by FFmpeg's rule"
    return f"{len(tracks)} audio tracks: track {list(tracks).index(stream) + 1} was taken, {why}"


class _Blocks:
    """Decoded blocks of sound, each where its time stamp says."""

    def __init__(self) -> None:
        self.length, self.rate_hz, self.late_s, self.sample_format = 0, 0, 0.0, ""
        self.layout: tuple[str, ...] = ()
        self._blocks: list[Samples] = []
        self._shape: tuple[str, str, int] | None = None
        self._first_layout: Any = None
        self._to_form: Any = None

    def add(self, frame: Any, start_s: float, longest_s: float, skip: int = 0) -> None:
        """Append a frame, with silence before it where time stamps leave a gap.

        Args:
            frame: of PyAV. Its rate counts: headers of some codecs state half of it.
            start_s: time stamp of the start of the presentation.
            longest_s: a gap of this length is not filled in, it only counts.
            skip: samples at its start that an encoder added.
        """
        if not self._blocks:
            self.rate_hz, self.sample_format = int(frame.sample_rate), str(frame.format.name)
            self.layout = tuple(channel.name for channel in frame.layout.channels)
            self.late_s = 0.0 if frame.time is None else float(frame.time) - start_s
        gap = 0
        if frame.time is not None:
            gap = round((frame.time - start_s - self.late_s) * self.rate_hz) - self.length
        samples = [block[skip:] for block in self._in_form(frame)]
        if gap > LEAST_GAP_S * self.rate_hz:
            self.length += gap
            if gap <= longest_s * self.rate_hz:
                self._blocks.append(np.zeros((gap, samples[0].shape[1]), np.float32))
        self._blocks += samples
        self.length += sum(map(len, samples))

    def _in_form(self, frame: Any) -> list[Samples]:
        """Return the samples in the form of the first frame: parts of a chained file may differ."""
        shape = (frame.format.name, frame.layout.name, frame.sample_rate)
        if shape != self._shape:
            self._first_layout, self._shape = self._first_layout or frame.layout, shape
            self._to_form = av.AudioResampler(format="fltp", layout=self._first_layout, rate=self.rate_hz)
        return [block.to_ndarray().T for block in self._to_form.resample(frame)]

    def joined(self) -> Samples:
        """Return all blocks as (sample, channel)."""
        return np.concatenate(self._blocks) if self._blocks else np.zeros((0, 1), np.float32)


def _stated_length(container: Any, stream: Any, rate_hz: int) -> int:
    """Return the length in samples that the index of an mp4 states; 0 where a format only guesses it."""
    if "mp4" not in container.format.name or stream.duration is None:
        return 0
    return round(float(stream.duration * stream.time_base) * rate_hz)


def packet_end_s(packet: Any, start_s: float) -> float:
    """Return the end of a packet that is shown, after the start of the presentation; 0 for what an edit list hides."""
    time = packet.dts if packet.pts is None else packet.pts
    if time is None or not packet.size or packet.is_discard:
        return 0.0
    rate = packet.stream.average_rate
    duration = packet.duration * packet.time_base if packet.duration else (1 / rate if rate else 0)
    return float(time * packet.time_base + duration) - start_s

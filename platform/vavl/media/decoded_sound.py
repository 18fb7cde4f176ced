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
from vavl.media.decoding import OPTIONS, ffmpeg_faults, presentation_start, too_long

LISTEN = "listen to the file; make it again from its source, or leave the clip out"
LEAST_GAP_S = 0.02
"""Time stamps of some containers are rounded to milliseconds; only more than this is a gap."""

# Sizes that a writer leaves in a RIFF header when it could not go back to correct them.
_UNKNOWN_SIZES = {0, 0xFFFFFFFF, 0x7FFFFFFF}
_MOST_CHUNKS = 64
# A header may state anything; beyond these a resampler takes all memory.
_SAMPLE_RATES_HZ = (1000, 768_000)
# The last block of a lossy codec is filled up; an mp4 states where the sound really ends.
_LONGEST_FILLING = 4096  # samples
_LEAST_SHARE_OF_SOUND = 0.9
_COVER_ART = av.stream.Disposition.attached_pic
_EIGHT_BITS = {"PCM_U8", "PCM_S8", "u8", "u8p"}

Samples = NDArray[np.float32]


@dataclass(frozen=True)
class DecodedSound:
    """Sound as the file holds it.

    Attributes:
        channels: (sample, channel), float32; gaps between time stamps are silence.
        rate_hz: sample rate.
        full_scale: largest sample above zero that the file's format can hold.
        late_s: from the start of the container's presentation to the first sample; negative for priming samples.
        pictures_end_s: end of the pictures in the same file; 0 if there are none.
    """

    channels: Samples
    rate_hz: int
    full_scale: float
    late_s: float = 0.0
    pictures_end_s: float = 0.0


def decode_sound(path: Path, longest_s: float) -> DecodedSound:
    """Decode a file: by libsndfile what it knows (wav, flac, ogg, mp3), containers such as mp4 by FFmpeg.

    Raises:
        ClipError: not a sound file, cut off, or too long.
    """
    if path.suffix.lower() in {".wav", ".wave"}:
        _check_riff_size(path)
    try:
        with soundfile.SoundFile(str(path)) as sound:
            _check_rate(path, sound.samplerate)
            if sound.frames > longest_s * sound.samplerate:
                raise too_long(path, "audio", longest_s)
            samples: Samples = sound.read(dtype="float32", always_2d=True)
            if len(samples) < sound.frames:
                raise _cut_off(path, f"{len(samples)} of {sound.frames} samples")
            return DecodedSound(samples, int(sound.samplerate), _full_scale(sound.subtype))
    except soundfile.SoundFileError as fault:
        if path.suffix.lower().lstrip(".").upper() in {*soundfile.available_formats(), "WAVE"}:
            raise ClipError(str(path), "audio", f"not a readable sound file: {fault}", LISTEN) from fault
    with ffmpeg_faults(path, "audio"), av.open(str(path), options=OPTIONS) as container:
        return _decode_container(container, path, longest_s)


def _check_riff_size(path: Path) -> None:
    """Refuse a wav file shorter than its headers say: libsndfile reads what is left without a word."""
    end = path.stat().st_size
    with path.open("rb") as stream:
        header = stream.read(12)
        if len(header) < 12 or header[:4] != b"RIFF":
            return
        place, size = 8, int.from_bytes(header[4:8], "little")
        # Small chunks may come before the samples; where none are within reach libsndfile decides.
        for _ in range(_MOST_CHUNKS):
            if size not in _UNKNOWN_SIZES and end < place + size:
                raise _cut_off(path, f"{end} of {place + size} bytes")
            start = 12 if place == 8 else place + size + size % 2
            stream.seek(start)
            header = stream.read(8)
            if len(header) < 8:
                return
            place, size = start + 8, int.from_bytes(header[4:8], "little")


def _check_rate(path: Path, rate_hz: int) -> None:
    lowest, highest = _SAMPLE_RATES_HZ
    if not lowest <= rate_hz <= highest:
        raise ClipError(
            str(path), "audio", f"a sample rate of {rate_hz} Hz, outside {lowest} .. {highest}", LISTEN
        )


def _full_scale(sample_format: str) -> float:
    return 127 / 128 if sample_format in _EIGHT_BITS else 32767 / 32768


def _decode_container(container: Any, path: Path, longest_s: float) -> DecodedSound:
    if not container.streams.audio:
        raise ClipError(str(path), "audio", "the file has no audio stream", LISTEN)
    stream = container.streams.audio[0]
    start_s = presentation_start(container)
    pictures = [picture for picture in container.streams.video if not picture.disposition & _COVER_ART]
    blocks = _Blocks()
    for frame in container.decode(stream):
        _check_rate(path, int(frame.sample_rate))
        blocks.add(frame, start_s, longest_s)
        if blocks.length > longest_s * blocks.rate_hz:
            raise too_long(path, "audio", longest_s)
    stated = _stated_length(container, stream, blocks.rate_hz)
    if blocks.length < _LEAST_SHARE_OF_SOUND * stated:
        raise _cut_off(path, f"{blocks.length} of {stated} samples")
    filling = blocks.length - stated
    end = stated if stated and 0 < filling <= _LONGEST_FILLING else blocks.length
    return DecodedSound(
        blocks.joined()[:end],
        blocks.rate_hz,
        _full_scale(blocks.sample_format),
        # Sound alone starts its own presentation; what headers say of it may be some milliseconds off.
        blocks.late_s if pictures else 0.0,
        max((_end_s(picture, start_s) for picture in pictures), default=0.0),
    )


class _Blocks:
    """Decoded blocks of sound, each where its time stamp says."""

    def __init__(self) -> None:
        self.length, self.rate_hz, self.late_s, self.sample_format = 0, 0, 0.0, ""
        self._blocks: list[Samples] = []
        self._to_float = av.AudioResampler(format="fltp")

    def add(self, frame: Any, start_s: float, longest_s: float) -> None:
        """Append a frame, with silence before it where time stamps leave a gap.

        Args:
            frame: of PyAV. Its rate counts: headers of some codecs state half of it.
            start_s: time stamp of the start of the presentation.
            longest_s: a gap of this length is not filled in, it only counts.
        """
        samples: list[Samples] = [block.to_ndarray().T for block in self._to_float.resample(frame)]
        if not self._blocks:
            self.rate_hz, self.sample_format = int(frame.sample_rate), str(frame.format.name)
            self.late_s = 0.0 if frame.time is None else float(frame.time) - start_s
        gap = 0
        if frame.time is not None:
            gap = round((frame.time - start_s - self.late_s) * self.rate_hz) - self.length
        if gap > LEAST_GAP_S * self.rate_hz:
            self.length += gap
            if gap <= longest_s * self.rate_hz:
                self._blocks.append(np.zeros((gap, samples[0].shape[1]), np.float32))
        self._blocks += samples
        self.length += sum(map(len, samples))

    def joined(self) -> Samples:
        """Return all blocks as (sample, channel)."""
        return np.concatenate(self._blocks) if self._blocks else np.zeros((0, 1), np.float32)


def _stated_length(container: Any, stream: Any, rate_hz: int) -> int:
    """Return the length in samples that the index of an mp4 states; 0 where a format only guesses it."""
    if "mp4" not in container.format.name or stream.duration is None:
        return 0
    return round(float(stream.duration * stream.time_base) * rate_hz)


def _end_s(stream: Any, start_s: float) -> float:
    """Return the end of a stream after the start of the presentation; 0 where its header does not say."""
    if stream.duration is None:
        return 0.0
    return float(((stream.start_time or 0) + stream.duration) * stream.time_base) - start_s


def _cut_off(path: Path, found: str) -> ClipError:
    return ClipError(str(path), "audio", f"cut off: {found}", LISTEN)

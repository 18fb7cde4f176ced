"""Read sound and pictures from media files."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import soundfile
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from vavl.errors import ClipError

_LISTEN = "listen to the file; make it again from its source, or leave the clip out"
_WATCH = "look at the file; make it again from its source, or leave the clip out"
# Sizes that a writer leaves in a RIFF header when it could not go back to correct them.
_UNKNOWN_SIZES = {0, 0xFFFFFFFF, 0x7FFFFFFF}
# An edit list may hide a few pictures that the header counts; a file that was cut off lacks more.
_LEAST_SHARE_OF_FRAMES = 0.9
# A header may state anything; beyond these a resampler or a picture takes all memory before it is read.
_SAMPLE_RATES_HZ = (1000, 768_000)
_MOST_PIXELS = 1 << 26
_MOST_CHUNKS = 64
_OPTIONS = {"max_pixels": str(_MOST_PIXELS)}


def read_audio(path: Path, sample_rate_hz: int, longest_s: float = math.inf) -> NDArray[np.float32]:
    """Read the sound of a file, mixed to one channel and resampled.

    Files that libsndfile knows (wav, flac, ogg, mp3) are read by it, containers such as mp4 by FFmpeg.

    Returns:
        (sample,), float32 in about -1..1.

    Raises:
        ClipError: no such file, not a sound file, cut off, empty, too long, or values that are not finite.
    """
    require_media_file(path, "audio")
    channels, rate = _decode_sound(path, longest_s)
    if channels.shape[0] == 0:
        raise ClipError(str(path), "audio", "the file holds no sound: zero samples", _LISTEN)
    mono: NDArray[np.float32] = channels.mean(axis=1, dtype=np.float32)
    if not np.isfinite(mono).all():
        raise ClipError(str(path), "audio", "the sound holds NaN or infinite values", _LISTEN)
    if rate == sample_rate_hz:
        return mono
    # Imported here: it takes as long as all other imports together, and many corpora never need it.
    from scipy.signal import resample_poly

    divisor = math.gcd(rate, sample_rate_hz)
    resampled: NDArray[np.float32] = resample_poly(mono, sample_rate_hz // divisor, rate // divisor)
    return resampled.astype(np.float32)


def require_media_file(path: Path, field: str) -> None:
    """Refuse what is no file with content, before a library opens it: a pipe would never answer.

    Raises:
        ClipError: nothing is there, it is a folder, pipe, socket or device, or it holds no byte.
    """
    if not path.exists():
        raise ClipError(str(path), field, "the file does not exist", "restore the file")
    if not path.is_file():
        raise ClipError(
            str(path), field, "not a regular file", "remove this folder, pipe, socket or device, or rename it"
        )
    if path.stat().st_size == 0:
        raise ClipError(str(path), field, "the file is empty", "restore the file, or leave the clip out")


def sound_seconds(path: Path) -> float | None:
    """Return the length that a sound file's header states; None if it cannot be read."""
    try:
        return float(soundfile.info(str(path)).duration)
    except (soundfile.SoundFileError, OSError):
        return None


def read_frames(
    path: Path, frame_rate_hz: float, longest_s: float = math.inf
) -> Iterator[tuple[float, NDArray[np.uint8]]]:
    """Yield the pictures of a video at an even rate.

    The k-th picture is the decoded one whose middle is nearest to (k + 1/2) / rate, counted from
    the first picture; a picture is repeated where the video's own rate is lower.

    Yields:
        Time of the middle in seconds, and the picture as (row, column, RGB) uint8.

    Raises:
        ClipError: no such file, not a video, no video stream or no picture in it, damaged, or too long.
    """
    require_media_file(path, "video")
    with _ffmpeg_faults(path, "video"), av.open(str(path), options=_OPTIONS) as container:
        if not container.streams.video:
            raise ClipError(str(path), "video", "the file has no video stream", _WATCH)
        stream = container.streams.video[0]
        _check_picture_size(path, stream.codec_context.width, stream.codec_context.height)
        stream.codec_context.options = _OPTIONS
        stream.codec_context.thread_count = 1
        own_rate = float(stream.average_rate or frame_rate_hz)
        # One for the whole file: a frame's own to_ndarray sets up a conversion per frame, ten times the time.
        to_colours = VideoReformatter()
        decoded = _Counted(container.decode(stream))
        for middle, picture in _evenly(decoded, own_rate, frame_rate_hz):
            if middle > longest_s:
                raise _too_long(path, "video", longest_s)
            colours = to_colours.reformat(picture, format="rgb24", threads=1).to_ndarray()
            upright = np.rot90(colours, k=round(picture.rotation / 90))
            yield middle, upright.astype(np.uint8, copy=False)
        if decoded.count == 0:
            raise ClipError(str(path), "video", "the video stream holds no picture", _WATCH)
        if decoded.damaged:
            found = f"{decoded.damaged} of {decoded.count} pictures do not decode whole"
            raise ClipError(str(path), "video", f"damaged: {found}", _WATCH)
        if decoded.count < _LEAST_SHARE_OF_FRAMES * stream.frames:
            found = f"{decoded.count} of {stream.frames} pictures"
            raise ClipError(str(path), "video", f"cut off: {found} can be decoded", _WATCH)


class _Counted:
    """Decoded pictures, counted; ``damaged`` counts those that the decoder had to guess in part."""

    def __init__(self, pictures: Iterator[Any]) -> None:
        self._pictures, self.count, self.damaged = pictures, 0, 0

    def __iter__(self) -> Iterator[Any]:
        for picture in self._pictures:
            self.count += 1
            self.damaged += bool(picture.is_corrupt)
            yield picture


def _decode_sound(path: Path, longest_s: float) -> tuple[NDArray[np.float32], int]:
    """Return (sample, channel) and the sample rate."""
    if path.suffix.lower() in {".wav", ".wave"}:
        _check_riff_size(path)
    try:
        with soundfile.SoundFile(str(path)) as sound:
            _check_rate(path, sound.samplerate)
            if sound.frames > longest_s * sound.samplerate:
                raise _too_long(path, "audio", longest_s)
            samples: NDArray[np.float32] = sound.read(dtype="float32", always_2d=True)
            if len(samples) < sound.frames:
                raise ClipError(
                    str(path), "audio", f"cut off: {len(samples)} of {sound.frames} samples", _LISTEN
                )
            return samples, int(sound.samplerate)
    except soundfile.SoundFileError as fault:
        if path.suffix.lower().lstrip(".").upper() in {*soundfile.available_formats(), "WAVE"}:
            raise ClipError(str(path), "audio", f"not a readable sound file: {fault}", _LISTEN) from fault
    return _decode_container_sound(path, longest_s)


def _decode_container_sound(path: Path, longest_s: float) -> tuple[NDArray[np.float32], int]:
    with _ffmpeg_faults(path, "audio"), av.open(str(path), options=_OPTIONS) as container:
        if not container.streams.audio:
            raise ClipError(str(path), "audio", "the file has no audio stream", _LISTEN)
        stream = container.streams.audio[0]
        rate = int(stream.codec_context.sample_rate)
        _check_rate(path, rate)
        to_float = av.AudioResampler(format="fltp", layout=stream.codec_context.layout, rate=rate)
        blocks: list[NDArray[np.float32]] = []
        length = 0
        for frame in container.decode(stream):
            for block in to_float.resample(frame):
                blocks.append(block.to_ndarray().T)
                length += len(blocks[-1])
                if length > longest_s * rate:
                    raise _too_long(path, "audio", longest_s)
    return (np.concatenate(blocks) if blocks else np.zeros((0, 1), np.float32)), rate


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
                raise ClipError(str(path), "audio", f"cut off: {end} of {place + size} bytes", _LISTEN)
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
            str(path), "audio", f"a sample rate of {rate_hz} Hz, outside {lowest} .. {highest}", _LISTEN
        )


def _check_picture_size(path: Path, width: int, height: int) -> None:
    if width * height > _MOST_PIXELS:
        raise ClipError(
            str(path), "video", f"pictures of {width} x {height}, more than {_MOST_PIXELS} pixels", _WATCH
        )


def _evenly(decoded: Iterable[Any], own_rate: float, rate: float) -> Iterator[tuple[float, Any]]:
    """Yield (middle in seconds, decoded frame) at ``rate`` from frames in order of time."""
    half = 0.5 / own_rate
    start: float | None = None
    earlier, earlier_middle, number = None, -math.inf, 0
    for index, frame in enumerate(decoded):
        time = frame.time if frame.time is not None else index / own_rate
        start = time if start is None else start
        middle = time - start + half
        while (wanted := (number + 0.5) / rate) <= middle:
            is_nearer = earlier is not None and wanted - earlier_middle < middle - wanted
            yield wanted, earlier if is_nearer else frame
            number += 1
        earlier, earlier_middle = frame, middle
    while earlier is not None and (wanted := (number + 0.5) / rate) < earlier_middle + half:
        yield wanted, earlier
        number += 1
    if earlier is not None and number == 0:
        yield 0.5 / rate, earlier


@contextlib.contextmanager
def _ffmpeg_faults(path: Path, field: str) -> Iterator[None]:
    try:
        yield
    except (av.error.FFmpegError, ValueError) as fault:
        raise ClipError(str(path), field, f"cannot be decoded: {fault}", _WATCH) from fault


def _too_long(path: Path, field: str, longest_s: float) -> ClipError:
    return ClipError(
        str(path), field, f"longer than {longest_s:g} s", f"cut the clip, or raise features.{field}.longest_clip_s"
    )  # fmt: skip

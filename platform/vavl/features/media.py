"""Read pictures from media files."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from vavl.errors import ClipError
from vavl.features.decoding import MOST_PIXELS, OPTIONS, ffmpeg_faults, require_media_file, too_long

_WATCH = "look at the file; make it again from its source, or leave the clip out"
# An edit list may hide a few pictures that the header counts; a file that was cut off lacks more.
_LEAST_SHARE_OF_FRAMES = 0.9


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
    with ffmpeg_faults(path, "video"), av.open(str(path), options=OPTIONS) as container:
        if not container.streams.video:
            raise ClipError(str(path), "video", "the file has no video stream", _WATCH)
        stream = container.streams.video[0]
        _check_picture_size(path, stream.codec_context.width, stream.codec_context.height)
        stream.codec_context.options = OPTIONS
        stream.codec_context.thread_count = 1
        own_rate = float(stream.average_rate or frame_rate_hz)
        # One for the whole file: a frame's own to_ndarray sets up a conversion per frame, ten times the time.
        to_colours = VideoReformatter()
        decoded = _Counted(container.decode(stream))
        for middle, picture in _evenly(decoded, own_rate, frame_rate_hz):
            if middle > longest_s:
                raise too_long(path, "video", longest_s)
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


def _check_picture_size(path: Path, width: int, height: int) -> None:
    if width * height > MOST_PIXELS:
        raise ClipError(
            str(path), "video", f"pictures of {width} x {height}, more than {MOST_PIXELS} pixels", _WATCH
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

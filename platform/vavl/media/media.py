"""Read pictures from media files, each at its time.

Time 0 is the start of the container's presentation, for audio and video alike. Pictures come out upright,
with square pixels, deinterlaced, all of one size; what is transparent shows a gray ground.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from vavl.errors import ClipError
from vavl.media.decoding import (
    MOST_PIXELS,
    OPTIONS,
    check_whole,
    ffmpeg_errors,
    no_signal,
    presentation_start,
    require_media_file,
    too_long,
    unusable,
    video_streams,
)

# Time stamps are rounded, to milliseconds in some containers.
_ROUNDING_S = 1e-6


class Shown(NamedTuple):
    """A picture and when it is shown."""

    time: float  # seconds from the start of the presentation
    seconds: float  # how long, if no other picture follows
    picture: Any


def evenly(shown: Iterable[Shown], frame_rate_hz: float) -> Iterator[tuple[float, Shown]]:
    """Yield the picture on show at the middle of every frame of an even rate; ``shown`` is in the order of time.

    Frames count from time 0; those before the first picture are left out, so are those after the end of
    the last one. Every video has at least one frame.

    Yields:
        Time of the middle of the frame, (k + 1/2) / rate, and what is shown then.
    """
    current: Shown | None = None
    number = 0
    is_empty = True
    for following in shown:
        if current is None:
            number = max(0, math.ceil((following.time - _ROUNDING_S) * frame_rate_hz - 0.5))
        while current is not None and (middle := (number + 0.5) / frame_rate_hz) < following.time - _ROUNDING_S:
            yield middle, current
            number, is_empty = number + 1, False
        current = following
    if current is None:
        return
    end = current.time + current.seconds
    while (middle := (number + 0.5) / frame_rate_hz) < end - _ROUNDING_S:
        yield middle, current
        number, is_empty = number + 1, False
    if is_empty:
        yield max(current.time + current.seconds / 2, 0.0), current


# Some packets hold no picture of their own; where more give none, the decoder lost them.
_LEAST_SHARE_OF_FRAMES = 0.9
_GRAY = 128
# Of a coarse grid's cells, in levels of 255: black as video levels leave it, and what coding changes in a still.
_GRID, _BLACK, _STILL = 16, 24.0, 2.5
# A picture shown for a moment is no frozen film.
_LEAST_OF_A_FILM = 10
# FFmpeg's own decoders of these codecs leave the transparency out.
_ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}

Picture = NDArray[np.uint8]
"""(row, column, RGB)."""


class Pictures:
    """The pictures of a video at an even rate; iterate over it once.

    Yields (time, picture): the time of the middle of each frame of the even rate, (k + 1/2) / rate seconds
    after the start of the presentation, and the picture that is on show then. A picture is repeated for as
    long as it is shown; before the first one there are no frames.

    ``longest_s``: a longer video is refused.

    Attributes:
        facts: of the file, once all pictures are taken: ``seconds`` from the first picture to the end of the
            last, ``frame_rate_hz`` of the file on average, ``width_px`` and ``height_px`` as shown.

    Raises:
        ClipError: no such file, not a video, no video stream or no picture in it, damaged, or too long.
        NoSignalError: black from start to end, or one still picture all the time.
    """

    def __init__(self, path: Path, frame_rate_hz: float, longest_s: float = math.inf) -> None:
        self.path, self.rate, self.longest_s = path, frame_rate_hz, longest_s
        self.facts: dict[str, float] = {}

    def __iter__(self) -> Iterator[tuple[float, Picture]]:
        require_media_file(self.path, "video")
        check_whole(self.path, "video")
        with ffmpeg_errors(self.path, "video"), av.open(str(self.path), options=OPTIONS) as container:
            stream = self._stream(container)
            decoded = _Decoded(container, stream, self.path)
            timeline = _Timeline(_progressive(decoded), stream, presentation_start(container))
            canvas: _Canvas | None = None
            signal = _Signal()
            for time, shown in evenly(timeline, self.rate):
                if time > self.longest_s:
                    raise too_long(self.path, "video", self.longest_s)
                canvas = canvas or _Canvas(self.path, stream, shown.picture)
                picture = canvas.draw(shown.picture)
                signal.add(picture)
                yield time, picture
            if canvas is None:
                raise self._unusable("the video stream holds no frame")
            self._check_whole(decoded, is_counted=stream.frames > 0)
            if decoded.pictures >= _LEAST_OF_A_FILM and (nothing := signal.nothing()) is not None:
                raise no_signal(self.path, "video", nothing)
            self.facts = _facts(timeline, decoded.pictures, canvas)

    def _unusable(self, problem: str) -> ClipError:
        return unusable(self.path, "video", problem)

    def _stream(self, container: Any) -> Any:
        """Return the video stream, set up; the cover of a song is none."""
        streams = video_streams(container)
        if not streams:
            raise self._unusable("the file has no video stream")
        stream = streams[0]
        if stream.codec_context is None:
            raise self._unusable("there is no decoder for its frames")
        _check_picture_size(self.path, stream.codec_context.width, stream.codec_context.height)
        stream.codec_context.options = OPTIONS
        stream.codec_context.thread_count = 1
        return stream

    def _check_whole(self, decoded: _Decoded, *, is_counted: bool) -> None:
        """Refuse damage; where a container counts its pictures (``is_counted``), each packet is one."""
        if decoded.damaged:
            found = f"{decoded.damaged} of {decoded.pictures} frames do not decode whole"
            raise self._unusable(f"damaged: {found}")
        if is_counted and decoded.pictures < _LEAST_SHARE_OF_FRAMES * decoded.packets:
            found = f"{decoded.pictures} of {decoded.packets} frames"
            raise self._unusable(f"damaged: {found} can be decoded")


def read_frames(path: Path, frame_rate_hz: float, longest_s: float = math.inf) -> Iterator[tuple[float, Picture]]:
    """Yield the pictures of a video at an even rate; see ``Pictures``."""
    return iter(Pictures(path, frame_rate_hz, longest_s))


class _Decoded:
    """The decoded pictures of a stream, counted while they are taken.

    Attributes:
        packets: those that are shown: an edit list may hide others.
        pictures: decoded.
        damaged: pictures that the decoder had to guess in part.
    """

    def __init__(self, container: Any, stream: Any, path: Path) -> None:
        self._packets, self._decoder = container.demux(stream), _alpha_decoder(stream, path)
        self.packets = self.pictures = self.damaged = 0

    def __iter__(self) -> Iterator[Any]:
        for packet in self._packets:
            self.packets += bool(packet.size) and not packet.is_discard
            if self._decoder is None:
                pictures = packet.decode()
            else:
                pictures = self._decoder.decode(packet if packet.size else None)
            for picture in pictures:
                self.pictures += 1
                self.damaged += bool(picture.is_corrupt)
                yield picture


class _Signal:
    """Whether pictures show anything that changes: the brightness of a coarse grid over all of them."""

    def __init__(self) -> None:
        self._least: NDArray[np.float32] | None = None
        self._most: NDArray[np.float32] | None = None

    def add(self, picture: Picture) -> None:
        """Look at the next picture."""
        rows, columns = (max(1, length // _GRID) for length in picture.shape[:2])
        cut = picture[: picture.shape[0] // rows * rows, : picture.shape[1] // columns * columns, 1]
        grid = cut.reshape(-1, rows, cut.shape[1] // columns, columns).mean(axis=(1, 3), dtype=np.float32)
        self._least = grid if self._least is None else np.minimum(self._least, grid)
        self._most = grid if self._most is None else np.maximum(self._most, grid)

    def nothing(self) -> str | None:
        """Return why the pictures carry nothing; None where they do."""
        if self._least is None or self._most is None:
            return None
        if float(self._most.max()) <= _BLACK:
            return "black from start to end"
        if float((self._most - self._least).max()) <= _STILL:
            return "one still image from start to end"
        return None


class _Canvas:
    """Draws decoded pictures as a person sees them, all at the size of the first."""

    def __init__(self, path: Path, stream: Any, first: Any) -> None:
        ratio = Fraction(stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio or 1)
        # Pixels that are not square: the shorter side is stretched, so that no detail is lost.
        self._width = round(first.width * max(ratio, Fraction(1)))
        self._height = round(first.height / min(ratio, Fraction(1)))
        _check_picture_size(path, self._width, self._height)
        parts = first.format.components
        self._is_transparent = any(part.is_alpha for part in parts) or first.format.name == "pal8"
        # One for the whole file: a frame's own to_ndarray sets up a conversion per frame, ten times the time.
        self._reformatter = VideoReformatter()
        self.size = (self._height, self._width)

    def draw(self, picture: Any) -> Picture:
        """Return (row, column, RGB) uint8, upright."""
        colors: NDArray[np.uint8] = self._reformatter.reformat(
            picture, width=self._width, height=self._height, threads=1,
            format="rgba" if self._is_transparent else "rgb24",
        ).to_ndarray().astype(np.uint8, copy=False)  # fmt: skip
        if self._is_transparent:
            colors = _on_gray(colors)
        upright: Picture = np.rot90(colors, k=round(picture.rotation / 90)).astype(np.uint8, copy=False)
        self.size = (upright.shape[0], upright.shape[1])
        return upright


def _on_gray(picture: NDArray[np.uint8]) -> Picture:
    """Lay (row, column, RGBA) on a gray ground: what is transparent has any color."""
    share = picture[..., 3:].astype(np.float32) / 255
    laid: Picture = np.rint(picture[..., :3] * share + _GRAY * (1 - share)).astype(np.uint8)
    return laid


def _alpha_decoder(stream: Any, path: Path) -> Any | None:
    """Return a decoder that keeps transparency, where the stream has it and FFmpeg's own would drop it."""
    name = str(stream.codec_context.name).removeprefix("lib").removeprefix("vpx-")
    if stream.metadata.get("alpha_mode") != "1" or name not in _ALPHA_DECODERS:
        return None
    decoder = _ALPHA_DECODERS[name]
    if decoder not in av.codecs_available:
        raise ClipError(str(path), "video", f"its transparency needs FFmpeg's {decoder}", "install the wheel of av")
    context = av.CodecContext.create(decoder, "r")
    context.options, context.thread_count = OPTIONS, 1
    context.extradata = stream.codec_context.extradata
    return context


def _progressive(pictures: Iterable[Any]) -> Iterator[Any]:
    """Put the two half pictures of interlaced ones together (bwdif), from the first interlaced one on."""
    graph: Any = None
    for picture in pictures:
        if graph is None and picture.interlaced_frame:
            graph = _deinterlacer(picture)
        if graph is None:
            yield picture
            continue
        graph.push(picture)
        yield from _pulled(graph)
    if graph is not None:
        graph.push(None)
        yield from _pulled(graph)


def _deinterlacer(picture: Any) -> Any:
    graph = av.filter.Graph()
    graph.link_nodes(
        graph.add_buffer(
            width=picture.width, height=picture.height, format=picture.format, time_base=picture.time_base
        ),
        graph.add("bwdif", "mode=send_frame:deint=interlaced"),
        graph.add("buffersink"),
    ).configure()
    return graph


def _pulled(graph: Any) -> Iterator[Any]:
    while True:
        try:
            yield graph.pull()
        except (av.BlockingIOError, av.EOFError):
            return


class _Timeline:
    """Gives each picture the time from which on it is shown; stray time stamps are left out.

    Attributes:
        first: picture; None before it is taken, or if there is none.
    """

    def __init__(self, pictures: Iterable[Any], stream: Any, start_s: float) -> None:
        self._pictures, self._start_s = pictures, start_s
        self._own_step = float(1 / stream.average_rate) if stream.average_rate else 0.04
        self.first: Shown | None = None
        self.last: Shown | None = None

    def __iter__(self) -> Iterator[Shown]:
        for index, picture in enumerate(self._pictures):
            time = index * self._own_step if picture.time is None else float(picture.time) - self._start_s
            if self.last is not None and time <= self.last.time:
                continue
            stated = float(picture.duration * picture.time_base) if picture.time_base else 0.0
            self.last = Shown(time, stated or self._own_step, picture)
            self.first = self.first or self.last
            yield self.last


def _facts(timeline: _Timeline, count: int, canvas: _Canvas) -> dict[str, float]:
    assert timeline.first is not None
    assert timeline.last is not None
    seconds = timeline.last.time + timeline.last.seconds - timeline.first.time
    height, width = canvas.size
    return {
        "seconds": round(seconds, 6),
        "frame_rate_hz": round(count / seconds, 3),
        "width_px": float(width),
        "height_px": float(height),
    }


def _check_picture_size(path: Path, width: int, height: int) -> None:
    if width * height > MOST_PIXELS:
        raise unusable(path, "video", f"frames of {width} x {height}, more than {MOST_PIXELS} pixels")

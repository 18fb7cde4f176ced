"""Video files with unusual times, pixels and formats, rendered by PyAV."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray
from rendered_media import RATE_HZ

MILLISECOND = Fraction(1, 1000)


def write_video(
    path: Path,
    pictures: NDArray,
    codec: str = "libx264",
    pixels: str = "yuv420p",
    shown_ms: Sequence[int] | None = None,
    options: dict[str, str] | None = None,
    pixel_shape: Fraction | None = None,
    sound: NDArray | None = None,
) -> Path:
    """Write pictures (time, row, column, RGB or RGBA) uint8.

    Args:
        path: its suffix names the container.
        pictures: at 25 a second unless shown_ms says when each appears.
        codec: of FFmpeg.
        pixels: format of FFmpeg.
        shown_ms: time of each picture.
        options: of the codec.
        pixel_shape: width of a pixel over its height.
        sound: (sample,) at 16 kHz, begins at time 0.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=options or {})
        stream.height, stream.width, stream.pix_fmt = *pictures.shape[1:3], pixels
        if pixel_shape is not None:
            stream.codec_context.sample_aspect_ratio = pixel_shape
        if shown_ms is not None:
            stream.time_base = stream.codec_context.time_base = MILLISECOND
        sounding = None if sound is None else container.add_stream("pcm_s16le", rate=RATE_HZ, layout="mono")
        for number, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="rgba" if picture.shape[2] == 4 else "rgb24")
            if shown_ms is not None:
                frame.pts, frame.time_base = shown_ms[number], MILLISECOND
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        if sounding is not None and sound is not None:
            _write_sound(container, sounding, sound)
    return path


def grey_levels(levels: Sequence[int], height: int = 48, width: int = 64) -> NDArray[np.uint8]:
    """Return pictures (time, row, column, RGB) of one gray level each, which tells them apart."""
    return np.stack([np.full((height, width, 3), level, dtype=np.uint8) for level in levels])


def _write_sound(container: Any, stream: Any, sound: NDArray) -> None:
    samples = (sound * 32767).astype(np.int16)[None]
    frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
    frame.sample_rate, frame.pts, frame.time_base = RATE_HZ, 0, Fraction(1, RATE_HZ)
    container.mux(stream.encode(frame))
    container.mux(stream.encode())

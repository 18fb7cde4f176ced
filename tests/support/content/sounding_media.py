"""Sound in every form that a corpus may hold, written by the tests themselves."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray
from rendered_media import moving_square


def write_sound(path: Path, samples: NDArray, rate_hz: int, codec: str = "aac") -> Path:
    """Write sound (sample,) alone, into the container that the suffix names."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate_hz, layout="mono")
        encode_sound(container, stream, samples, 0.0)
    return path


def write_clip(
    path: Path, samples: NDArray, rate_hz: int = 16_000, sound_at_s: float = 0, pictures_at_s: float = 0,
    seconds: float = 2, pictures: NDArray | None = None,
) -> Path:  # fmt: skip
    """Write sound (sample,) and pictures (time, 64, 64, RGB), each side from its own time on.

    Without ``pictures`` a square moves for ``seconds``.
    """
    shown = moving_square(round(25 * seconds), side=64) if pictures is None else pictures
    codec = "pcm_s16le" if path.suffix == ".mov" else "aac"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"preset": "ultrafast"})
        stream.height, stream.width, stream.pix_fmt = 64, 64, "yuv420p"
        sound = container.add_stream(codec, rate=rate_hz, layout="mono")
        for number, picture in enumerate(shown):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = number + round(25 * pictures_at_s), Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        encode_sound(container, sound, samples, sound_at_s)
    return path


def encode_sound(
    container: av.container.OutputContainer, stream: av.AudioStream, samples: NDArray, at_s: float
) -> None:
    rate = stream.codec_context.sample_rate
    frame = av.AudioFrame.from_ndarray(samples.astype(np.float32)[None], format="fltp", layout="mono")
    frame.sample_rate, frame.pts, frame.time_base = rate, round(at_s * rate), Fraction(1, rate)
    wanted = stream.codec_context.format.name
    for part in av.AudioResampler(format=wanted, layout="mono", rate=rate).resample(frame):
        container.mux(stream.encode(part))
    container.mux(stream.encode())

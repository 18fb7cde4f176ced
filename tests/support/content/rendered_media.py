"""Small media files made by the tests themselves; no recording is copied into the project."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import soundfile
from numpy.typing import NDArray

RATE_HZ = 16_000


def tone(frequency_hz: float, seconds: float, rate_hz: int = RATE_HZ, amplitude: float = 1.0) -> NDArray:
    return amplitude * np.sin(2 * np.pi * frequency_hz * np.arange(round(seconds * rate_hz)) / rate_hz)


def write_wav(path: Path, samples: NDArray, rate_hz: int = RATE_HZ) -> Path:
    """Write samples (sample,) or (sample, channel) as a 16-bit file of the type that its suffix names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, rate_hz, subtype="PCM_16")
    return path


def write_mp4(
    path: Path, pictures: NDArray, rate_hz: int = 25, sound: NDArray | None = None, rotation: int = 0
) -> Path:
    """Write pictures (time, row, column, RGB) uint8 and, if given, sound (sample,) at 16 kHz."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate_hz, options={"crf": "12", "preset": "veryfast"})
        stream.height, stream.width, stream.pix_fmt = pictures.shape[1], pictures.shape[2], "yuv420p"
        if rotation:
            stream.set_display_rotation(rotation)
        sound_stream = container.add_stream("aac", rate=RATE_HZ, layout="mono") if sound is not None else None
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
        if sound_stream is not None and sound is not None:
            _encode_sound(container, sound_stream, sound)
    return path


def write_sound_only_mp4(path: Path, sound: NDArray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        _encode_sound(container, container.add_stream("aac", rate=RATE_HZ, layout="mono"), sound)
    return path


def moving_square(frames: int, side: int = 96, seed: int = 0) -> NDArray:
    """Return pictures (time, row, column, RGB) of a bright square that moves one pixel a frame."""
    ground = np.random.default_rng(seed).integers(0, 40, size=(side, side, 3), dtype=np.uint8)
    pictures = np.repeat(ground[None], frames, axis=0)
    for number, picture in enumerate(pictures):
        start = 8 + number % (side // 2)
        picture[side // 4 : side // 2, start : start + side // 4] = 220
    return pictures


def _encode_sound(container: av.container.OutputContainer, stream: av.AudioStream, sound: NDArray) -> None:
    frame = av.AudioFrame.from_ndarray(sound.astype(np.float32)[None], format="fltp", layout="mono")
    frame.sample_rate = RATE_HZ
    container.mux(stream.encode(frame))
    container.mux(stream.encode())

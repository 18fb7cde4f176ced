"""Small media files made by the tests themselves; no recording is copied into the project."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import soundfile
from numpy.typing import NDArray

RATE_HZ = 16_000
MILLISECOND = Fraction(1, 1000)


def tone(frequency_hz: float, seconds: float, rate_hz: int = RATE_HZ, amplitude: float = 1.0) -> NDArray:
    return amplitude * np.sin(2 * np.pi * frequency_hz * np.arange(round(seconds * rate_hz)) / rate_hz)


def moving_square(frames: int, side: int = 96, seed: int = 0) -> NDArray:
    """Return pictures (time, row, column, RGB) of a bright square that moves one pixel a frame."""
    ground = np.random.default_rng(seed).integers(0, 40, size=(side, side, 3), dtype=np.uint8)
    pictures = np.repeat(ground[None], frames, axis=0)
    for number, picture in enumerate(pictures):
        start = 8 + number % (side // 2)
        picture[side // 4 : side // 2, start : start + side // 4] = 220
    return pictures


def grey_levels(levels: Sequence[int], height: int = 48, width: int = 64) -> NDArray[np.uint8]:
    """Return pictures (time, row, column, RGB) of one gray level each, which tells them apart."""
    return np.stack([np.full((height, width, 3), level, dtype=np.uint8) for level in levels])


def write_wav(path: Path, samples: NDArray, rate_hz: int = RATE_HZ) -> Path:
    """Write samples (sample,) or (sample, channel) as a 16-bit file of the type that its suffix names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, rate_hz, subtype="PCM_16")
    return path


def write_media(
    path: Path,
    pictures: NDArray | None = None,
    sound: NDArray | None = None,
    *,
    video: str = "libx264",
    pixels: str = "yuv420p",
    rate_hz: int = 25,
    shown_ms: Sequence[int] | None = None,
    pictures_at_s: float = 0,
    options: dict[str, str] | None = None,
    pixel_shape: Fraction | None = None,
    rotation: int = 0,
    audio: str = "aac",
    sound_rate_hz: int = RATE_HZ,
    sound_at_s: float = 0,
) -> Path:
    """Write video, audio or both with FFmpeg; the suffix of the path names the container.

    Args:
        path: of the file.
        pictures: (time, row, column, RGB or RGBA) uint8.
        sound: (sample,).
        video: codec of the pictures.
        pixels: their format.
        rate_hz: pictures a second, unless ``shown_ms`` says when each appears.
        shown_ms: time of each picture.
        pictures_at_s: time of the first picture.
        options: of the codec of the pictures.
        pixel_shape: width of a pixel over its height.
        rotation: of the pictures when they are shown, in degrees.
        audio: codec of the sound.
        sound_rate_hz: samples a second.
        sound_at_s: time of the first sample.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        if pictures is not None:
            shown = container.add_stream(video, rate=rate_hz, options=options or {})
            shown.height, shown.width, shown.pix_fmt = *pictures.shape[1:3], pixels
            if pixel_shape is not None:
                shown.codec_context.sample_aspect_ratio = pixel_shape
            if rotation:
                shown.set_display_rotation(rotation)
            if shown_ms is not None:
                shown.time_base = shown.codec_context.time_base = MILLISECOND
        heard = None if sound is None else container.add_stream(audio, rate=sound_rate_hz, layout="mono")
        if pictures is not None:
            first = round(rate_hz * pictures_at_s)
            counted = range(first, first + len(pictures))
            times, unit = (counted, Fraction(1, rate_hz)) if shown_ms is None else (shown_ms, MILLISECOND)
            encode_pictures(container, shown, pictures, times, unit)
        if heard is not None and sound is not None:
            encode_sound(container, heard, sound, sound_at_s)
    return path


def encode_pictures(
    container: av.container.OutputContainer,
    stream: av.VideoStream,
    pictures: NDArray,
    times: Sequence[int],
    unit: Fraction,
) -> None:
    """Encode pictures (time, row, column, RGB or RGBA), each at its time in units of so many seconds."""
    for picture, time in zip(pictures, times, strict=True):
        frame = av.VideoFrame.from_ndarray(picture, format="rgba" if picture.shape[2] == 4 else "rgb24")
        frame.pts, frame.time_base = time, unit
        container.mux(stream.encode(frame))
    container.mux(stream.encode())


def encode_sound(
    container: av.container.OutputContainer, stream: av.AudioStream, samples: NDArray, at_s: float = 0, rate_hz: int = 0
) -> None:
    """Encode samples (sample,) or (sample, channel) of ``rate_hz``, by default the stream's, from a time on."""
    target = stream.codec_context
    rate = rate_hz or target.sample_rate
    values = np.ascontiguousarray(np.atleast_2d(samples.T.astype(np.float32)))
    frame = av.AudioFrame.from_ndarray(values, format="fltp", layout=target.layout.name)
    frame.sample_rate, frame.pts, frame.time_base = rate, round(at_s * rate), Fraction(1, rate)
    resampler = av.AudioResampler(
        format=target.format.name, layout=target.layout.name, rate=target.sample_rate, frame_size=target.frame_size or 0
    )
    for part in [*resampler.resample(frame), *resampler.resample(None)]:
        container.mux(stream.encode(part))
    container.mux(stream.encode())


def write_mp4(
    path: Path, pictures: NDArray, rate_hz: int = 25, sound: NDArray | None = None, rotation: int = 0
) -> Path:
    """Write pictures (time, row, column, RGB) uint8 and, if given, sound (sample,) at 16 kHz."""
    options = {"crf": "12", "preset": "veryfast"}
    return write_media(path, pictures, sound, rate_hz=rate_hz, rotation=rotation, options=options)


def write_sound_only_mp4(path: Path, sound: NDArray) -> Path:
    return write_media(path, sound=sound)


def write_clip(
    path: Path, samples: NDArray, seconds: float = 2, pictures: NDArray | None = None, **times: float
) -> Path:
    """Write sound (sample,) at 16 kHz and pictures (time, 64, 64, RGB); ``times`` as in ``write_media``.

    Without ``pictures`` a square moves for ``seconds``.
    """
    shown = moving_square(round(25 * seconds), side=64) if pictures is None else pictures
    audio = "pcm_s16le" if path.suffix == ".mov" else "aac"
    return write_media(path, shown, samples, audio=audio, options={"preset": "ultrafast"}, **times)

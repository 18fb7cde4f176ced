"""Short films with pictures and sound in one file, in the formats that corpora come in."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
from rendered_media import moving_square, tone

CODECS = {".avi": ("mpeg4", "pcm_s16le"), ".flv": ("flv", "libmp3lame"), ".mp4": ("libx264", "aac")}
RATE_HZ = 22_050


def write_film(path: Path, frames: int = 15, seed: int = 0) -> Path:
    """Write ``frames`` pictures at 25 per second with a tone of the same length; the suffix names the format."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture_codec, sound_codec = CODECS[path.suffix]
    with av.open(str(path), "w") as container:
        pictures = container.add_stream(picture_codec, rate=25)
        pictures.width = pictures.height = 96
        pictures.pix_fmt = "yuv420p"
        sound = container.add_stream(sound_codec, rate=RATE_HZ)
        for number, picture in enumerate(moving_square(frames, seed=seed)):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = number
            container.mux(pictures.encode(frame))
        container.mux(pictures.encode())
        samples = (tone(200 + seed, frames / 25, RATE_HZ, 0.5) * 32767).astype(np.int16)[None]
        whole = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
        whole.rate = RATE_HZ
        resampler = av.AudioResampler(format=sound.format.name, layout=sound.layout.name, rate=RATE_HZ)
        fifo = av.AudioFifo()
        for piece in resampler.resample(whole):
            fifo.write(piece)
        while piece := fifo.read(sound.codec_context.frame_size or 1024, partial=True):
            container.mux(sound.encode(piece))
        container.mux(sound.encode())
    return path

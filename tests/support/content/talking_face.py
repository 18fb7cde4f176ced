"""Pictures of a face that OpenCV finds, drawn by the demo corpus."""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray

from demo_corpus.latent import Clip, clip_latent
from demo_corpus.picture import render_frames
from demo_corpus.settings import DemoCorpusSettings


def talking_face(frames: int, emotion: str = "happy", speaker: str = "f01") -> NDArray:
    """Return pictures (time, 160, 160, RGB) of one of the demo corpus' faces."""
    settings = DemoCorpusSettings()
    latent = clip_latent(settings, Clip(speaker, "s1", emotion, 1))
    pictures = itertools.islice(render_frames(settings, latent), frames)
    return np.stack([picture[..., ::-1] for picture in pictures])

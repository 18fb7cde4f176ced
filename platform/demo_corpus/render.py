"""Render one clip into its two files."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import av
import soundfile

from demo_corpus.latent import Clip, clip_latent
from demo_corpus.picture import render_frames
from demo_corpus.settings import DemoCorpusSettings, audio_path, video_path
from demo_corpus.strokes import Image
from demo_corpus.voice import render_voice
from vavl.config.files import written_beside


def is_finished(root: Path, clip: Clip) -> bool:
    """Say whether both files of a clip are in place; a file that has its name is whole."""
    return all(path(root, clip.speaker, clip.clip_id).exists() for path in (audio_path, video_path))


def render_clip(settings: DemoCorpusSettings, root: Path, clip: Clip) -> str:
    """Write a clip's .wav and .mp4 below ``root``, each whole or not at all; return its id.

    A file depends on the settings and the clip's names alone: rendering a part of the corpus, in any
    order and in any number of processes, gives the same files.
    """
    latent = clip_latent(settings, clip)
    with written_beside(audio_path(root, clip.speaker, clip.clip_id)) as partial:
        sound = render_voice(settings, latent)
        soundfile.write(partial, sound, settings.sample_rate_hz, subtype="PCM_16", format="WAV")
    with written_beside(video_path(root, clip.speaker, clip.clip_id)) as partial:
        write_video(partial, render_frames(settings, latent), settings)
    return clip.clip_id


def write_video(path: Path, frames: Iterable[Image], settings: DemoCorpusSettings) -> None:
    """Encode frames (size, size, 3), uint8, blue-green-red, as H.264 in an .mp4 without sound."""
    with av.open(str(path), "w", format="mp4") as container:
        # One thread and no B frames: the same bytes everywhere, and the first frame is at time 0.
        options = {"preset": "superfast", "crf": "22", "bf": "0", "threads": "1"}
        stream = container.add_stream("libx264", rate=settings.frame_rate_hz, options=options)
        stream.width = stream.height = settings.image_size_px
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="bgr24")))
        container.mux(stream.encode(None))

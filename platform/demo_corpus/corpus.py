"""Render the whole demo corpus: in parallel, resumable, and never over another corpus; its files and its faces."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

import av
import cv2
import numpy as np
import soundfile

from demo_corpus.latent import Clip, ClipLatent, clip_latent, clips_of, speakers_of
from demo_corpus.motion import face_motion
from demo_corpus.picture import render_frames
from demo_corpus.settings import EMOTIONS, GENERATOR_VERSION, DemoCorpusSettings, audio_path, settings_hash, video_path
from demo_corpus.strokes import Image
from demo_corpus.voice import render_voice
from vavl.config.files import make_directory, read_json, write_json, write_text, written_beside
from vavl.config.progress import show_progress
from vavl.errors import CorpusError

_DIRECTORIES = ("audio", "video")


@dataclass(frozen=True)
class RenderReport:
    """What a call of ``render_corpus`` did."""

    clips: int
    rendered: int  # clips rendered now; the others were there already
    seconds: float
    media_seconds: float

    @property
    def clips_per_second(self) -> float:
        """Clips rendered per second of wall time."""
        return self.rendered / self.seconds


def check_directory(root: Path, settings: DemoCorpusSettings, overwrite: bool) -> None:
    """Make sure that rendering into ``root`` harms nothing.

    Raises:
        CorpusError: the directory holds media of unknown origin, or a demo corpus of other settings and
            ``overwrite`` is off.
    """
    mark = root / "corpus.json"
    if not mark.exists():
        if any((root / name).exists() for name in _DIRECTORIES):
            raise CorpusError(
                str(root), "output_dir", "holds media that this job did not render", "choose another output_dir"
            )
        return
    found, wanted = read_json(mark).get("settings_hash"), settings_hash(settings)
    if found != wanted and not overwrite:
        raise CorpusError(
            str(mark), "settings_hash", f"a demo corpus of other settings is here ({found}, not {wanted})",
            "choose another output_dir, or set overwrite=true to replace it",
        )  # fmt: skip


def render_corpus(
    root: Path, settings: DemoCorpusSettings, workers: int | None = None, overwrite: bool = False
) -> RenderReport:
    """Render all clips that are not there yet, the table of latents and a contact sheet.

    Raises:
        CorpusError: see ``check_directory``.
        InputError: the directory cannot be written.
    """
    started = time.monotonic()
    check_directory(root, settings, overwrite)
    make_directory(root)
    if overwrite:
        for name in _DIRECTORIES:
            shutil.rmtree(root / name, ignore_errors=True)
    _remove_leftovers(root)
    content = {
        "settings_hash": settings_hash(settings),
        "generator_version": GENERATOR_VERSION,
        "settings": settings.model_dump(mode="json"),
    }
    write_json(root / "corpus.json", content)
    clips = clips_of(settings)
    media_seconds = _write_latents(root / "latents.csv", settings, clips)
    missing = [clip for clip in clips if not is_finished(root, clip)]
    for _ in show_progress(_rendered(root, settings, missing, workers), len(missing), "rendering clips"):
        pass
    write_contact_sheet(root, settings)
    return RenderReport(len(clips), len(missing), time.monotonic() - started, media_seconds)


def _rendered(root: Path, settings: DemoCorpusSettings, clips: Sequence[Clip], workers: int | None) -> Iterator[str]:
    """Render the clips and yield their ids as they are done, in their order."""
    workers = min(workers or len(os.sched_getaffinity(0)), max(1, len(clips) // 4))
    render = partial(render_clip, settings, root)
    if workers == 1:
        yield from map(render, clips)
        return
    # Fresh processes: a fork would copy whatever threads the caller has running.
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), cv2.setNumThreads, (1,))
    try:
        yield from pool.map(render, clips, chunksize=4)
    finally:
        pool.shutdown(cancel_futures=True)


def _remove_leftovers(root: Path) -> None:
    """Remove the unfinished files of a run that was killed."""
    for name in _DIRECTORIES:
        for leftover in (root / name).rglob(".*.partial"):
            leftover.unlink(missing_ok=True)


def _write_latents(path: Path, settings: DemoCorpusSettings, clips: Sequence[Clip]) -> float:
    """Write one row of latents per clip; return the length of all clips in seconds."""
    views = [f"{view}_{emotion}" for view in ("shared", "voice", "face") for emotion in EMOTIONS]
    lines = [",".join(["clip_id", "speaker", "sentence", "emotion", "take", *views, "tempo", "seconds"])]
    total = 0.0
    for clip in clips:
        latent = clip_latent(settings, clip)
        total += latent.seconds
        numbers = [*latent.shared, *latent.voice, *latent.face, latent.tempo, latent.seconds]
        names = [clip.clip_id, clip.speaker, clip.sentence, clip.emotion, str(clip.take)]
        lines.append(",".join([*names, *(f"{number:.6f}" for number in numbers)]))
    write_text(path, "\n".join(lines) + "\n")
    return total


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


_TITLE_PX, _MARGIN_PX = 26, 44


def write_contact_sheet(root: Path, settings: DemoCorpusSettings, speakers: int = 6) -> Path:
    """Write ``contact_sheet.png``: a row per speaker, a column per emotion, each from the clearest take."""
    names = speakers_of(settings)
    chosen = [names[place] for place in np.linspace(0, len(names) - 1, min(speakers, len(names))).round().astype(int)]
    clearest = _clearest_takes(settings)
    rows = [_titles(settings)]
    for speaker in chosen:
        faces = [_face_at_peak(root, settings, clearest[speaker, emotion]) for emotion in EMOTIONS]
        rows.append(np.hstack([_label(speaker, settings), *faces]))
    path = root / "contact_sheet.png"
    with written_beside(path) as partial:
        partial.write_bytes(cv2.imencode(".png", np.vstack(rows))[1].tobytes())
    return path


def _clearest_takes(settings: DemoCorpusSettings) -> dict[tuple[str, str], ClipLatent]:
    """Return for each speaker and emotion the clip whose face stands out most for its own emotion."""
    clearest: dict[tuple[str, str], ClipLatent] = {}
    for clip in clips_of(settings):
        latent, key = clip_latent(settings, clip), (clip.speaker, clip.emotion)
        if key not in clearest or _clarity(latent) > _clarity(clearest[key]):
            clearest[key] = latent
    return clearest


def _clarity(latent: ClipLatent) -> float:
    pure = [float(name == latent.clip.emotion) for name in EMOTIONS]
    return -float(np.linalg.norm(latent.face - pure))


def _face_at_peak(root: Path, settings: DemoCorpusSettings, latent: ClipLatent) -> Image:
    """Read the frame at the peak of the expression, or the next one without a blink."""
    blinks = np.array([pose.blink for pose, _ in face_motion(settings, latent)])
    away = np.abs(np.arange(len(blinks)) / len(blinks) - latent.peak - 0.05)
    place = int(np.argmin(away + blinks))
    path = video_path(root, latent.clip.speaker, latent.clip.clip_id)
    with av.open(str(path)) as container:
        frames = islice(container.decode(video=0), place, None)
        picture: Image = next(frames).to_ndarray(format="bgr24")
    return picture


def _titles(settings: DemoCorpusSettings) -> Image:
    size = settings.image_size_px
    strip = np.full((_TITLE_PX, _MARGIN_PX + size * len(EMOTIONS), 3), 255, np.uint8)
    for column, emotion in enumerate(EMOTIONS):
        _write(strip, emotion, (_MARGIN_PX + column * size + 8, 18))
    return strip


def _label(speaker: str, settings: DemoCorpusSettings) -> Image:
    strip = np.full((settings.image_size_px, _MARGIN_PX, 3), 255, np.uint8)
    _write(strip, speaker, (6, settings.image_size_px // 2))
    return strip


def _write(image: Image, text: str, place: tuple[int, int]) -> None:
    cv2.putText(image, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.5, (40, 40, 40), 1, cv2.LINE_AA)

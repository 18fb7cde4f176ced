"""Render the whole demo corpus: in parallel, resumable, and never over another corpus."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2

from demo_corpus.contact_sheet import write_contact_sheet
from demo_corpus.latent import Clip, clip_latent, clips_of
from demo_corpus.render import is_finished, render_clip
from demo_corpus.settings import EMOTIONS, GENERATOR_VERSION, DemoCorpusSettings, settings_hash
from vavl.config.files import make_directory, read_json, write_json, write_text
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

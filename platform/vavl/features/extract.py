"""The pipeline from a corpus folder to a feature store."""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path

import cv2
import torch

from vavl.config.files import make_folder, write_json, write_text
from vavl.data.store import MODALITIES, FeatureStore
from vavl.data.store_writer import StoreWriter
from vavl.errors import InputError, StoreError
from vavl.features.audio import audio_extractor
from vavl.features.crew import run_parts
from vavl.features.part import Part, PartRecord, extract_part, read_part, read_part_record
from vavl.features.plan import ExtractionPlan, check_same_extraction
from vavl.features.progress import ClipProgress
from vavl.features.quarantine import Quarantined, write_quarantine
from vavl.features.settings import FeatureSettings
from vavl.features.table import TableExtractor
from vavl.features.video import video_extractor

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ExtractionRun:
    """How an extraction runs; nothing here changes what a store holds.

    Attributes:
        processes: that extract; None is one per core, 0 works in this process.
        max_quarantined_share: of all (clip, modality) pairs; more failures end the job.
        resume: continue an interrupted extraction, or throw its parts away.
    """

    processes: int | None = None
    max_quarantined_share: float = 0.02
    resume: bool = True


@dataclass(frozen=True)
class ExtractionResult:
    """What an extraction did.

    Attributes:
        store: the finished store.
        seconds: of work, this time.
        extracted: (clip, modality) pairs worked on, this time.
        continued: pairs finished by an earlier, interrupted run.
        quarantined: all that are left out.
        tally: sums over all clips, e.g. ``face_frames``.
    """

    store: FeatureStore
    seconds: float
    extracted: int
    continued: int
    quarantined: tuple[Quarantined, ...]
    tally: Mapping[str, int]


def extract_features(plan: ExtractionPlan, run: ExtractionRun) -> ExtractionResult:
    """Extract all clips of a plan and write the store.

    An interrupted call leaves finished parts behind, the next call continues with the others; the
    result is the same to the byte. Clips in quarantine are tried again.

    Raises:
        InputError: the folder cannot be written, or too many clips cannot be read.
        StoreError: parts of another extraction are in the folder, or another job is at work there.
        ConfigError: settings of an extractor do not fit together.
    """
    start = time.monotonic()
    make_folder(plan.parts_folder)
    with _only_job(plan.parts_folder):
        _prepare_folder(plan, resume=run.resume)
        records, pending = _finished_parts(plan)
        total = sum(plan.clips(modality) for modality in plan.infos)
        if total > pending:
            logger.info("continuing: %d of %d are done", total - pending, total)
        allowed = int(run.max_quarantined_share * total)
        with ClipProgress("extracting", total, total - pending) as progress:
            for part, record in _work(plan, frozenset(records), run.processes):
                records[part.path.name] = record
                progress.advance(len(part.clips))
                _refuse_too_many(plan, records, allowed, total)
        store = _write_store(plan, records)
    tally: Counter[str] = Counter()
    for record in records.values():
        tally.update(record.tally)
    seconds = time.monotonic() - start
    return ExtractionResult(store, seconds, pending, total - pending, _quarantined(records), dict(tally))


def extract_media_part(part: Part, root: Path, settings: FeatureSettings) -> PartRecord:
    """Extract one part from media files; runs in a process of its own."""
    is_audio = part.modality == "audio"
    extract = audio_extractor(settings.audio) if is_audio else video_extractor(settings.video)
    return extract_part(part, lambda clip: extract(root / clip.file))


def use_one_thread() -> None:
    """Let the libraries of this process use one thread each: there is a process per core."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)


def _work(
    plan: ExtractionPlan, finished: frozenset[str], processes: int | None
) -> Iterator[tuple[Part, PartRecord]]:
    """Extract the parts that are not finished; video first, it takes longest."""
    media = ["audio"] if plan.table is not None else ["video", "audio"]
    pending = (
        part
        for modality in media
        if modality in plan.infos
        for part in plan.parts(modality)
        if part.path.name not in finished
    )
    first = next(pending, None)
    if first is not None:
        work = partial(extract_media_part, root=plan.root, settings=plan.settings)
        cores = len(os.sched_getaffinity(0)) if processes is None else processes
        yield from run_parts(chain([first], pending), work, cores, use_one_thread)
    if plan.table is not None and "video" in plan.infos:
        # Looking up rows takes no time worth a process, and the table stays in one place.
        rows = TableExtractor(plan.table_file, plan.table)
        for part in plan.parts("video"):
            if part.path.name not in finished:
                yield part, extract_part(part, lambda clip: rows.extract(clip.file, _below(plan, clip.sound)))


def _below(plan: ExtractionPlan, sound: str | None) -> Path | None:
    return None if sound is None else plan.root / sound


def _prepare_folder(plan: ExtractionPlan, *, resume: bool) -> None:
    """Remove what an interrupted job left half done, or everything; state what is extracted here."""
    if not resume:
        for path in plan.parts_folder.glob("*.*"):
            path.unlink()
    elif check_same_extraction(plan):
        for path in (*plan.folder.glob(".*.partial"), *plan.parts_folder.glob(".*.*")):
            path.unlink()
        return
    else:
        for path in plan.parts_folder.glob("*.parquet"):
            path.unlink()
    (plan.folder / "store.json").unlink(missing_ok=True)
    write_json(plan.parts_folder / "extraction.json", plan.identity())


def _finished_parts(plan: ExtractionPlan) -> tuple[dict[str, PartRecord], int]:
    """Return the records of parts that need no more work, by file name, and the clips still to do."""
    records: dict[str, PartRecord] = {}
    pending = 0
    for modality in plan.infos:
        for part in plan.parts(modality):
            record = read_part_record(part.path) if part.path.exists() else None
            if record is not None and not record.quarantined:
                records[part.path.name] = record
                continue
            pending += len(part.clips)
            if record is None:
                part.path.unlink(missing_ok=True)
    return records, pending


def _quarantined(records: Mapping[str, PartRecord]) -> tuple[Quarantined, ...]:
    return tuple(entry for name in sorted(records) for entry in records[name].quarantined)


def _refuse_too_many(
    plan: ExtractionPlan, records: Mapping[str, PartRecord], allowed: int, total: int
) -> None:
    quarantined = _quarantined(records)
    if len(quarantined) <= allowed:
        return
    path = write_quarantine(plan.folder, quarantined)
    first = quarantined[0]
    raise InputError(
        str(path), "max_quarantined_share",
        f"more than {allowed} of {total} files cannot be read, e.g. {first.file}: {first.reason}",
        "repair the files listed there, or raise max_quarantined_share; the same command then continues",
    )  # fmt: skip


def _write_store(plan: ExtractionPlan, records: Mapping[str, PartRecord]) -> FeatureStore:
    """Put the parts together; store.json comes last and makes the folder a store."""
    quarantined = _quarantined(records)
    writer = StoreWriter(plan.folder, plan.manifest.corpus, plan.manifest.card_hash)
    plan.manifest.write(plan.folder)
    write_quarantine(plan.folder, quarantined)
    notes = [
        json.dumps({"clip_id": clip_id, "modality": name.partition("-")[0], "note": note}, ensure_ascii=False)
        for name in sorted(records)
        for clip_id, note in sorted(records[name].notes.items())
    ]
    write_text(plan.folder / "notes.jsonl", "".join(f"{line}\n" for line in notes))
    for modality in MODALITIES:
        if modality in plan.infos:
            batches = (
                batch for part in plan.parts(modality) for batch in read_part(part.path)[0].to_batches()
            )
            writer.write_modality(modality, plan.infos[modality], batches)
        else:
            writer.leave_out(modality)
    writer.finish({"clips": len(plan.manifest), "quarantined": len(quarantined)})
    return FeatureStore.open(plan.folder)


@contextlib.contextmanager
def _only_job(folder: Path) -> Iterator[None]:
    """Hold the lock of the folder; the system frees it when the process ends, however it ends."""
    with (folder / "lock").open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise StoreError(
                str(folder.parent), "", "another job is writing this store", "wait for it, or end it"
            ) from None
        yield

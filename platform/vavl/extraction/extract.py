"""The pipeline from a corpus folder to a feature store."""

from __future__ import annotations

import heapq
import json
import logging
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from vavl.config.files import make_folder, written_beside
from vavl.config.progress import Progress
from vavl.errors import InputError, StoreError
from vavl.extraction.crew import extract_parts
from vavl.extraction.extraction_settings import ExtractionRun
from vavl.extraction.part import PartResult
from vavl.extraction.part_file import ClipRecord, part_batches, read_part_record
from vavl.extraction.parts_folder import only_job, open_parts_folder
from vavl.extraction.plan import ExtractionPlan
from vavl.extraction.quarantine import Quarantined, write_quarantine
from vavl.extraction.sources import ClipPlace
from vavl.features import MODALITIES
from vavl.store.clip_facts import write_facts
from vavl.store.store import FeatureStore
from vavl.store.store_writer import StoreWriter

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ExtractionResult:
    """What an extraction did; all counts but ``tally`` are of (clip, modality) pairs.

    Attributes:
        store: the finished store.
        seconds: of work, this time.
        extracted: worked on, this time.
        kept: taken over from earlier: neither file nor settings changed.
        added: extracted, and not in the store before.
        extracted_again: extracted, and in the store before: the file or the settings changed.
        removed: in the store before, and no longer in the corpus folder.
        quarantined: all that are left out.
        tally: sums over all clips, e.g. ``face_frames``.
    """

    store: FeatureStore
    seconds: float
    extracted: int
    kept: int
    added: int
    extracted_again: int
    removed: int
    quarantined: tuple[Quarantined, ...]
    tally: Mapping[str, int]


def extract_features(plan: ExtractionPlan, run: ExtractionRun) -> ExtractionResult:
    """Extract the clips of a plan that are not in the folder yet and write the store.

    What an earlier call finished is kept, also an interrupted one, as long as a clip's file and the
    settings of its extractor are the same; the result is that of a call from nothing, to the byte. Clips in
    quarantine are tried again. A store that is there stays readable until the new one is written.

    Raises:
        InputError: the folder cannot be written, or too many clips cannot be read.
        StoreError: the folder holds another corpus, or another job is at work there.
        ConfigError: settings of an extractor do not fit together.
    """
    start = time.monotonic()
    make_folder(plan.parts_folder)
    with only_job(plan.parts_folder):
        before = _StoreBefore(plan.folder if run.resume else None)
        folder = open_parts_folder(plan, resume=run.resume)
        total, left = plan.total, folder.pairs_left
        if total > left:
            logger.info("%d of %d files are in the folder already, unchanged", total - left, total)
        results = dict(folder.finished)
        allowed = int(run.max_quarantined_share * total)
        with Progress("extracting", total, total - left, "clips") as progress:
            clips_of = _clips_by_name(plan)
            for name, result in extract_parts(folder, run):
                results[name] = result
                before.count(name.partition("-")[0], result)
                progress.advance(clips_of[name])
                _refuse_too_many(plan, results, allowed)
        store = _write_store(plan, results)
        folder.remove_rest()
    tally: Counter[str] = Counter()
    for result in results.values():
        tally.update(result.tally)
    extracted = sum(len(result.extracted) for result in results.values())
    done = ExtractionResult(
        store, time.monotonic() - start, extracted, total - extracted, before.added, before.again,
        before.removed(plan), _quarantined(results), dict(tally),
    )  # fmt: skip
    _log_changes(done)
    return done


class _StoreBefore:
    """The store that was in the folder, to tell new clips from those that are extracted again.

    Args:
        folder: of the store; None if it is to be replaced.
    """

    def __init__(self, folder: Path | None) -> None:
        self.added = self.again = 0
        self._ids: dict[str, pa.ChunkedArray] = {}
        try:
            store = FeatureStore.open(folder) if folder is not None else None
        except (StoreError, KeyError):
            return
        self._ids = {name: store.clip_ids(name) for name in store.info} if store is not None else {}

    def count(self, modality: str, result: PartResult) -> None:
        bad = {entry.clip_id for entry in result.quarantined}
        good = pa.array([clip_id for clip_id in result.extracted if clip_id not in bad], pa.string())
        again = pc.sum(pc.is_in(good, value_set=self._ids_of(modality))).as_py() or 0
        self.again += again
        self.added += len(good) - again

    def removed(self, plan: ExtractionPlan) -> int:
        count = 0
        for modality, ids in self._ids.items():
            now = plan.clip_ids(modality).combine_chunks()
            count += len(ids) - (pc.sum(pc.is_in(ids, value_set=now)).as_py() or 0)
        return count

    def _ids_of(self, modality: str) -> pa.Array:
        ids = self._ids.get(modality)
        return pa.array([], pa.string()) if ids is None else ids.combine_chunks()


def _log_changes(done: ExtractionResult) -> None:
    logger.info(
        "files: %d added, %d kept, %d extracted again, %d removed, %d in quarantine",
        done.added, done.kept, done.extracted_again, done.removed, len(done.quarantined),
    )  # fmt: skip


def _clips_by_name(plan: ExtractionPlan) -> dict[str, int]:
    return {
        plan.file_name(modality, number): place.length
        for modality, places in plan.layout.items()
        for number, place in enumerate(places)
    }


def _quarantined(results: Mapping[str, PartResult]) -> tuple[Quarantined, ...]:
    return tuple(entry for name in sorted(results) for entry in results[name].quarantined)


def _refuse_too_many(plan: ExtractionPlan, results: Mapping[str, PartResult], allowed: int) -> None:
    quarantined = _quarantined(results)
    if len(quarantined) <= allowed:
        return
    path = write_quarantine(plan.folder, quarantined)
    first = quarantined[0]
    raise InputError(
        str(path), "max_quarantined_share",
        f"more than {allowed} of {plan.total} files cannot be read, e.g. {first.file}: {first.reason}",
        "repair the files listed there, or raise max_quarantined_share; the same command then continues",
    )  # fmt: skip


def _write_store(plan: ExtractionPlan, results: Mapping[str, PartResult]) -> FeatureStore:
    """Put the parts together; store.json comes last and makes the folder a store."""
    quarantined = _quarantined(results)
    writer = StoreWriter(plan.folder, plan.manifest.corpus, plan.manifest.card_hash)
    plan.manifest.write(plan.folder)
    write_quarantine(plan.folder, quarantined)
    _write_notes(plan)
    rows = [_facts(plan, modality) for modality in plan.sources]
    write_facts(plan.folder, heapq.merge(*rows, key=lambda row: (row["clip_id"], row["modality"])))
    for modality in MODALITIES:
        if modality in plan.sources:
            batches = (batch for part in plan.parts(modality) for batch in part_batches(part.path))
            writer.write_modality(modality, plan.infos[modality], batches)
        else:
            writer.leave_out(modality)
    writer.finish({"clips": len(plan.manifest), "quarantined": len(quarantined)})
    return FeatureStore.open(plan.folder)


def _write_notes(plan: ExtractionPlan) -> None:
    with written_beside(plan.folder / "notes.jsonl") as partial, partial.open("w", encoding="utf-8") as file:
        for modality in plan.sources:
            for clip, record in _records(plan, modality):
                if record.note is not None:
                    line = {"clip_id": clip.clip_id, "modality": modality, "note": record.note}
                    file.write(json.dumps(line, ensure_ascii=False) + "\n")


def _facts(plan: ExtractionPlan, modality: str) -> Iterator[dict[str, Any]]:
    shared = plan.sources[modality].shared_file
    for clip, record in _records(plan, modality):
        yield {
            "clip_id": clip.clip_id,
            "modality": modality,
            "file": shared or clip.file,
            # Of a shared file it would make all clips look like copies of each other.
            "sha256": record.sha256 if shared is None else None,
            **record.facts,
        }


def _records(plan: ExtractionPlan, modality: str) -> Iterator[tuple[ClipPlace, ClipRecord]]:
    """Yield the clips of the store in their order; one part's records are in memory."""
    for part in plan.parts(modality):
        record = read_part_record(part.path)
        if record is None:
            raise StoreError(str(part.path), "", "was changed while the store was written", "try again")
        yield from ((clip, record.clips[clip.clip_id]) for clip in part.clips if clip.clip_id in record.clips)

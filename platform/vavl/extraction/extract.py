"""From a corpus directory to a feature store: plan, parts, store."""

from __future__ import annotations

import heapq
import json
import logging
import math
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from vavl.config.files import make_directory, written_beside
from vavl.config.progress import Progress
from vavl.errors import InputError, StoreError
from vavl.extraction.parts import ClipRecord, PartExtractor, PartRecord, PartResult
from vavl.extraction.plan import ExtractionPlan, FoundParts, find_parts
from vavl.extraction.report import ExtractionResult, Quarantined, write_quarantine
from vavl.extraction.settings import ExtractionRun
from vavl.extraction.sources import ClipPlace
from vavl.features import MODALITIES
from vavl.store.clip_facts import write_facts
from vavl.store.store import FeatureStore
from vavl.store.store_writer import StoreWriter
from vavl.workers.attempts import TimeLimit
from vavl.workers.local import only_job, threads_of_libraries, uses_ray

logger = logging.getLogger(__name__)


def extract_features(plan: ExtractionPlan, run: ExtractionRun) -> ExtractionResult:
    """Extract the clips of a plan that are not in the directory yet and write the store.

    What an earlier call finished is kept, also an interrupted one, as long as a clip's file and the
    settings of its extractor are the same; the result is that of a call from nothing, to the byte. Clips in
    quarantine are tried again. A store that is there stays readable until the new one is written.

    Raises:
        InputError: the directory cannot be written, or too many clips cannot be read.
        StoreError: the directory holds another corpus, or another job is at work there.
        ConfigError: settings of an extractor do not fit together.
    """
    start = time.monotonic()
    make_directory(plan.parts_directory)
    with only_job(plan.parts_directory):
        before = _StoreBefore(plan.directory if run.resume else None)
        found = find_parts(plan, resume=run.resume)
        total, left = plan.total, found.pairs_left(*plan.sources)
        if total > left:
            logger.info("%d of %d files are in the directory already, unchanged", total - left, total)
        results = dict(found.finished)
        lengths = {place.name: place.length for places in plan.layout.values() for place in places}
        with Progress("extracting", total, total - left, "clips") as progress:
            for result in extract_parts(found, run):
                results[result.name] = result
                before.count(result)
                progress.advance(lengths[result.name])
                _refuse_too_many(plan, results, int(run.max_quarantined_share * total))
        store = _write_store(plan, results)
        found.remove_rest()
    tally: Counter[str] = Counter()
    for result in results.values():
        tally.update(result.tally)
    extracted = sum(len(result.extracted) for result in results.values())
    done = ExtractionResult(
        store=store,
        clips=len(plan.manifest),
        seconds=time.monotonic() - start,
        extracted=extracted,
        kept=total - extracted,
        added=before.added,
        extracted_again=before.again,
        removed=before.removed(plan),
        quarantined=_entries(plan, results, "quarantined"),
        without_signal=_entries(plan, results, "without_signal"),
        tally=dict(tally),
    )
    message = "files: %d added, %d kept, %d extracted again, %d removed, %d in quarantine"
    counts = done.added, done.kept, done.extracted_again, done.removed, len(done.quarantined)
    logger.info(message, *counts)
    return done


def extract_parts(found: FoundParts, run: ExtractionRun) -> Iterator[PartResult]:
    """Extract the pending parts, here or on Ray's workers; yield the result of each when it is there, in any order.

    Raises:
        VavlError: what an extractor raised for other reasons than a clip.
        TrainingError: Ray does not start, or workers end before they touch a clip.
    """
    plan, limit = found.plan, run.seconds_per_clip
    # Video first: it takes longest.
    here = sorted(plan.sources, reverse=True)
    away = [name for name in here if plan.sources[name].in_workers and found.pairs_left(name)]
    if away and uses_ray(run, found.pairs_left(*away), found.was_killed):
        # Reading Ray's package alone takes seconds.
        from vavl.workers.ray_pool import work_on_ray

        parts = [part for name in away for part in found.parts_left(name)]
        work = PartExtractor({name: plan.sources[name] for name in away}, TimeLimit(limit, ends_process=True))
        yield from work_on_ray(parts, work, (plan.root, plan.parts_directory), run, "extraction")
        here = [name for name in here if not plan.sources[name].in_workers]
    work = PartExtractor(plan.sources, TimeLimit(limit, ends_process=False))
    with threads_of_libraries(math.ceil(run.cpus_per_worker)):
        for name in here:
            yield from map(work, found.parts_left(name))


class _StoreBefore:
    """The store that was there (None if it is to be replaced): tells new clips from those extracted again."""

    def __init__(self, directory: Path | None) -> None:
        self.added = self.again = 0
        self._ids: dict[str, pa.ChunkedArray] = {}
        try:
            store = FeatureStore.open(directory) if directory is not None else None
        except (StoreError, KeyError):
            return
        self._ids = {name: store.clip_ids(name) for name in store.info} if store is not None else {}

    def count(self, result: PartResult) -> None:
        modality = result.name.partition("-")[0]
        bad = {entry.clip_id for entry in (*result.quarantined, *result.without_signal)}
        good = pa.array([clip_id for clip_id in result.extracted if clip_id not in bad], pa.string())
        known = self._ids.get(modality, pa.chunked_array([], pa.string())).combine_chunks()
        again = pc.sum(pc.is_in(good, value_set=known)).as_py() or 0
        self.again += again
        self.added += len(good) - again

    def removed(self, plan: ExtractionPlan) -> int:
        count = 0
        for modality, ids in self._ids.items():
            now = plan.clip_ids(modality).combine_chunks()
            count += len(ids) - (pc.sum(pc.is_in(ids, value_set=now)).as_py() or 0)
        return count


def _entries(plan: ExtractionPlan, results: Mapping[str, PartResult], kind: str) -> tuple[Quarantined, ...]:
    """Return the clips in ``quarantined`` or ``without_signal`` of all finished parts, in order."""
    names = (place.name for places in plan.layout.values() for place in places if place.name in results)
    return tuple(entry for name in names for entry in getattr(results[name], kind))


def _refuse_too_many(plan: ExtractionPlan, results: Mapping[str, PartResult], allowed: int) -> None:
    quarantined = _entries(plan, results, "quarantined")
    if len(quarantined) <= allowed:
        return
    path = write_quarantine(plan.directory, quarantined)
    first = quarantined[0]
    problem = f"more than {allowed} of {plan.total} files cannot be read, e.g. {first.file}: {first.reason}"
    fix = "repair the files listed there, or raise max_quarantined_share; the same command then continues"
    raise InputError(str(path), "max_quarantined_share", problem, fix)


def _write_store(plan: ExtractionPlan, results: Mapping[str, PartResult]) -> FeatureStore:
    """Put the indices of the parts together; store.json comes last and makes the directory a store."""
    quarantined = _entries(plan, results, "quarantined")
    writer = StoreWriter(plan.directory, plan.manifest.corpus, plan.manifest.card_hash, plan.dtype)
    plan.manifest.write(plan.directory)
    write_quarantine(plan.directory, quarantined)
    _write_notes(plan, _entries(plan, results, "without_signal"))
    rows = [_facts(plan, modality) for modality in plan.sources]
    write_facts(plan.directory, heapq.merge(*rows, key=lambda row: (row["clip_id"], row["modality"])))
    for modality in (name for name in MODALITIES if name in plan.sources):
        # Read twice, for the checksums of all clips are not to be in memory.
        paths = [part.path for part in plan.parts(modality)]
        shards = [shard for path in paths for shard in _record(path).shards]
        checksums = (one for path in paths for one in _record(path).checksums)
        writer.add_shards(modality, plan.infos[modality], shards, checksums)
    writer.finish({"clips": len(plan.manifest), "quarantined": len(quarantined)})
    return FeatureStore.open(plan.directory)


def _write_notes(plan: ExtractionPlan, without_signal: Iterable[Quarantined]) -> None:
    with written_beside(plan.directory / "notes.jsonl") as partial, partial.open("w", encoding="utf-8") as file:
        for entry in without_signal:
            note = f"{entry.reason}; the clip counts as one without {entry.modality}"
            line = {"clip_id": entry.clip_id, "modality": entry.modality, "note": note}
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
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
        record = _record(part.path)
        yield from ((clip, record.clips[clip.clip_id]) for clip in part.clips if clip.clip_id in record.clips)


def _record(path: Path) -> PartRecord:
    record = PartRecord.read(path)
    if record is None:
        raise StoreError(str(path), "", "or a shard of it was changed while the store was written", "try again")
    return record

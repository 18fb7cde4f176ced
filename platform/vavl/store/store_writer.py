"""Write a feature store from record batches that are already in order, or from shards that workers wrote."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from vavl.config.files import make_directory, sha256_of_file, write_dataset_state, write_json
from vavl.corpora.manifest import FIRST_FORMAT_MANIFEST, MANIFEST_FILES
from vavl.errors import StoreError
from vavl.features import MODALITIES, ChannelSums, ModalityInfo
from vavl.store.index import IndexWriter
from vavl.store.rows import IDS_SCHEMA, checksum, ids_file, index_file
from vavl.store.shards import (
    ROW_SCHEMA,
    SHARD_BYTES,
    Dtype,
    Shard,
    ShardBatch,
    ShardWriter,
    shard_batches,
    written_stream,
)
from vavl.store.speaker_sums import SUMS_SCHEMA, SpeakerSums
from vavl.store.store import FORMAT_VERSION, content_hash

# Large enough that 200,000 clips need few batches, which a reader pays for; small enough that a writer holds some.
_ROWS_PER_BATCH = 2000
_VALUES_PER_BATCH = 2_000_000
FIRST_FORMAT_FILES = (
    FIRST_FORMAT_MANIFEST,
    "manifest.parquet",
    *(f"{name}{kind}.arrow" for name in MODALITIES for kind in ("", "_checks")),
)
"""Which format 1 had and today's has not."""
# A reader looks clips up batch by batch, with a table of the ids of one in memory.
_IDS_PER_BATCH = 2**13
_END_OF_STREAM = b"\xff\xff\xff\xff\0\0\0\0"  # of Arrow IPC


class StoreWriter:
    """Writes the files of a store; the directory is a store only after ``finish``.

    Args:
        directory: of the store; an older store.json in it is removed, for its files are about to change.
        corpus: name.
        card_hash: of the card that the clips were found with.
        dtype: of the features on disk.

    Raises:
        InputError: the directory cannot be written.
    """

    def __init__(self, directory: Path, corpus: str, card_hash: str, dtype: Dtype = "float32") -> None:
        self.directory, self.corpus, self.card_hash, self.dtype = make_directory(directory), corpus, card_hash, dtype
        for name in ("store.json", *FIRST_FORMAT_FILES):
            (directory / name).unlink(missing_ok=True)
        self._modalities: dict[str, dict[str, Any]] = {}

    def write_modality(
        self,
        modality: str,
        info: ModalityInfo,
        batches: Iterable[pa.RecordBatch],
        known_sums: Mapping[str, ChannelSums] | None = None,
    ) -> None:
        """Write the rows of one modality and the sums of its speakers; without any row, nothing.

        Args:
            modality: "audio" or "video".
            info: provenance; its counts are filled in here.
            batches: of ``ROW_SCHEMA``, sorted by clip id over all of them.
            known_sums: by speaker, of all these rows; None adds them up from the rows.

        Raises:
            StoreError: a value is not finite or too large for float16, a width differs, the clips are out of
                order, or the known sums are over other frames.
        """
        with ShardWriter(self.directory / modality, "data", info.width, self.dtype, SHARD_BYTES) as writer:
            for batch in rebatched(batches):
                writer.write(batch)
            shards = writer.finish()
        self.add_shards(modality, info, shards, known_sums=known_sums)

    def add_shards(
        self,
        modality: str,
        info: ModalityInfo,
        shards: Sequence[Shard],
        checksums: Iterable[Sequence[int]] = (),
        known_sums: Mapping[str, ChannelSums] | None = None,
    ) -> None:
        """Take shards that lie in the modality's directory, in their order; without any, the modality is left out.

        Args:
            modality: "audio" or "video".
            info: provenance; its counts are filled in here.
            shards: sorted by clip id over all of them.
            checksums: of the clips of each shard, as they were when it was written; none compares nothing.
            known_sums: by speaker, of all these rows; None adds them up from the rows.

        Raises:
            StoreError: a shard was damaged since, the clips are out of order, or the known sums are over other frames.
        """
        assert modality in MODALITIES
        self.leave_out(modality, keep=[shard.name for shard in shards])
        if not shards:
            return
        folder, sums, index = self.directory / modality, SpeakerSums(info.width, known_sums), _Index()
        found = chain.from_iterable(
            index.rows(number, shard_batches(folder / shard.name, info.width, self.dtype), folder / shard.name, stated)
            for number, (shard, stated) in enumerate(zip_longest(shards, checksums))
        )
        stream = _FirstFormat()
        with index.written(self.directory, modality):
            for batch in rebatched(found):
                sums.add(batch)
                stream.add(batch)
        sums_path = self.directory / f"{modality}_sums.arrow"
        sums.check(sums_path)
        with written_stream(sums_path, SUMS_SCHEMA) as writer:
            writer.write_batch(sums.batch())
        write_dataset_state(folder, [shard.name for shard in shards])
        info = replace(info, clips=index.places.rows, frames=sums.total_frames())
        self._modalities[modality] = {
            **vars(info),
            "settings": dict(info.settings),
            "channels": list(info.channels),
            **({} if self.dtype == "float32" else {"dtype": self.dtype}),
            **stream.entry(),
            "sums_sha256": sha256_of_file(sums_path),
            "shards": [shard.entry() for shard in shards],
        }

    def leave_out(self, modality: str, keep: Sequence[str] = ()) -> None:
        """Remove files of ``modality`` of an older store in the directory, but for shards in ``keep``."""
        for name in _side_files(modality):
            (self.directory / name).unlink(missing_ok=True)
        for path in (self.directory / modality).glob("*"):
            if path.name not in keep:
                path.unlink()
        if not keep:
            shutil.rmtree(self.directory / modality, ignore_errors=True)

    def finish(self, counts: Mapping[str, int], sources: Sequence[Mapping[str, Any]] | None = None) -> str:
        """Write store.json and return the store's hash.

        Args:
            counts: of clips and quarantine, for the reader; they do not enter the hash.
            sources: of a merged store, what is known of each store in it; likewise.
        """
        content: dict[str, Any] = {
            "format_version": FORMAT_VERSION,
            "corpus": self.corpus,
            "card_hash": self.card_hash,
            "modalities": self._modalities,
            "counts": dict(counts),
            "files": self._other_files(),
        }
        if sources is not None:
            content["sources"] = [dict(source) for source in sources]
        content["store_hash"] = content_hash(content)
        write_json(self.directory / "store.json", content)
        return str(content["store_hash"])

    def _other_files(self) -> dict[str, Any]:
        """Size and hash of all files but the shards, so that a copy can be checked; the store's hash has the card."""
        names = [*MANIFEST_FILES, "facts.arrow"]
        for modality in self._modalities:
            names += [*_side_files(modality), f"{modality}/state.json", f"{modality}/dataset_info.json"]
        paths = {name: self.directory / name for name in names}
        return {
            name: {"bytes": path.stat().st_size, "sha256": sha256_of_file(path)}
            for name, path in paths.items()
            if path.exists()
        }


def _side_files(modality: str) -> tuple[str, ...]:
    return f"{modality}_sums.arrow", index_file(modality), ids_file(modality)


class _Index:
    """Makes the index of a modality while its rows pass."""

    def __init__(self) -> None:
        self.places = IndexWriter()
        self._last_id = ""
        self._waiting: list[pa.Array] = []

    @contextlib.contextmanager
    def written(self, directory: Path, modality: str) -> Iterator[None]:
        """Write the index and the clip ids when the rows have passed, each file whole or not at all."""
        with written_stream(directory / ids_file(modality), IDS_SCHEMA) as self._ids:
            yield
            self._write_ids()
        self.places.write(directory / index_file(modality))

    def rows(
        self, number: int, batches: Iterable[ShardBatch], path: Path, stated: Sequence[int] | None
    ) -> Iterator[pa.RecordBatch]:
        """Yield the rows of a shard as ``ROW_SCHEMA`` and enter them; ``stated`` are the checksums it was written with.

        Raises:
            StoreError: a clip is repeated, out of order or not what was written.
        """
        first = 0
        for batch in batches:
            ids = batch.batch.column("clip_id")
            self._last_id = _check_order(path, ids.to_pylist(), self._last_id)
            found = np.array([checksum(*clip) for clip in batch.clips()], np.uint32)
            if stated is not None and found.tolist() != list(stated[first : first + len(found)]):
                fix = "remove this file and start the same command again: it extracts these clips alone"
                raise StoreError(str(path), "", "the finished shard was damaged since it was written (CRC-32)", fix)
            self.places.add(batch.frames, found, (batch.values_at, batch.times_at, number))
            self._waiting.append(ids)
            first += len(found)
            if sum(map(len, self._waiting)) >= _IDS_PER_BATCH:
                self._write_ids()
            yield batch.rows()

    def _write_ids(self) -> None:
        if self._waiting:
            self._ids.write_batch(pa.RecordBatch.from_arrays([pa.concat_arrays(self._waiting)], schema=IDS_SCHEMA))
            self._waiting = []


class _FirstFormat:
    """Size and SHA-256 of the one file that a store of format 1 had of these rows; they enter the store's hash.

    So equal content has the hash that it had before, however it is cut into shards.
    """

    def __init__(self) -> None:
        self._bytes, self._digest = 0, hashlib.sha256()
        self._count(ROW_SCHEMA.serialize())

    def add(self, batch: pa.RecordBatch) -> None:
        """Count one record batch as the file would have had it."""
        self._count(batch.serialize())

    def entry(self) -> dict[str, Any]:
        """Return what store.json says of the file."""
        self._count(pa.py_buffer(_END_OF_STREAM))
        return {"bytes": self._bytes, "sha256": self._digest.hexdigest()}

    def _count(self, content: pa.Buffer) -> None:
        self._digest.update(content)
        self._bytes += content.size


def rebatched(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Cut rows into batches by their sizes alone, so that the file does not depend on how the rows come."""
    waiting: list[pa.RecordBatch] = []
    rows = values = 0
    for batch in batches:
        start = 0
        for row, size in enumerate(batch.column("values").value_lengths().to_pylist(), start=1):
            rows, values = rows + 1, values + size
            if rows >= _ROWS_PER_BATCH or values >= _VALUES_PER_BATCH:
                waiting.append(batch.slice(start, row - start))
                waiting, joined = [], pa.concat_batches(waiting)
                yield joined
                del joined
                rows, values, start = 0, 0, row
        if start < batch.num_rows:
            waiting.append(batch.slice(start))
    if waiting:
        yield pa.concat_batches(waiting)


def _check_order(path: Path, ids: list[str], last_id: str) -> str:
    """Refuse clips that are repeated or out of order; return the last clip id."""
    if any(later <= earlier for earlier, later in zip([last_id, *ids], ids, strict=False)):
        raise StoreError(str(path), "clip_id", "clips are repeated or not sorted", "sort the clips by clip id")
    return str(ids[-1])

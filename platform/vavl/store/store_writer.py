"""Write a feature store from record batches that are already in order, or from shards that workers wrote."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from itertools import islice, pairwise, zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from vavl.config.files import make_directory, sha256_of_file, write_dataset_state, write_json, written_beside
from vavl.corpora.manifest import FIRST_FORMAT_MANIFEST, MANIFEST_FILES
from vavl.errors import StoreError
from vavl.features import MODALITIES, ChannelSums, ModalityInfo
from vavl.store.rows import IDS_SCHEMA, OF_BATCHES, OF_ROWS, ids_file, index_file
from vavl.store.shards import (
    SHARD_BYTES,
    Dtype,
    HashedFile,
    Rows,
    Shard,
    ShardWriter,
    checksum,
    shard_rows,
    written_stream,
)
from vavl.store.speaker_sums import SpeakerSums
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
FIRST_FORMAT_ROWS = pa.schema(
    [
        *((name, pa.string()) for name in ("clip_id", "corpus", "speaker")),
        ("frames", pa.int32()),
        ("width", pa.int32()),
        ("dtype", pa.string()),
        ("values", pa.list_(pa.float32())),  # flat, frame after frame
        ("frame_times", pa.list_(pa.float32())),
    ]
)
# A reader looks clips up batch by batch, with a table of the ids of one in memory.
_IDS_PER_BATCH = 2**13


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
            batches: of ``row_schema``, sorted by clip id over all of them.
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
        self._remove_others(modality, [shard.name for shard in shards])
        if not shards:
            return
        directory, sums, first_format = self.directory / modality, SpeakerSums(info.width, known_sums), HashedFile()
        with (
            written_stream(self.directory / ids_file(modality), IDS_SCHEMA) as ids,
            pa.ipc.new_stream(pa.PythonFile(first_format, "w"), FIRST_FORMAT_ROWS) as counted,
        ):
            index = _IndexWriter(ids)
            for batch in rebatched(self._rows_of(directory, info.width, zip_longest(shards, checksums), index)):
                sums.add(batch)
                counted.write_batch(as_first_format(batch))
            index.flush()
        index.write(self.directory / index_file(modality))
        sums_path = self.directory / f"{modality}_sums.arrow"
        frames = sums.write(sums_path)
        write_dataset_state(directory, [shard.name for shard in shards])
        info = replace(info, clips=index.rows, frames=frames)
        self._modalities[modality] = {
            **vars(info),
            "settings": dict(info.settings),
            "channels": list(info.channels),
            **({} if self.dtype == "float32" else {"dtype": self.dtype}),
            # Those of the one file that format 1 had of these rows enter the store's hash: equal content has the hash
            # that it had before, however it is cut into shards.
            "bytes": first_format.size,
            "sha256": first_format.digest.hexdigest(),
            "sums_sha256": sha256_of_file(sums_path),
            "shards": [asdict(shard) for shard in shards],
        }

    def _rows_of(
        self,
        directory: Path,
        width: int,
        shards: Iterable[tuple[Shard, Sequence[int] | None]],
        index: _IndexWriter,
    ) -> Iterator[pa.RecordBatch]:
        """Yield the rows of shards and enter them; next to a shard stands what its rows were written with.

        Raises:
            StoreError: a clip is missing, repeated, out of order or not what was written.
        """
        again = "remove this file and start the same command again: it extracts these clips alone"
        for number, (shard, stated) in enumerate(shards):
            path, expected, first = directory / shard.name, iter(stated or ()), index.rows
            for rows in shard_rows(path, width, self.dtype):
                crc32 = [checksum(*clip) for clip in rows.clips()]
                index.add(path, number, rows, crc32)
                if stated is not None and crc32 != list(islice(expected, len(crc32))):
                    problem = "the finished shard was damaged since it was written (CRC-32)"
                    raise StoreError(str(path), "", problem, again)
                yield rows.batch
            if index.rows - first != shard.clips:  # a stream that ends between two batches is a whole one for Arrow
                problem = f"has {index.rows - first} of {shard.clips} clips: it was cut since it was written"
                raise StoreError(str(path), "", problem, again)

    def _remove_others(self, modality: str, shards: Sequence[str] = ()) -> None:
        """Remove the files of ``modality`` that an older store left in the directory, but for ``shards``."""
        for name in _side_files(modality):
            (self.directory / name).unlink(missing_ok=True)
        for path in (self.directory / modality).glob("*"):
            if path.name not in shards:
                path.unlink()
        if not shards:
            shutil.rmtree(self.directory / modality, ignore_errors=True)

    def finish(self, counts: Mapping[str, int], sources: Sequence[Mapping[str, Any]] | None = None) -> str:
        """Write store.json and return the store's hash; a modality that was not written is left out.

        Args:
            counts: of clips and quarantine, for the reader; they do not enter the hash.
            sources: of a merged store, what is known of each store in it; likewise.
        """
        for modality in set(MODALITIES) - self._modalities.keys():
            self._remove_others(modality)
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


class _IndexWriter:
    """Makes the index of a modality and writes the ids of its clips while its rows pass; see ``ModalityIndex``."""

    def __init__(self, ids: Any) -> None:
        self.rows = 0
        self._columns: dict[str, list[NDArray[Any]]] = {name: [] for name in (*OF_ROWS, *OF_BATCHES)}
        self._ids, self._last_id = ids, ""
        self._waiting: list[pa.Array] = []

    def add(self, path: Path, shard: int, rows: Rows, crc32: Sequence[int]) -> None:
        """Enter a record batch of the file ``path``, the ``shard``-th.

        Raises:
            StoreError: a clip is repeated or out of order.
        """
        ids = rows.batch.column("clip_id")
        names = ids.to_pylist()
        if any(later <= earlier for earlier, later in pairwise([self._last_id, *names])):
            raise StoreError(str(path), "clip_id", "clips are repeated or not sorted", "sort the clips by clip id")
        entry = (rows.frames, crc32, [self.rows], [rows.values_at], [rows.times_at], [shard])
        for (name, kind), numbers in zip((OF_ROWS | OF_BATCHES).items(), entry, strict=True):
            self._columns[name].append(np.array(numbers, kind))
        self.rows, self._last_id = self.rows + len(names), str(names[-1])
        self._waiting.append(ids)
        if sum(map(len, self._waiting)) >= _IDS_PER_BATCH:
            self.flush()

    def flush(self) -> None:
        """Write the ids that wait for a whole batch."""
        if self._waiting:
            self._ids.write_batch(pa.RecordBatch.from_arrays([pa.concat_arrays(self._waiting)], schema=IDS_SCHEMA))
            self._waiting = []

    def write(self, path: Path) -> None:
        """Write the index, whole or not at all."""
        with written_beside(path) as partial, partial.open("wb") as file:
            for pieces in self._columns.values():
                file.writelines(piece.data for piece in pieces)


def as_first_format(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Return rows as format 1 had them; float16 is widened to float32, and says so in the column ``dtype``."""
    rows, clips = Rows(batch), batch.num_rows
    width = batch.schema.field("features").type.value_type.list_size
    ends = np.concatenate([[0], np.cumsum(rows.frames)]) * width
    values = pa.array(rows.values.astype(np.float32, copy=False))
    columns = [
        *(batch.column(name) for name in ("clip_id", "corpus", "speaker")),
        pa.array(rows.frames),
        pa.array(np.full(clips, width), pa.int32()),
        pa.array([str(rows.values.dtype)] * clips),
        pa.ListArray.from_arrays(pa.array(ends.astype(np.int32)), values),
        batch.column("frame_times"),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=FIRST_FORMAT_ROWS)


def rebatched(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Cut rows into batches by their sizes alone, so that the file does not depend on how the rows come."""
    waiting: list[pa.RecordBatch] = []
    rows = values = 0
    for batch in batches:
        start, width = 0, batch.schema.field("features").type.value_type.list_size
        for row, frames in enumerate(batch.column("features").value_lengths().to_pylist(), start=1):
            rows, values = rows + 1, values + frames * width
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

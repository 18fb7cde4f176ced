"""Rows of one modality: read from their shards into memory, compared with their checksums at their first reading.

A mapped page of a file that somebody cuts ends the process with a bus error; a read that comes back short is an
error with a message. So features are read by their place, and only the index and the clip ids are mapped.
"""

from __future__ import annotations

import os
import zlib
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from io import FileIO
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from vavl.errors import StoreError
from vavl.features import ModalityInfo
from vavl.store.checked_files import MAKE_AGAIN, REPAIR, CopiedFiles, check_hash, check_size
from vavl.store.index import ModalityIndex
from vavl.store.remote_files import StoreFile
from vavl.store.shards import Dtype, map_batches, shard_batches

IDS_SCHEMA = pa.schema([("clip_id", pa.string())])
# Who has them open keeps the shards that a new store replaces; above it one is opened when it is read.
_MOST_OPEN = 256


def index_file(modality: str) -> str:
    """Return the name of the file of the ``ModalityIndex``."""
    return f"{modality}_index.bin"


def ids_file(modality: str) -> str:
    """Return the name of the file of the clip ids."""
    return f"{modality}_ids.arrow"


def shard_files(content: Mapping[str, Any], *modalities: str) -> list[StoreFile]:
    """Return the shards of some modalities, by default of all, from a store.json; names are paths in the store."""
    return [
        StoreFile(f"{modality}/{shard['name']}", shard["bytes"], shard["sha256"])
        for modality in modalities or content["modalities"]
        for shard in content["modalities"][modality]["shards"]
    ]


def checksum(values: NDArray[Any], times: NDArray[np.float32]) -> int:
    """Return the CRC-32 of a clip."""
    return zlib.crc32(values.data, zlib.crc32(times.data))


class ModalityRows:
    """Read access to one modality of a store; opening reads the index, no features.

    Shards of a copy (``copied``) may be missing: each comes when a row of it is first read.

    Raises:
        StoreError: a file is missing or broken, or is not the one that store.json was written for.
    """

    def __init__(self, directory: Path, modality: str, content: Mapping[str, Any], copied: CopiedFiles | None) -> None:
        entry = content["modalities"][modality]
        self.info = ModalityInfo.from_entry(entry)
        self._directory, self._shards, self._copied = directory, shard_files(content, modality), copied
        self._modality = modality
        self.dtype: Dtype = entry.get("dtype", "float32")
        self._number = np.dtype(self.dtype)
        for name in (index_file(modality), ids_file(modality)):
            check_hash(directory / name, content["files"][name]["sha256"])
        path, frame_bytes = directory / index_file(modality), self.info.width * self._number.itemsize
        self._index = ModalityIndex.read(path, self.info.clips, frame_bytes)
        if int(self.lengths.min()) < 1 or int(self.lengths.sum(dtype=np.int64)) != self.info.frames:
            raise StoreError(str(path), "frames", f"are not the {self.info.frames} that store.json says", REPAIR)
        self._ids = _checked_ids(directory / ids_file(modality), self.info.clips)
        self._first_row = list(accumulate((len(ids) for ids in self._ids), initial=0))
        self._files: dict[int, FileIO] = {}
        for number, shard in enumerate(self._shards):
            if copied is None or (directory / shard.name).exists():
                check_size(directory / shard.name, shard.bytes)
                if number < _MOST_OPEN:
                    self._files[number] = FileIO(directory / shard.name)
        self._checked = bytearray(len(self) // 8 + 1)  # a bit per row that was compared

    def __len__(self) -> int:
        return len(self._index)

    @property
    def lengths(self) -> NDArray[np.int32]:
        """Frames of every row, mapped."""
        return self._index.frames

    @property
    def clip_ids(self) -> pa.ChunkedArray:
        """Clip ids of the rows, in their order."""
        return pa.chunked_array(self._ids, pa.string())

    def places_of(self, clip_ids: pa.ChunkedArray) -> NDArray[np.int32]:
        """Return the row of each clip id, -1 where there is none."""
        found = np.full(len(clip_ids), -1, dtype=np.int32)
        # One index over all ids would take private memory for every clip; sorted ids need one at a time.
        is_sorted = _is_sorted(clip_ids)
        for ids, first_row in zip(self._ids, self._first_row, strict=False):
            start, end = _range_of(clip_ids, ids) if is_sorted else (0, len(clip_ids))
            places = pc.index_in(clip_ids.slice(start, end - start), value_set=ids)
            local = pc.fill_null(places, -1).to_numpy()
            found[start:end] = np.where(local >= 0, local + first_row, found[start:end])
        return found

    def values(self, row: int) -> NDArray[np.float32]:
        """Return the features (time, channel) of a row; read-only.

        Raises:
            StoreError: there is no such row, or the file was cut or damaged.
        """
        values, _ = self._read(row, with_times=False)
        return values.reshape(-1, self.info.width)

    def times(self, row: int) -> NDArray[np.float32]:
        """Return the center of each frame of a row in seconds; read-only, raises like ``values``."""
        return self._read(row, with_times=True)[1]

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yield all rows as ``ROW_SCHEMA``; raises like ``shard_batches``."""
        self._fetch(self._shards)
        for shard in self._shards:
            for batch in shard_batches(self._directory / shard.name, self.info.width, self.dtype):
                yield batch.rows()

    def verify(self) -> None:
        """Read all shards and compare them with store.json.

        Raises:
            StoreError: one was changed, a value is not finite, or frames and values do not fit.
        """
        self._fetch(self._shards)
        for shard in self._shards:
            path = self._directory / shard.name
            for batch in shard_batches(path, self.info.width, self.dtype):
                is_bad = ~np.isfinite(batch.values)
                if is_bad.any():
                    frame = int(np.argmax(is_bad)) // self.info.width
                    place = int(np.searchsorted(np.cumsum(batch.frames), frame, side="right"))
                    fix = f"find out which extractor wrote them; {MAKE_AGAIN}"
                    clip = str(batch.batch.column("clip_id")[place])
                    raise StoreError(str(path), clip, "features hold NaN or infinite values", fix)
            check_hash(path, shard.sha256)

    def _read(self, row: int, *, with_times: bool) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        if not 0 <= row < len(self):
            path = self._directory / index_file(self._modality)
            raise StoreError(str(path), "", f"there is no row {row} among {len(self)}", "ask rows() first")
        shard, frames, crc32, values_at, times_at = self._index.place(row)
        byte, bit = row // 8, 1 << row % 8
        is_new = not self._checked[byte] & bit
        with_times = with_times or is_new
        if not 0 <= shard < len(self._shards):
            path = self._directory / self._modality / "state.json"
            raise StoreError(str(path), "", f"row {row} is in shard {shard} of {len(self._shards)}", REPAIR)
        file = self._files.get(shard) or self._keep_open(shard)
        values = _numbers(file, values_at, frames * self.info.width, self._number)
        times = _numbers(file, times_at, frames if with_times else 0, np.dtype(np.float32))
        if is_new and checksum(values, times) != crc32:
            problem = "features are not those that were written (CRC-32): the file was changed or damaged"
            raise StoreError(str(file.name), f"clip {self._id(row)}", problem, REPAIR)
        self._checked[byte] |= bit
        if self.dtype == "float16":
            import torch  # widens 5 times as fast as a table of all numbers, 10 times as numpy; float32 does without

            values = torch.from_numpy(values).float().numpy()
        values.flags.writeable = times.flags.writeable = False
        return values, times

    def _id(self, row: int) -> str:
        number = bisect_right(self._first_row, row) - 1
        return str(self._ids[number][row - self._first_row[number]])

    def shards_of(self, rows: NDArray[np.integer]) -> list[StoreFile]:
        """Return the shards that rows lie in, in the order of their first row; -1 is no row."""
        numbers, first = np.unique(self._index.shards(rows[rows >= 0]), return_index=True)
        return [self._shards[number] for number in numbers[np.argsort(first)].tolist()]

    def _fetch(self, shards: Sequence[StoreFile]) -> None:
        if self._copied is not None:
            self._copied.fetch(shards)

    def _keep_open(self, number: int) -> FileIO:
        """Open a shard, which is copied first where it is not here yet."""
        shard = self._shards[number]
        self._fetch([shard])
        check_size(self._directory / shard.name, shard.bytes)
        file = FileIO(self._directory / shard.name)
        if len(self._files) < _MOST_OPEN:
            self._files[number] = file
        return file


def _numbers(file: FileIO, place: int, count: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Read numbers at a byte of a shard.

    Raises:
        StoreError: the file was cut, or its disk fails.
    """
    try:
        numbers = np.empty(count, dtype)
        size = os.preadv(file.fileno(), [numbers.data], place)
    except (OSError, OverflowError, MemoryError, ValueError) as error:
        problem = f"cannot be read: {getattr(error, 'strerror', None) or error!r}"
        raise StoreError(str(file.name), "", problem, REPAIR) from None
    if size != numbers.nbytes:
        problem = f"ends before byte {place + numbers.nbytes}: it was cut while it was in use"
        raise StoreError(str(file.name), "", problem, REPAIR)
    return numbers


def _checked_ids(path: Path, clips: int) -> list[pa.Array]:
    ids = [batch.column("clip_id") for batch in map_batches(path, IDS_SCHEMA)]
    if sum(map(len, ids)) != clips:
        raise StoreError(str(path), "", f"has {sum(map(len, ids))} clips, store.json says {clips}", REPAIR)
    try:
        for column in ids:  # a damaged offset would be followed out of the file
            column.validate(full=True)
    except pa.ArrowException as error:
        raise StoreError(str(path), "clip_id", f"not readable: {error}", REPAIR) from None
    return ids


def _is_sorted(clip_ids: pa.ChunkedArray) -> bool:
    if len(clip_ids) < 2:
        return True
    return bool(pc.all(pc.less_equal(clip_ids.slice(0, len(clip_ids) - 1), clip_ids.slice(1))).as_py())


def _range_of(clip_ids: pa.ChunkedArray, chunk_ids: pa.Array) -> tuple[int, int]:
    """Return start and end of the part of sorted ``clip_ids`` that can be in sorted ``chunk_ids``."""

    def clip_id(place: int) -> str:
        return str(clip_ids[place].as_py())

    places = range(len(clip_ids))
    start = bisect_left(places, chunk_ids[0].as_py(), key=clip_id)
    return start, bisect_right(places, chunk_ids[-1].as_py(), lo=start, key=clip_id)

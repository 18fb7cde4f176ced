"""Rows of one modality: read from their shards into memory, compared with their checksums at their first reading.

A mapped page of a file that somebody cuts ends the process with a bus error; a read that comes back short is an
error with a message. So features are read by their place, and only the index and the clip ids are mapped.
"""

from __future__ import annotations

import os
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from vavl.errors import StoreError
from vavl.features import ModalityInfo
from vavl.store.arrays import mapped_file
from vavl.store.checked_files import MAKE_AGAIN, REPAIR, CopiedFiles, StoreFile, check_hash, check_size
from vavl.store.shards import Dtype, checksum, map_batches, shard_rows

IDS_SCHEMA = pa.schema([("clip_id", pa.string())])
OF_ROWS = {"frames": "<i4", "crc32": "<u4"}
"""Columns of a ``ModalityIndex`` with a number per row."""
OF_BATCHES = {"first_row": "<i8", "values_at": "<i8", "times_at": "<i8", "shard": "<i4"}
"""Those with a number per record batch."""
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


class RowPlace(NamedTuple):
    """Where a row lies: number of the shard, frames, CRC-32, and the bytes at which its values and its times begin."""

    shard: int
    frames: int
    crc32: int
    values_at: int
    times_at: int


@dataclass(frozen=True)
class ModalityIndex:
    """Where the rows of one modality lie in the shards of a store: the file ``<modality>_index.bin``, mapped.

    Within a record batch the values of its rows follow each other, and so do their times, as Arrow lays them out; so a
    row costs 8 bytes, and a record batch 28. The arrays follow each other in the file.
    """

    # ``frames`` (rows,) and ``crc32`` (rows,), see ``checksum``; per record batch its ``first_row``, the bytes at
    # which its ``values_at`` and ``times_at`` begin, and the number of its ``shard``.
    arrays: Mapping[str, NDArray[Any]]
    frame_bytes: int  # of the values of one frame; a time is a float32.

    @classmethod
    def read(cls, path: Path, rows: int, frame_bytes: int) -> Self:
        """Map the file of so many rows.

        Raises:
            StoreError: it has another number of them.
        """
        mapped = mapped_file(path)
        of_row, of_batch = (sum(np.dtype(kind).itemsize for kind in kinds.values()) for kinds in (OF_ROWS, OF_BATCHES))
        batches, rest = divmod(len(mapped) - rows * of_row, of_batch)
        if rest or not 1 <= batches <= rows:
            raise StoreError(str(path), "", f"is not of the {rows} clips that store.json says", REPAIR)
        arrays: dict[str, NDArray[Any]] = {}
        start = 0
        for name, kind in (OF_ROWS | OF_BATCHES).items():
            arrays[name] = np.frombuffer(mapped, kind, rows if name in OF_ROWS else batches, start)
            start += arrays[name].nbytes
        return cls(arrays, frame_bytes)

    def __len__(self) -> int:
        return len(self.frames)

    @property
    def frames(self) -> NDArray[np.int32]:
        """Frames of every row."""
        return self.arrays["frames"]

    def shards(self, rows: NDArray[np.integer]) -> NDArray[np.int32]:
        """Return the numbers of the shards that rows lie in."""
        return self.arrays["shard"][np.searchsorted(self.arrays["first_row"], rows, side="right") - 1]

    def place(self, row: int) -> RowPlace:
        """Return where a row lies; ``row`` must be one."""
        batch = int(np.searchsorted(self.arrays["first_row"], row, side="right")) - 1
        first, values_at, times_at, shard = (int(self.arrays[name][batch]) for name in OF_BATCHES)
        before = int(self.frames[first:row].sum(dtype=np.int64))
        frames, crc32 = int(self.frames[row]), int(self.arrays["crc32"][row])
        return RowPlace(shard, frames, crc32, values_at + before * self.frame_bytes, times_at + before * 4)


class ModalityRows:
    """Read access to one modality of a store; opening reads the index, no features.

    Shards of a copy (``copied``) may be missing: each comes when a row of it is first read.

    Raises:
        StoreError: a file is missing or broken, or is not the one that store.json was written for.
    """

    def __init__(self, directory: Path, modality: str, content: Mapping[str, Any], copied: CopiedFiles | None) -> None:
        entry = content["modalities"][modality]
        self.info = ModalityInfo.from_entry(entry)
        self.dtype: Dtype = entry.get("dtype", "float32")
        self._directory, self._shards, self._copied = directory, shard_files(content, modality), copied
        self._number = np.dtype(self.dtype)
        self._path, ids = directory / index_file(modality), directory / ids_file(modality)
        for path in (self._path, ids):
            check_hash(path, content["files"][path.name]["sha256"])
        self._index = ModalityIndex.read(self._path, self.info.clips, self.info.width * self._number.itemsize)
        if int(self.lengths.min()) < 1 or int(self.lengths.sum(dtype=np.int64)) != self.info.frames:
            problem = f"are not the {self.info.frames} that store.json says"
            raise StoreError(str(self._path), "frames", problem, REPAIR)
        self.clip_ids = _clip_ids(ids, self.info.clips)
        """Of the rows, in their order; mapped."""
        self._files: dict[int, FileIO] = {}
        for number, shard in enumerate(self._shards):
            path = directory / shard.name
            if copied is None or path.exists():
                check_size(path, shard.bytes)
                if number < _MOST_OPEN:
                    self._files[number] = FileIO(path)
        self._checked = bytearray(len(self._index) // 8 + 1)  # a bit per row that was compared

    @property
    def lengths(self) -> NDArray[np.int32]:
        """Frames of every row, mapped."""
        return self._index.frames

    def places_of(self, clip_ids: pa.ChunkedArray) -> NDArray[np.int32]:
        """Return the row of each clip id, -1 where there is none."""
        found, first_row, is_sorted = np.full(len(clip_ids), -1, dtype=np.int32), 0, _is_sorted(clip_ids)
        # One index over all ids would take private memory for every clip; sorted ids need one at a time.
        for ids in self.clip_ids.chunks:
            start, end = _range_of(clip_ids, ids) if is_sorted else (0, len(clip_ids))
            local = pc.fill_null(pc.index_in(clip_ids.slice(start, end - start), value_set=ids), -1).to_numpy()
            found[start:end] = np.where(local >= 0, local + first_row, found[start:end])
            first_row += len(ids)
        return found

    def features(self, row: int, *, as_stored: bool = False) -> NDArray[Any]:
        """Return the features of a row; see ``FeatureStore.features``."""
        values, _ = self._read(row, with_times=False)
        if self.dtype == "float16" and not as_stored:
            import torch  # widens 5 times as fast as a table of all numbers, 10 times as numpy; float32 does without

            values = torch.from_numpy(values).float().numpy()
        values.flags.writeable = False
        return values.reshape(-1, self.info.width)

    def frame_times(self, row: int) -> NDArray[np.float32]:
        """Return the center of each frame of a row in seconds; read-only, raises like ``features``."""
        _, times = self._read(row, with_times=True)
        times.flags.writeable = False
        return times

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yield all rows, see ``row_schema``; raises like ``shard_rows``."""
        for shard in self._fetched(self._shards):
            for rows in shard_rows(self._directory / shard.name, self.info.width, self.dtype):
                yield rows.batch

    def verify(self) -> None:
        """Read all shards and compare them with store.json.

        Raises:
            StoreError: one was changed, a value is not finite, or frames and values do not fit.
        """
        for shard in self._fetched(self._shards):
            path = self._directory / shard.name
            for rows in shard_rows(path, self.info.width, self.dtype):
                is_bad = ~np.isfinite(rows.values)
                if is_bad.any():
                    clip = rows.clip_of(int(np.argmax(is_bad)) // self.info.width)
                    fix = f"find out which extractor wrote them; {MAKE_AGAIN}"
                    raise StoreError(str(path), clip, "features hold NaN or infinite values", fix)
            check_hash(path, shard.sha256)

    def shards_of(self, rows: NDArray[np.integer]) -> list[StoreFile]:
        """Return the shards that rows lie in, in the order of their first row; -1 is no row."""
        numbers, first = np.unique(self._index.shards(rows[rows >= 0]), return_index=True)
        return [self._shards[number] for number in numbers[np.argsort(first)].tolist()]

    def _read(self, row: int, *, with_times: bool) -> tuple[NDArray[Any], NDArray[np.float32]]:
        if not 0 <= row < len(self._index):
            raise StoreError(str(self._path), "", f"there is no row {row} among {len(self._index)}", "ask rows() first")
        place, (byte, bit) = self._index.place(row), divmod(row, 8)
        is_new = not self._checked[byte] >> bit & 1
        file = self._files.get(place.shard) or self._opened(place.shard, row)
        values = _numbers(file, place.values_at, place.frames * self.info.width, self._number)
        times = _numbers(file, place.times_at, place.frames if with_times or is_new else 0, np.dtype(np.float32))
        if is_new and checksum(values, times) != place.crc32:
            problem = "features are not those that were written (CRC-32): the file was changed or damaged"
            raise StoreError(str(file.name), f"clip {self.clip_ids[row]}", problem, REPAIR)
        self._checked[byte] |= 1 << bit
        return values, times

    def _opened(self, number: int, row: int) -> FileIO:
        """Open the shard of a row, which is copied first where it is not here yet."""
        if not 0 <= number < len(self._shards):
            raise StoreError(str(self._path), "", f"row {row} is in shard {number} of {len(self._shards)}", REPAIR)
        (shard,) = self._fetched([self._shards[number]])
        check_size(self._directory / shard.name, shard.bytes)
        file = FileIO(self._directory / shard.name)
        if len(self._files) < _MOST_OPEN:
            self._files[number] = file
        return file

    def _fetched(self, shards: Sequence[StoreFile]) -> Sequence[StoreFile]:
        if self._copied is not None:
            self._copied.fetch(shards)
        return shards


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


def _clip_ids(path: Path, clips: int) -> pa.ChunkedArray:
    ids = pa.chunked_array([batch.column("clip_id") for batch in map_batches(path, IDS_SCHEMA)], pa.string())
    if len(ids) != clips:
        raise StoreError(str(path), "", f"has {len(ids)} clips, store.json says {clips}", REPAIR)
    try:
        ids.validate(full=True)  # a damaged offset would be followed out of the file
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

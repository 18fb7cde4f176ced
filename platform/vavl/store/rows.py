"""Rows of one modality: read from the file into memory, compared with their checksums at their first reading.

A mapped page of a file that somebody cuts ends the process with a bus error; a read that comes back short is an
error with a message. So values are read, and only the clip ids, which are looked up at the start, are mapped.
"""

from __future__ import annotations

import contextlib
import os
import zlib
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from vavl.config.files import written_beside
from vavl.errors import StoreError
from vavl.features import ModalityInfo
from vavl.store.checked_files import MAKE_AGAIN, REPAIR, check_hash, check_hash_once
from vavl.store.index import ArrayWriter, ModalityIndex, file_state, shared_arrays

ROW_SCHEMA = pa.schema(
    [
        ("clip_id", pa.string()),
        ("corpus", pa.string()),
        ("speaker", pa.string()),
        ("frames", pa.int32()),
        ("width", pa.int32()),
        ("dtype", pa.string()),
        ("values", pa.list_(pa.float32())),  # flat, frame after frame
        ("frame_times", pa.list_(pa.float32())),  # seconds, center of each frame
    ]
)
CHECKS_SCHEMA = pa.schema([("clip_id", pa.string()), ("crc32", pa.uint32())])
_BYTES = 4  # of each number here
Number = TypeVar("Number", bound=np.number[Any])


def checks_file(modality: str) -> str:
    """Return the name of the file of checksums; a store of an earlier version has none."""
    return f"{modality}_checks.arrow"


def checks_of(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Return the checksum of every row of ``ROW_SCHEMA``: CRC-32 over its times, then its values, as they lie."""
    values, times = batch.column("values"), batch.column("frame_times")
    rows = zip(_parts(values), _parts(times), strict=True)
    found = np.array([_checksum(of_values, of_times) for of_values, of_times in rows], dtype=np.uint32)
    return pa.RecordBatch.from_arrays([batch.column("clip_id"), pa.array(found)], schema=CHECKS_SCHEMA)


class _OpenFile:
    """An Arrow IPC stream file: its record batches are mapped, its numbers can be read by their place.

    Raises:
        StoreError: the file is missing, broken or has other columns.
    """

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self.path, self._schema = path, schema
        try:
            self._file = path.open("rb", buffering=0)
            self._mapped = pa.memory_map(str(path)).read_buffer()
        except FileNotFoundError:
            raise StoreError(str(path), "", "the file of the store is missing", MAKE_AGAIN) from None
        except (pa.ArrowException, ValueError, OSError) as error:
            raise self.unreadable(error) from None

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yield the record batches, mapped in place; raises like the constructor."""
        try:
            with pa.ipc.open_stream(pa.BufferReader(self._mapped)) as reader:
                if not reader.schema.equals(self._schema):
                    problem = "has other columns than a store's file"
                    raise StoreError(str(self.path), "schema", problem, MAKE_AGAIN)
                yield from reader
        except (pa.ArrowException, ValueError, OSError) as error:
            raise self.unreadable(error) from None

    def unreadable(self, error: Exception) -> StoreError:
        return StoreError(str(self.path), "", f"not a readable Arrow file: {error}", REPAIR)

    def place_of(self, numbers: pa.Array) -> int:
        """Return the byte of the file at which numbers of four bytes begin."""
        place: int = numbers.buffers()[1].address - self._mapped.address + numbers.offset * _BYTES
        return place

    def read(self, place: int, count: int, dtype: type[Number]) -> NDArray[Number]:
        """Read ``count`` numbers of four bytes into memory.

        Raises:
            StoreError: the file was cut, or its disk fails.
        """
        try:
            content = os.pread(self._file.fileno(), count * _BYTES, place)
        except OSError as error:
            raise StoreError(str(self.path), "", f"cannot be read: {error.strerror}", REPAIR) from None
        if len(content) != count * _BYTES:
            problem = f"ends before byte {place + count * _BYTES}: it was cut while it was in use"
            raise StoreError(str(self.path), "", problem, REPAIR)
        return np.frombuffer(content, dtype)


class ModalityRows:
    """Read access to ``<modality>.arrow`` of a store; where its rows lie is found out once per machine.

    Raises:
        StoreError: the file is missing or broken, or is not the one that store.json was written for.
    """

    def __init__(self, directory: Path, modality: str, content: Mapping[str, Any]) -> None:
        self.path = directory / f"{modality}.arrow"
        self.info = ModalityInfo.from_entry(content["modalities"][modality])
        self._sha256, self._width = content["modalities"][modality]["sha256"], self.info.width
        self._file = _OpenFile(self.path, ROW_SCHEMA)
        checks = directory / checks_file(modality)
        stated = content.get("files", {}).get(checks.name)
        key = [self._sha256, stated, self._width, self.info.clips, file_state(self.path), file_state(checks)]
        self._arrays = shared_arrays(
            ["rows", str(self.path.absolute())], key, lambda to: self._find(to, checks, stated)
        )
        self._index = ModalityIndex(self._arrays.arrays, _BYTES * self._width)
        # A bit per row that was compared; of a store without checksums the first alone, for the file.
        self._checked = np.zeros(len(self) // 8 + 1, np.uint8)

    def __len__(self) -> int:
        return len(self._index)

    @property
    def lengths(self) -> NDArray[np.int32]:
        """Frames of every row, mapped."""
        return self._index.frames

    @property
    def clip_ids(self) -> pa.ChunkedArray:
        """Clip ids of the rows, in their order; mapped, and some memory for every record batch."""
        return pa.chunked_array([batch.column("clip_id") for batch in self._file.batches()], pa.string())

    def places_of(self, clip_ids: pa.ChunkedArray) -> NDArray[np.int32]:
        """Return the row of each clip id, -1 where there is none."""
        found, first_row = np.full(len(clip_ids), -1, dtype=np.int32), 0
        # One index over all ids would take private memory for every clip; sorted ids need one at a time.
        is_sorted = _is_sorted(clip_ids)
        for batch in self._file.batches():
            own = batch.column("clip_id")
            start, end = _range_of(clip_ids, own) if is_sorted else (0, len(clip_ids))
            places = pc.index_in(clip_ids.slice(start, end - start), value_set=own)
            local = pc.fill_null(places, -1).to_numpy()
            found[start:end] = np.where(local >= 0, local + first_row, found[start:end])
            first_row += batch.num_rows
        return found

    def values(self, row: int) -> NDArray[np.float32]:
        """Return the features (time, channel) of a row; read-only.

        Raises:
            StoreError: there is no such row, or the file was cut or damaged.
        """
        values, _ = self._read(row, with_times=False)
        return values.reshape(-1, self._width)

    def times(self, row: int) -> NDArray[np.float32]:
        """Return the center of each frame of a row in seconds; read-only, raises like ``values``."""
        return self._read(row, with_times=True)[1]

    def check_uncut(self) -> None:
        """Refuse an index that was cut since it was mapped; raises ``StoreError``."""
        self._arrays.check_uncut()

    def verify(self) -> None:
        """Read the whole file and compare it with store.json.

        Raises:
            StoreError: it was changed, a value is not finite, or frames and values do not fit.
        """
        for batch in self._file.batches():
            _check_batch(self.path, batch, self._width)
        check_hash(self.path, self._sha256)

    def _read(self, row: int, *, with_times: bool) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        if not 0 <= row < len(self):
            raise StoreError(str(self.path), "", f"there is no row {row} among {len(self)}", "ask rows() first")
        crc = self._index.crc
        byte, bit = (row // 8, 1 << row % 8) if crc is not None else (0, 1)
        is_new = not self._checked[byte] & bit
        if is_new and crc is None:
            check_hash_once(self.path, self._sha256)
        place = self._index.place(row)
        values = self._file.read(place.values_at, place.frames * self._width, np.float32)
        with_times = with_times or is_new
        times = self._file.read(place.times_at, place.frames if with_times else 0, np.float32)
        if is_new and crc is not None and _checksum(values, times) != crc[row]:
            problem = "features are not those that were written (CRC-32): the file was changed or damaged"
            raise StoreError(str(self.path), f"clip {self.clip_ids[row]}", problem, REPAIR)
        self._checked[byte] |= bit
        return values, times

    def _find(self, writer: ArrayWriter, checks: Path, stated: Mapping[str, Any] | None) -> None:
        """Write where the rows lie, after a check that these places are in the file and the ids those of the checksums.

        Raises:
            StoreError: the file or that of the checksums was changed or damaged.
        """
        if stated is not None:
            check_hash(checks, stated["sha256"])
        checked = iter(()) if stated is None else _OpenFile(checks, CHECKS_SCHEMA).batches()
        rows = 0
        for batch in self._file.batches():
            frames, values_at, times_at = self._place_of(batch)
            check = next(checked, None)
            if stated is not None and (check is None or not check.column("clip_id").equals(batch.column("clip_id"))):
                problem = "the clip ids are not those that were written: the file was changed or damaged"
                raise StoreError(str(self.path), "clip_id", problem, REPAIR)
            crc = None if check is None else check.column("crc32").to_numpy()
            ModalityIndex.add_batch(writer, rows, frames, crc, (0, values_at, times_at))
            rows += batch.num_rows
        if rows != self.info.clips:
            problem = f"has {rows} clips, store.json says {self.info.clips}"
            raise StoreError(str(self.path), "", problem, REPAIR)

    def _place_of(self, batch: pa.RecordBatch) -> tuple[NDArray[np.int32], int, int]:
        """Return the frames of the rows of a record batch, and where its values and its times begin."""
        ids, values, times = (batch.column(name) for name in ("clip_id", "values", "frame_times"))
        stated = batch.column("width")[0].as_py() if batch.num_rows else self._width
        if stated != self._width:
            field = f"modalities.{self.path.stem}.width"
            problem = f"is {self._width}, the rows of {self.path.name} have {stated} channels"
            raise StoreError(str(self.path.with_name("store.json")), field, problem, REPAIR)
        try:
            # A damaged offset of an id would be followed out of the file.
            ids.validate(full=True)
            frames: NDArray[np.int32] = batch.column("frames").to_numpy()
            for numbers in (values.values, times.values):
                numbers.validate()
            values_at, times_at = self._file.place_of(values.values), self._file.place_of(times.values)
        except (pa.ArrowException, ValueError, AttributeError) as error:
            raise self._file.unreadable(error) from None
        total = int(frames.sum(dtype=np.int64))
        if (frames < 1).any() or (len(values.values), len(times.values)) != (total * self._width, total):
            raise _misfit(self.path, "", self._width)
        return frames, values_at, times_at


@contextlib.contextmanager
def written_stream(path: Path, schema: pa.Schema) -> Iterator[Any]:
    """Yield the writer of an Arrow IPC stream file, which is whole or absent.

    Raises:
        InputError: the directory cannot be written.
    """
    with written_beside(path) as partial, pa.ipc.new_stream(str(partial), schema) as writer:
        yield writer


def map_batches(path: Path, schema: pa.Schema) -> list[pa.RecordBatch]:
    """Map an Arrow IPC stream file in place.

    Raises:
        StoreError: the file is missing, broken or has other columns.
    """
    return list(_OpenFile(path, schema).batches())


def _checksum(values: NDArray[np.float32], times: NDArray[np.float32]) -> int:
    return zlib.crc32(values.data, zlib.crc32(times.data))


def _parts(lists: pa.ListArray) -> list[NDArray[np.float32]]:
    flat, offsets = lists.values.to_numpy(), lists.offsets.to_numpy()
    return [flat[start:end] for start, end in pairwise(offsets)]


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


def _check_batch(path: Path, batch: pa.RecordBatch, width: int) -> None:
    """Refuse values that are not finite and rows whose sizes do not fit together."""
    ids, frames = batch.column("clip_id"), batch.column("frames").to_numpy()
    values, ends = batch.column("values").values.to_numpy(), batch.column("values").offsets.to_numpy()
    lengths, times = np.diff(ends), np.diff(batch.column("frame_times").offsets.to_numpy())
    wrong = (lengths != frames * width) | (times != frames) | (lengths == 0)
    if wrong.any():
        raise _misfit(path, str(ids[int(np.argmax(wrong))]), width)
    is_bad = ~np.isfinite(values)
    if is_bad.any():
        place = int(np.searchsorted(ends, int(np.argmax(is_bad)), side="right")) - 1
        fix = f"find out which extractor wrote them; {MAKE_AGAIN}"
        raise StoreError(str(path), str(ids[place]), "features hold NaN or infinite values", fix)


def _misfit(path: Path, clip: str, width: int) -> StoreError:
    return StoreError(str(path), clip, f"frames and values do not fit at width {width}", REPAIR)

"""Shards: the rows of one modality in Arrow IPC stream files, which Hugging Face datasets open as they are.

A row is a clip; its features are a list of frames, each of ``width`` numbers, of four or two bytes. A shard is whole
or absent, and depends on its rows alone.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from vavl.config.files import make_directory, written_beside
from vavl.errors import StoreError
from vavl.store.checked_files import MAKE_AGAIN, REPAIR

Dtype = Literal["float32", "float16"]
SHARD_BYTES = 256_000_000
_SMALLEST_NORMAL = float(np.finfo(np.float16).smallest_normal)
_FIX_EXTRACTOR = "repair the extractor: each clip needs at least one frame of finite values"


def row_schema(width: int, dtype: Dtype = "float32") -> pa.Schema:
    """Return the columns of rows; ``with_format("numpy")`` of ``datasets`` gives their features as (time, channel)."""
    number = pa.float32() if dtype == "float32" else pa.float16()
    return pa.schema(
        [
            ("clip_id", pa.string()),
            ("corpus", pa.string()),
            ("speaker", pa.string()),
            ("features", pa.list_(pa.list_(number, width))),
            ("frame_times", pa.list_(pa.float32())),  # seconds, center of each frame
        ]
    )


@dataclass(frozen=True)
class ClipFeatures:
    """Features of one modality of one clip."""

    clip_id: str
    speaker: str
    values: NDArray[np.float32]  # (time, channel), float32.
    frame_times: NDArray[np.float32]  # (time,), float32, seconds, center of each frame.


def row_batch(corpus: str, width: int, clips: Sequence[ClipFeatures]) -> pa.RecordBatch:
    """Put clips into rows of ``row_schema``."""
    names = ([clip.clip_id for clip in clips], [corpus] * len(clips), [clip.speaker for clip in clips])
    values = np.concatenate([clip.values.reshape(-1) for clip in clips], dtype=np.float32)
    features = features_column(values, [len(clip.values) for clip in clips], width)
    times = list_column([clip.frame_times.astype(np.float32, copy=False) for clip in clips])
    columns = [*(pa.array(column, pa.string()) for column in names), features, times]
    return pa.RecordBatch.from_arrays(columns, schema=row_schema(width))


def features_column(values: NDArray[Any], frames: Sequence[int] | NDArray[np.integer], width: int) -> pa.ListArray:
    """Return the column ``features`` from the flat values of all clips and the frames of each."""
    return pa.ListArray.from_arrays(_offsets(frames), pa.FixedSizeListArray.from_arrays(pa.array(values), width))


def list_column(arrays: Sequence[NDArray[Any]]) -> pa.ListArray:
    """Return a list column from one-dimensional arrays without a Python object per value."""
    flat = np.concatenate(arrays) if arrays else np.zeros(0, np.float32)
    return pa.ListArray.from_arrays(_offsets([len(array) for array in arrays]), pa.array(flat))


def _offsets(lengths: Sequence[int] | NDArray[np.integer]) -> pa.Array:
    return pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))


def checksum(values: NDArray[Any], times: NDArray[np.float32]) -> int:
    """Return the CRC-32 of a clip: over the bytes of its times, then of its values as they lie in the shard."""
    return zlib.crc32(values.data, zlib.crc32(times.data))


@dataclass(frozen=True)
class Shard:
    """What store.json says of a shard: its file, and the largest error of its numbers relative to what was given."""

    name: str
    bytes: int
    sha256: str
    clips: int
    relative_error: float = 0.0


class HashedFile(io.RawIOBase):
    """Keeps size and SHA-256 of what is written, and passes it on to a file, if there is one."""

    def __init__(self, file: BinaryIO | None = None) -> None:
        self.size, self.digest, self._file = 0, hashlib.sha256(), file

    def writable(self) -> bool:
        """Tell Arrow that it may write."""
        return True

    def write(self, content: Any, /) -> int:
        """Take bytes, and return their number."""
        written = memoryview(content).nbytes
        if self._file is not None:
            self._file.write(content)
        self.digest.update(content)
        self.size += written
        return written


class ShardWriter:
    """Writes rows into one shard after the other, none larger than ``most_bytes`` unless one batch is.

    Args:
        directory: of the modality.
        stem: how the names of the shards begin.
        width: channels of a frame.
        dtype: of the features on disk.
        most_bytes: of a shard.

    Raises:
        InputError: the directory cannot be written.
    """

    def __init__(self, directory: Path, stem: str, width: int, dtype: Dtype, most_bytes: int = SHARD_BYTES) -> None:
        self._directory, self._stem, self._width, self._dtype = make_directory(directory), stem, width, dtype
        self._most_bytes, self._schema = most_bytes, row_schema(width, dtype)
        self._shards: list[Shard] = []
        self.checksums: list[tuple[int, ...]] = []
        """``checksum`` of the rows of each finished shard, in their order, as they were before they went to disk."""
        self._open = contextlib.ExitStack()
        self._writer: Any = None
        self._file = HashedFile()
        self._begin()

    def _begin(self) -> None:
        self._path = self._directory / f"{self._stem}-{len(self._shards):05d}.arrow"
        self._crc32: list[int] = []
        self._bytes, self._error = 0, 0.0

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, kind: Any, *rest: Any) -> None:
        if kind is not None:
            self._open.__exit__(kind, *rest)

    def write(self, rows: pa.RecordBatch) -> None:
        """Append rows of ``row_schema``, of four or two bytes, as one record batch.

        Raises:
            StoreError: a value is not finite or too large for float16, or the sizes do not fit the width.
        """
        batch, error = self._checked(rows)
        if self._crc32 and self._bytes + batch.nbytes > self._most_bytes:
            self._close()
        if not self._crc32:
            # Hashed as it is written: a shard that is read again for it would pass the memory twice more.
            partial = self._open.enter_context(written_beside(self._path))
            self._file = HashedFile(self._open.enter_context(partial.open("wb")))
            self._writer = self._open.enter_context(pa.ipc.new_stream(pa.PythonFile(self._file, "w"), self._schema))
        self._writer.write_batch(batch)
        self._crc32 += [checksum(*clip) for clip in Rows(batch).clips()]
        self._bytes, self._error = self._bytes + batch.nbytes, max(self._error, error)

    def finish(self) -> list[Shard]:
        """Return the shards in their order; none without any row."""
        if self._crc32:
            self._close()
        return self._shards

    def _close(self) -> None:
        self._open.close()
        file, clips = self._file, len(self._crc32)
        self._shards.append(Shard(self._path.name, file.size, file.digest.hexdigest(), clips, self._error))
        self.checksums.append(tuple(self._crc32))
        self._begin()

    def _checked(self, batch: pa.RecordBatch) -> tuple[pa.RecordBatch, float]:
        """Return the rows as they will lie in the shard, and the largest relative error of their numbers."""
        rows = Rows(batch)
        rows.check_sizes(self._path, self._width, _FIX_EXTRACTOR)
        values = rows.values
        if not np.isfinite(values).all():
            raise StoreError(str(self._path), "features", "features hold NaN or infinite values", _FIX_EXTRACTOR)
        if batch.schema.equals(self._schema):
            return batch, 0.0
        with np.errstate(over="ignore"):
            stored = values.astype(self._dtype)
        lost = np.flatnonzero(~np.isfinite(stored))
        if len(lost):
            frame, channel = divmod(int(lost[0]), self._width)
            problem = f"channel {channel} holds {values[lost[0]]:g}, float16 ends at 65504"
            fix = "set features.dtype=float32, or scale this channel in the extractor"
            raise StoreError(str(self._path), f"clip {rows.clip_of(frame)}", problem, fix)
        # Below the normal numbers steps are absolute; what is nearly nothing would hide every other error.
        sizes = np.maximum(np.abs(values), _SMALLEST_NORMAL)
        error = float((np.abs(stored.astype(np.float32) - values) / sizes).max())
        place = self._schema.get_field_index("features")
        features = features_column(stored, rows.frames, self._width)
        return batch.set_column(place, self._schema.field(place), features), error


class Rows:
    """A record batch of ``row_schema`` with its numbers as flat arrays, in place."""

    def __init__(self, batch: pa.RecordBatch, file_address: int = 0) -> None:
        self.batch = batch
        features, times = batch.column("features"), batch.column("frame_times")
        self.frames: NDArray[np.int32] = features.value_lengths().to_numpy()  # (clips,), of every clip.
        self.values: NDArray[Any] = features.flatten().flatten().to_numpy()  # (all frames x channels,), as they lie.
        self.times: NDArray[np.float32] = times.flatten().to_numpy()  # (all frames,).
        # Bytes of a mapped file at which the values and the times begin.
        self.values_at, self.times_at = (one.ctypes.data - file_address for one in (self.values, self.times))

    def clips(self) -> Iterator[tuple[NDArray[Any], NDArray[np.float32]]]:
        """Yield flat values and times of every clip."""
        width = len(self.values) // max(1, len(self.times))
        for start, end in pairwise([0, *np.cumsum(self.frames).tolist()]):
            yield self.values[start * width : end * width], self.times[start:end]

    def clip_of(self, frame: int) -> str:
        """Return the id of the clip that a frame, counted over all clips, is of."""
        return str(self.batch.column("clip_id")[int(np.searchsorted(np.cumsum(self.frames), frame, side="right"))])

    def check_sizes(self, path: Path, width: int, fix: str) -> None:
        """Refuse a clip without a frame, with more or fewer times than frames, or with frames of another width.

        Raises:
            StoreError: there is one; it is said to lie in ``path``.
        """
        is_wrong = (self.frames < 1) | (self.batch.column("frame_times").value_lengths().to_numpy() != self.frames)
        if is_wrong.any() or len(self.values) != int(self.frames.sum()) * width:
            clip = self.batch.column("clip_id")[int(np.argmax(is_wrong))]
            raise StoreError(str(path), f"clip {clip}", f"frames and values do not fit at width {width}", fix)


def shard_rows(path: Path, width: int, dtype: Dtype) -> Iterator[Rows]:
    """Yield the record batches of a shard, mapped in place.

    Raises:
        StoreError: the file is missing or broken, has other columns, or its sizes do not fit the width.
    """
    with mapped_stream(path, row_schema(width, dtype)) as (address, reader):
        for batch in reader:
            batch.validate(full=True)  # a damaged offset would be followed out of the file
            rows = Rows(batch, address)
            rows.check_sizes(path, width, REPAIR)
            yield rows


@contextlib.contextmanager
def mapped_stream(path: Path, schema: pa.Schema) -> Iterator[tuple[int, Any]]:
    """Yield the address of the first byte and the reader of an Arrow IPC stream file, mapped in place.

    Raises:
        StoreError: the file is missing, broken or has other columns.
    """
    try:
        mapped = pa.memory_map(str(path))
        first = mapped.read_buffer().address
        mapped.seek(0)
        with pa.ipc.open_stream(mapped) as reader:
            if not reader.schema.equals(schema):
                problem = "has other columns than a store's file"
                raise StoreError(str(path), "schema", problem, MAKE_AGAIN)
            yield first, reader
    except FileNotFoundError:
        raise StoreError(str(path), "", "the file of the store is missing", MAKE_AGAIN) from None
    except (pa.ArrowException, ValueError, AttributeError, OSError) as error:
        raise StoreError(str(path), "", f"not a readable Arrow file: {error}", REPAIR) from None


def map_batches(path: Path, schema: pa.Schema) -> list[pa.RecordBatch]:
    """Map an Arrow IPC stream file in place; raises like ``mapped_stream``."""
    with mapped_stream(path, schema) as (_, reader):
        return list(reader)


@contextlib.contextmanager
def written_stream(path: Path, schema: pa.Schema) -> Iterator[Any]:
    """Yield the writer of an Arrow IPC stream file, which is whole or absent.

    Raises:
        InputError: the directory cannot be written.
    """
    with written_beside(path) as partial, pa.ipc.new_stream(str(partial), schema) as writer:
        yield writer

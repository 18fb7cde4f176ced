"""Shards: the rows of one modality in Arrow IPC stream files, which Hugging Face datasets open as they are.

In memory rows have ``ROW_SCHEMA``; in a shard the features are lists of frames, each of ``width`` numbers, of
four or two bytes. A shard is whole or absent, and depends on its rows alone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from vavl.config.files import make_directory, sha256_of_file, written_beside
from vavl.errors import StoreError
from vavl.store.checked_files import MAKE_AGAIN, REPAIR

Dtype = Literal["float32", "float16"]
SHARD_BYTES = 256_000_000
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
_SHARED = ("clip_id", "corpus", "speaker")
_SMALLEST_NORMAL = float(np.finfo(np.float16).smallest_normal)
_FIX_EXTRACTOR = "repair the extractor: each clip needs at least one frame of finite values"


@dataclass(frozen=True)
class ClipFeatures:
    """Features of one modality of one clip."""

    clip_id: str
    speaker: str
    values: NDArray[np.float32]  # (time, channel), float32.
    frame_times: NDArray[np.float32]  # (time,), float32, seconds, center of each frame.


def row_batch(corpus: str, width: int, clips: Sequence[ClipFeatures]) -> pa.RecordBatch:
    """Put clips into rows of ``ROW_SCHEMA``."""
    frames = np.array([len(clip.values) for clip in clips], dtype=np.int32)
    values = [clip.values.astype(np.float32, copy=False).reshape(-1) for clip in clips]
    times = [clip.frame_times.astype(np.float32, copy=False) for clip in clips]
    columns = [
        pa.array([clip.clip_id for clip in clips], pa.string()),
        pa.array([corpus] * len(clips), pa.string()),
        pa.array([clip.speaker for clip in clips], pa.string()),
        pa.array(frames, pa.int32()),
        pa.array(np.full(len(clips), width), pa.int32()),
        pa.array(["float32"] * len(clips), pa.string()),
        list_column(values),
        list_column(times),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=ROW_SCHEMA)


def list_column(arrays: Sequence[NDArray[Any]]) -> pa.ListArray:
    """Return a list column from one-dimensional arrays without a Python object per value."""
    offsets = np.concatenate([[0], np.cumsum([len(array) for array in arrays])]).astype(np.int32)
    flat = np.concatenate(arrays) if arrays else np.zeros(0, np.float32)
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(flat))


@dataclass(frozen=True)
class Shard:
    """What store.json says of a shard: its file, and the largest error of its numbers relative to what was given."""

    name: str
    bytes: int
    sha256: str
    clips: int
    relative_error: float = 0.0

    def entry(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


def shard_schema(width: int, dtype: Dtype) -> pa.Schema:
    """Return the columns of a shard; ``with_format("numpy")`` gives its features as (time, channel)."""
    number = pa.float32() if dtype == "float32" else pa.float16()
    frames = pa.list_(pa.list_(number, width))
    return pa.schema(
        [*((name, pa.string()) for name in _SHARED), ("features", frames), ("frame_times", pa.list_(pa.float32()))]
    )


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
        self._most_bytes, self._schema = most_bytes, shard_schema(width, dtype)
        self._shards: list[Shard] = []
        self._open = contextlib.ExitStack()
        self._writer: Any = None
        self._clips = self._bytes = 0
        self._error = 0.0

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, kind: Any, *rest: Any) -> None:
        if kind is not None:
            self._open.__exit__(kind, *rest)

    @property
    def _path(self) -> Path:
        return self._directory / f"{self._stem}-{len(self._shards):05d}.arrow"

    def write(self, rows: pa.RecordBatch) -> None:
        """Append rows of ``ROW_SCHEMA`` as one record batch.

        Raises:
            StoreError: a value is not finite or too large for float16, or the sizes do not fit the width.
        """
        batch, error = self._converted(rows)
        if self._writer is not None and self._bytes + batch.nbytes > self._most_bytes:
            self._close()
        if self._writer is None:
            partial = self._open.enter_context(written_beside(self._path))
            self._writer = self._open.enter_context(pa.ipc.new_stream(str(partial), self._schema))
        self._writer.write_batch(batch)
        self._clips, self._bytes = self._clips + batch.num_rows, self._bytes + batch.nbytes
        self._error = max(self._error, error)

    def finish(self) -> list[Shard]:
        """Return the shards in their order; none without any row."""
        if self._writer is not None:
            self._close()
        return self._shards

    def _close(self) -> None:
        path = self._path
        self._open.close()
        size = path.stat().st_size
        self._shards.append(Shard(path.name, size, sha256_of_file(path), self._clips, self._error))
        self._writer, self._clips, self._bytes, self._error = None, 0, 0, 0.0

    def _converted(self, rows: pa.RecordBatch) -> tuple[pa.RecordBatch, float]:
        """Return the record batch of a shard and the largest relative error of its numbers."""
        lengths = rows.column("frames").to_numpy()
        values = rows.column("values").flatten().to_numpy()
        if len(values) != int(lengths.sum()) * self._width or (lengths < 1).any():
            problem = f"sizes do not fit {self._width} channels a frame"
            raise StoreError(str(self._path), "values", problem, _FIX_EXTRACTOR)
        if not np.isfinite(values).all():
            raise StoreError(str(self._path), "values", "features hold NaN or infinite values", _FIX_EXTRACTOR)
        error = 0.0
        if self._dtype == "float16":
            values, error = self._halved(rows, lengths, values)
        frames = pa.FixedSizeListArray.from_arrays(pa.array(values), self._width)
        ends = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        features = pa.ListArray.from_arrays(pa.array(ends), frames)
        columns = [*(rows.column(name) for name in _SHARED), features, rows.column("frame_times")]
        return pa.RecordBatch.from_arrays(columns, schema=self._schema), error

    def _halved(
        self, rows: pa.RecordBatch, lengths: NDArray[np.int32], values: NDArray[np.float32]
    ) -> tuple[NDArray[np.float16], float]:
        with np.errstate(over="ignore"):
            halved = values.astype(np.float16)
        lost = np.flatnonzero(~np.isfinite(halved))
        if len(lost):
            frame, channel = divmod(int(lost[0]), self._width)
            clip = rows.column("clip_id")[int(np.searchsorted(np.cumsum(lengths), frame, side="right"))]
            problem = f"channel {channel} holds {values[lost[0]]:g}, float16 ends at 65504"
            fix = "set features.dtype=float32, or scale this channel in the extractor"
            raise StoreError(str(self._path), f"clip {clip}", problem, fix)
        # Below the normal numbers steps are absolute; what is nearly nothing would hide every other error.
        sizes = np.maximum(np.abs(values), _SMALLEST_NORMAL)
        return halved, float((np.abs(halved.astype(np.float32) - values) / sizes).max())


@dataclass(frozen=True)
class ShardBatch:
    """A record batch of a shard, mapped in place."""

    batch: pa.RecordBatch
    frames: NDArray[np.int32]  # (clips,), of every clip.
    values: NDArray[Any]  # (all frames x channels,), as they lie.
    times: NDArray[np.float32]  # (all frames,).
    values_at: int  # byte of the shard at which ``values`` begin.
    times_at: int  # likewise.

    def clips(self) -> Iterator[tuple[NDArray[Any], NDArray[np.float32]]]:
        """Yield flat values and times of every clip."""
        width = len(self.values) // max(1, len(self.times))
        for start, end in pairwise([0, *np.cumsum(self.frames).tolist()]):
            yield self.values[start * width : end * width], self.times[start:end]

    def rows(self) -> pa.RecordBatch:
        """Return rows of ``ROW_SCHEMA``; float16 is widened to float32, and says so in the column ``dtype``."""
        clips, width = len(self.frames), len(self.values) // max(1, len(self.times))
        ends = np.concatenate([[0], np.cumsum(self.frames)])
        values = self.values.astype(np.float32, copy=False)
        columns = [
            *(self.batch.column(name) for name in _SHARED),
            pa.array(self.frames),
            pa.array(np.full(clips, width), pa.int32()),
            pa.array([str(self.values.dtype)] * clips, pa.string()),
            pa.ListArray.from_arrays(pa.array((ends * width).astype(np.int32)), pa.array(values)),
            self.batch.column("frame_times"),
        ]
        return pa.RecordBatch.from_arrays(columns, schema=ROW_SCHEMA)


def shard_batches(path: Path, width: int, dtype: Dtype) -> Iterator[ShardBatch]:
    """Yield the record batches of a shard.

    Raises:
        StoreError: the file is missing or broken, has other columns, or its sizes do not fit the width.
    """
    with mapped_stream(path, shard_schema(width, dtype)) as (first, reader):
        for batch in reader:
            ids, features, times = (batch.column(name) for name in ("clip_id", "features", "frame_times"))
            # A damaged offset would be followed out of the file.
            for column in (*(batch.column(name) for name in _SHARED), features, times):
                column.validate(full=True)
            frames, values = np.diff(features.offsets.to_numpy()), features.values.values
            is_wrong = (frames < 1) | (np.diff(times.offsets.to_numpy()) != frames)
            if is_wrong.any() or len(values) != int(frames.sum()) * width or len(times.values) != int(frames.sum()):
                problem = f"frames and values do not fit at width {width}"
                raise StoreError(str(path), str(ids[int(np.argmax(is_wrong))]), problem, REPAIR)
            values_at, times_at = (numbers.buffers()[1].address - first for numbers in (values, times.values))
            yield ShardBatch(batch, frames, values.to_numpy(), times.values.to_numpy(), values_at, times_at)


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

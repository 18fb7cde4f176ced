"""Sums of the channels per speaker, in float64, added up while a store is written."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from vavl.errors import StoreError
from vavl.features import ChannelSums
from vavl.store.shards import list_column, map_batches

SUMS_SCHEMA = pa.schema(
    [
        ("speaker", pa.string()),
        ("count", pa.int64()),
        ("sum", pa.list_(pa.float64())),
        ("sum_of_squares", pa.list_(pa.float64())),
    ]
)
# A whole batch in float64, and squared, would take ten times the memory of anything else in an extraction.
_CLIPS_IN_FLOAT64 = 16
_WIDE = 512


def read_sums(path: Path, width: int) -> dict[str, ChannelSums]:
    """Return the sums of a file by speaker; raises StoreError if it is missing or broken."""
    sums: dict[str, ChannelSums] = {}
    for batch in map_batches(path, SUMS_SCHEMA):
        total = batch.column("sum").values.to_numpy().reshape(-1, width)
        squares = batch.column("sum_of_squares").values.to_numpy().reshape(-1, width)
        counts = batch.column("count").to_pylist()
        for row, speaker in enumerate(batch.column("speaker").to_pylist()):
            sums[speaker] = ChannelSums(counts[row], total[row], squares[row])
    return sums


class SpeakerSums:
    """Adds up frames per speaker, one record batch after the other; known sums are taken as they are."""

    def __init__(self, width: int, known: Mapping[str, ChannelSums] | None = None) -> None:
        self.width = width
        self._sums: dict[str, ChannelSums] = dict(known or {})
        self._is_known, self._frames = known is not None, 0

    def add(self, batch: pa.RecordBatch) -> None:
        """Add rows of ``ROW_SCHEMA``."""
        frames = batch.column("frames").to_numpy()
        self._frames += int(frames.sum())
        if self._is_known:
            return
        values = batch.column("values").flatten().to_numpy()
        by_clip, squares_by_clip = sums_by_clip(values.reshape(-1, self.width), frames)
        coded = batch.column("speaker").dictionary_encode()
        codes = coded.indices.to_numpy()
        for code, speaker in enumerate(coded.dictionary.to_pylist()):
            own = codes == code
            more = ChannelSums(int(frames[own].sum()), by_clip[own].sum(axis=0), squares_by_clip[own].sum(axis=0))
            self._sums[speaker] = self._sums[speaker] + more if speaker in self._sums else more

    def total_frames(self) -> int:
        """Return the frames of all speakers."""
        return sum(sums.count for sums in self._sums.values())

    def check(self, path: Path) -> None:
        """Refuse known sums over other frames than those of the rows; raises StoreError."""
        if self.total_frames() != self._frames:
            problem = f"sums over {self.total_frames()} frames, the rows have {self._frames}"
            fix = "give the sums of all rows"
            raise StoreError(str(path), "count", problem, fix)

    def batch(self) -> pa.RecordBatch:
        """Return the sums as ``SUMS_SCHEMA``, sorted by speaker."""
        speakers = sorted(self._sums)
        columns = [
            pa.array(speakers, pa.string()),
            pa.array([self._sums[name].count for name in speakers], pa.int64()),
            list_column([self._sums[name].sum for name in speakers]),
            list_column([self._sums[name].sum_of_squares for name in speakers]),
        ]
        return pa.RecordBatch.from_arrays(columns, schema=SUMS_SCHEMA)


def sums_by_clip(
    values: NDArray[np.float32], frames: NDArray[np.int32]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return sum and sum of squares (clip, channel) of each clip's frames, which follow each other in ``values``."""
    ends = np.cumsum(frames)
    starts = ends - frames
    sums, squares = [], []
    for first in range(0, len(frames), _CLIPS_IN_FLOAT64):
        last = min(first + _CLIPS_IN_FLOAT64, len(frames))
        exact = values[starts[first] : ends[last - 1]].astype(np.float64)
        own = starts[first:last] - starts[first]
        total = _wide_sums if values.shape[1] >= _WIDE else np.add.reduceat
        sums.append(total(exact, own))
        squares.append(total(np.square(exact, out=exact), own))
    return np.concatenate(sums), np.concatenate(squares)


def _wide_sums(rows: NDArray[np.float64], starts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Do what ``np.add.reduceat(rows, starts)`` does, to the last bit, and ten times as fast for wide rows.

    NumPy goes down one column after the other, and each of its steps misses the cache. Here whole rows are added, in
    NumPy's order (pairwise, eight at a time): the sums enter the hash of a store.
    """
    clips = np.split(rows, starts[1:])
    return np.stack([clip[0] + _pairwise(clip[1:]) if len(clip) > 1 else clip[0] for clip in clips])


def _pairwise(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    if len(rows) > 128:
        half = len(rows) // 2
        half -= half % 8
        return _pairwise(rows[:half]) + _pairwise(rows[half:])
    whole = len(rows) - len(rows) % 8
    if not whole:
        return np.asarray(rows.sum(axis=0))
    eight = rows[:whole].reshape(-1, 8, rows.shape[1]).sum(axis=0)
    total = ((eight[0] + eight[1]) + (eight[2] + eight[3])) + ((eight[4] + eight[5]) + (eight[6] + eight[7]))
    for row in rows[whole:]:
        total += row
    return np.asarray(total)

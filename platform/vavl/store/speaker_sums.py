"""Sums of the channels per speaker, in float64, added up while a store is written."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from vavl.errors import StoreError
from vavl.features import ChannelSums
from vavl.store.shards import Rows, list_column, map_batches, written_stream

SUMS_SCHEMA = pa.schema(
    [
        ("speaker", pa.string()),
        ("count", pa.int64()),
        ("sum", pa.list_(pa.float64())),
        ("sum_of_squares", pa.list_(pa.float64())),
    ]
)
# NumPy goes down one channel after the other: some at a time stay in the cache, and take little memory in float64.
_CHANNELS_AT_ONCE = 32


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
        """Add rows of ``row_schema``."""
        rows = Rows(batch)
        frames = rows.frames
        self._frames += int(frames.sum())
        if self._is_known:
            return
        by_clip, squares_by_clip = sums_by_clip(rows.values.reshape(-1, self.width), frames)
        coded = batch.column("speaker").dictionary_encode()
        codes = coded.indices.to_numpy()
        for code, speaker in enumerate(coded.dictionary.to_pylist()):
            own = codes == code
            more = ChannelSums(int(frames[own].sum()), by_clip[own].sum(axis=0), squares_by_clip[own].sum(axis=0))
            self._sums[speaker] = self._sums[speaker] + more if speaker in self._sums else more

    def write(self, path: Path) -> int:
        """Write the sums, sorted by speaker, and return the frames of all.

        Raises:
            StoreError: known sums are over other frames than those of the rows.
        """
        total = sum(sums.count for sums in self._sums.values())
        if total != self._frames:
            problem = f"sums over {total} frames, the rows have {self._frames}"
            raise StoreError(str(path), "count", problem, "give the sums of all rows")
        speakers = sorted(self._sums)
        columns = [
            pa.array(speakers, pa.string()),
            pa.array([self._sums[name].count for name in speakers], pa.int64()),
            list_column([self._sums[name].sum for name in speakers]),
            list_column([self._sums[name].sum_of_squares for name in speakers]),
        ]
        with written_stream(path, SUMS_SCHEMA) as writer:
            writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=SUMS_SCHEMA))
        return total


def sums_by_clip(
    values: NDArray[np.floating], frames: NDArray[np.int32]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return sum and sum of squares (clip, channel) of each clip's frames, which follow each other in ``values``."""
    starts = np.cumsum(frames) - frames
    sums, squares = np.empty((2, len(frames), values.shape[1]))
    for first in range(0, values.shape[1], _CHANNELS_AT_ONCE):
        some = slice(first, first + _CHANNELS_AT_ONCE)
        exact = values[:, some].astype(np.float64)
        np.add.reduceat(exact, starts, out=sums[:, some])
        np.add.reduceat(np.square(exact, out=exact), starts, out=squares[:, some])
    return sums, squares

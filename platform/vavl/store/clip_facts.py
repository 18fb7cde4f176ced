"""What is known of the files behind a store: one row per clip and modality in ``facts.arrow``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from vavl.store.shards import map_batches, written_stream

FILE_NAME = "facts.arrow"
_ROWS_PER_BATCH = 4096
SCHEMA = pa.schema(
    [
        ("clip_id", pa.string()),
        ("modality", pa.string()),
        ("file", pa.string()),  # relative to the corpus directory
        ("sha256", pa.string()),  # of the file's bytes; null where a file holds many clips
        ("seconds", pa.float64()),
        # Audio.
        ("sample_rate_hz", pa.float64()),
        ("channels", pa.float64()),
        ("peak", pa.float64()),  # largest absolute sample, full scale 1
        ("silence_share", pa.float64()),  # of the time, 60 dB below full scale or less
        ("clipped_share", pa.float64()),  # of the samples, at full scale
        # Video.
        ("frame_rate_hz", pa.float64()),  # of the file
        ("width_px", pa.float64()),
        ("height_px", pa.float64()),
        ("face_share", pa.float64()),  # of the frames taken, with a found face
    ]
)


def read_facts(directory: Path) -> pa.Table:
    """Return the facts of a store: rows sorted by clip id, then modality; null where a fact is unknown.

    Raises:
        StoreError: the file is missing, broken or has other columns.
    """
    return pa.Table.from_batches(map_batches(directory / FILE_NAME, SCHEMA), SCHEMA)


def write_facts(directory: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write facts.arrow; no more rows than one batch are in memory.

    Args:
        directory: of the store.
        rows: keys are columns of ``SCHEMA``, sorted by clip id, then modality; a missing key is unknown.

    Raises:
        InputError: the directory cannot be written.
    """
    with written_stream(directory / FILE_NAME, SCHEMA) as writer:
        waiting = iter(rows)
        while batch := list(islice(waiting, _ROWS_PER_BATCH)):
            writer.write_batch(pa.RecordBatch.from_pylist(batch, schema=SCHEMA))

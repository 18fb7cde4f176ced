"""The file of a part: rows of the store, and beside them what is known of each clip."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vavl.errors import StoreError
from vavl.extraction.quarantine import Quarantined
from vavl.store.store import ROW_SCHEMA
from vavl.store.store_writer import ClipFeatures, row_batch

logger = logging.getLogger(__name__)

FORMAT = 2
"""Of the record; a part of another format is made again."""
_METADATA_KEY = b"vavl"
# What a reader of Parquet raises on bytes that were changed.
_DAMAGE = (OSError, pa.ArrowException, ValueError, IndexError)
# A part of long clips with wide features would not fit into memory as a whole; some copies of a group have to.
_VALUES_PER_GROUP = 1_000_000


@dataclass(frozen=True)
class ClipRecord:
    """What is known of an extracted clip beside its rows.

    Attributes:
        sha256: of the media file that the features depend on; None if there is none.
        facts: what the file is like, see ``Extracted.facts``.
        tally: numbers that are added up over clips.
        note: what a person should know about the clip; None if nothing.
    """

    sha256: str | None
    facts: Mapping[str, float] = field(default_factory=dict)
    tally: Mapping[str, int] = field(default_factory=dict)
    note: str | None = None


@dataclass(frozen=True)
class PartRecord:
    """What is known of a finished part beside its rows.

    Attributes:
        provenance: ``ModalityInfo.provenance`` of the features.
        clips: clip id -> record, in the order of the rows.
        quarantined: clips left out.
    """

    provenance: str
    clips: Mapping[str, ClipRecord]
    quarantined: tuple[Quarantined, ...] = ()

    def to_json(self) -> bytes:
        """Return the record as JSON for the metadata of the part's file."""
        return json.dumps({"format": FORMAT, **asdict(self)}, sort_keys=True, ensure_ascii=False).encode()

    @classmethod
    def from_json(cls, text: bytes) -> Self:
        """Read what ``to_json`` wrote.

        Raises:
            ValueError: the format is another one.
        """
        content: dict[str, Any] = json.loads(text)
        if content.get("format") != FORMAT:
            raise ValueError("another format")
        return cls(
            content["provenance"],
            {clip_id: ClipRecord(**entry) for clip_id, entry in content["clips"].items()},
            tuple(Quarantined(**entry) for entry in content["quarantined"]),
        )


class PartWriter:
    """Writes the rows of a part while they come, so that no more than some MB of them are in memory.

    Args:
        path: of the file.
        corpus: name.
        width: channels of a frame.
    """

    def __init__(self, path: Path, corpus: str, width: int) -> None:
        # Values hardly repeat: a dictionary of them would cost several times their memory for nothing.
        self._writer = pq.ParquetWriter(
            path, ROW_SCHEMA, write_page_checksum=True, use_dictionary=["corpus", "speaker", "dtype"]
        )
        self._corpus, self._width = corpus, width
        self._waiting: list[ClipFeatures] = []
        self._values = 0

    def add(self, features: ClipFeatures) -> None:
        """Append the row of a clip."""
        self._waiting.append(features)
        self._values += features.values.size
        if self._values >= _VALUES_PER_GROUP:
            self._flush()

    def finish(self, record: PartRecord) -> None:
        """Write what is left, and the record."""
        if self._waiting:
            self._flush()
        self._writer.add_key_value_metadata({_METADATA_KEY: record.to_json()})
        self._writer.close()

    def _flush(self) -> None:
        self._writer.write_batch(row_batch(self._corpus, self._width, self._waiting))
        self._waiting, self._values = [], 0


def read_part_record(path: Path) -> PartRecord | None:
    """Return the record of a finished part; None if there is no readable file of this format."""
    try:
        return PartRecord.from_json(pq.read_metadata(path).metadata[_METADATA_KEY])
    except (*_DAMAGE, KeyError, TypeError):
        return None


def part_batches(path: Path) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a part, one group after the other.

    Raises:
        StoreError: the file was damaged after it had been written.
    """
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            for group in range(file.num_row_groups):
                table = (
                    file.read_row_group(group, use_threads=False)
                    .replace_schema_metadata(None)
                    .cast(ROW_SCHEMA)
                )
                yield from table.combine_chunks().to_batches()
        # Arrow's allocator would keep what it has freed, some 100 MB over a thousand clips.
        pa.default_memory_pool().release_unused()
    except _DAMAGE as fault:
        raise StoreError(
            str(path), "", f"the finished part was damaged: {fault}",
            "remove this file and start the same command again: it extracts the clips of this part alone",
        ) from fault  # fmt: skip


class EarlierRows:
    """Rows of older parts that may be used again; one group of rows is in memory.

    Args:
        paths: of the parts' files.
        provenance: of the features wanted; parts with others are passed over.
    """

    def __init__(self, paths: Sequence[Path], provenance: str) -> None:
        self._places: dict[str, tuple[Path, int, ClipRecord]] = {}
        for path in paths:
            record = read_part_record(path)
            if record is not None and record.provenance == provenance:
                for row, (clip_id, clip) in enumerate(record.clips.items()):
                    self._places.setdefault(clip_id, (path, row, clip))
        self._group: tuple[Path, int, pa.Table] | None = None

    def knows(self, clip_id: str) -> bool:
        """Tell whether there is a row of the clip, made from whatever content of its file."""
        return clip_id in self._places

    def find(self, clip_id: str, speaker: str, sha256: str | None) -> tuple[ClipFeatures, ClipRecord] | None:
        """Return the row of a clip that was made from the same content of its file; None if there is none."""
        path, row, record = self._places.get(clip_id, (None, 0, None))
        if path is None or record is None or record.sha256 != sha256:
            return None
        try:
            entry = self._row(path, row)
        except _DAMAGE as fault:
            logger.warning("%s was damaged (%s); clip %s is extracted again", path, fault, clip_id)
            return None
        values = entry["values"].values.to_numpy(zero_copy_only=False)
        frames = entry["frame_times"].values.to_numpy(zero_copy_only=False)
        width = entry["width"].as_py()
        return ClipFeatures(clip_id, speaker, values.reshape(-1, width).astype(np.float32), frames), record

    def _row(self, path: Path, row: int) -> dict[str, Any]:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            group, start = 0, 0
            while row >= start + (rows := file.metadata.row_group(group).num_rows):
                group, start = group + 1, start + rows
            if self._group is None or self._group[:2] != (path, group):
                self._group = (path, group, file.read_row_group(group))
        table = self._group[2]
        return {name: table[name][row - start] for name in table.column_names}

"""One part of an extraction: a run of clips of one modality, in a file of its own.

A part is the unit of work of a process and of resumption: its file is whole or absent. It holds rows of the
store and, in its metadata, what is known of each clip.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vavl.config.files import make_folder, sha256_of_file, written_beside
from vavl.errors import ConfigError, NoSignalError, StoreError
from vavl.extraction.report import Quarantined
from vavl.extraction.sources import ClipPlace, Extract, Source
from vavl.extractors.extracted import Extracted, read_modality
from vavl.store.shards import ROW_SCHEMA, ClipFeatures, row_batch
from vavl.workers.attempts import Attempts, TimeLimit

logger = logging.getLogger(__name__)

FORMAT = 2
"""Of the record; a part of another format is made again."""
_METADATA_KEY = b"vavl"
# What a reader of Parquet raises on bytes that were changed.
_DAMAGE = (OSError, pa.ArrowException, ValueError, IndexError)
# A part of long clips with wide features would not fit into memory as a whole; some copies of a group have to.
_VALUES_PER_GROUP = 1_000_000


@dataclass(frozen=True)
class Part:
    """What a process works on.

    Attributes:
        modality: "audio" or "video".
        provenance: ``ModalityInfo.provenance`` of the features.
        clips: in the order of the manifest.
        earlier: files of older parts whose rows are used again where a clip's file has not changed.
    """

    modality: str
    path: Path
    corpus: str
    root: Path
    width: int
    provenance: str
    clips: tuple[ClipPlace, ...]
    earlier: tuple[Path, ...] = ()

    @property
    def marker(self) -> Path:
        """File that names the clip in work, for the case that the process ends in the middle of it."""
        return self.path.with_name(f".{self.path.stem}.current")


@dataclass(frozen=True)
class ClipRecord:
    """What is known of an extracted clip besides its rows.

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
    """What is known of a finished part besides its rows.

    Attributes:
        provenance: ``ModalityInfo.provenance`` of the features.
        clips: clip id -> record, in the order of the rows.
        quarantined: clips left out.
        without_signal: clips that count as clips without the modality: it carries nothing.
    """

    provenance: str
    clips: Mapping[str, ClipRecord]
    quarantined: tuple[Quarantined, ...] = ()
    without_signal: tuple[Quarantined, ...] = ()

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
            *(
                tuple(Quarantined(**entry) for entry in content.get(key, ()))
                for key in ("quarantined", "without_signal")
            ),
        )


@dataclass(frozen=True)
class PartResult:
    """What the job has to know of a finished part: small, whatever the features are.

    Attributes:
        extracted: clip ids that were worked on, those in quarantine included.
        quarantined: clips left out.
        without_signal: clips whose modality carries nothing.
        tally: sums over the clips of the part.
    """

    name: str
    extracted: tuple[str, ...] = ()
    quarantined: tuple[Quarantined, ...] = ()
    without_signal: tuple[Quarantined, ...] = ()
    tally: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, name: str, record: PartRecord, extracted: tuple[str, ...] = ()) -> Self:
        """Sum up a part."""
        tally: Counter[str] = Counter()
        for clip in record.clips.values():
            tally.update(clip.tally)
        return cls(name, extracted, record.quarantined, record.without_signal, dict(tally))


class PartExtractor:
    """Extracts parts; travels to workers, and makes the extractor of a modality when it first needs it."""

    def __init__(self, sources: Mapping[str, Source], limit: TimeLimit) -> None:
        self._sources, self._limit = sources, limit
        self._extractors: dict[str, Extract] = {}

    def __call__(self, part: Part) -> PartResult:
        """Extract the clips of a part and write its file.

        Clips that fail are quarantined. A clip whose row is in an earlier part, made from the same content of
        its file with the same extractor, keeps that row.

        Raises:
            ConfigError: the settings of the extractor do not fit; no clip could be extracted with them.
            InputError: the directory cannot be written.
            TrainingError: processes end before they touch a clip of the part.
        """
        source = self._sources[part.modality]
        extracted: list[str] = []
        make_folder(part.path.parent)
        attempts = Attempts(part.marker, self._limit)
        try:
            if part.modality not in self._extractors:
                self._extractors[part.modality] = source.make()
            extract, earlier = self._extractors[part.modality], EarlierRows(part.earlier, part.provenance)
            with written_beside(part.path) as partial:
                writer = PartWriter(partial, part.corpus, part.width)
                for clip in part.clips:
                    try:
                        with attempts.at(clip.clip_id, clip.file, part.modality):
                            sha256 = _content_hash(part, clip)
                            row = earlier.find(clip, sha256)
                            if row is None:
                                extracted.append(clip.clip_id)
                                place = source.argument(clip)
                                found = read_modality(extract, place, clip.file, part.modality, part.width)
                                row = _row(clip, found, sha256)
                    except ConfigError:
                        raise
                    except NoSignalError as error:
                        nothing = Quarantined.of(clip.clip_id, part.modality, clip.file, error)
                        writer.leave_out(nothing, has_signal=False)
                    except Exception as error:  # noqa: BLE001  what a damaged file provokes concerns it alone
                        writer.leave_out(Quarantined.of(clip.clip_id, part.modality, clip.file, error))
                    else:
                        writer.add(*row)
                record = writer.finish(part.provenance)
        finally:
            # Only a process that ends without a word leaves its marker behind.
            attempts.finish()
        return PartResult.of(part.path.name, record, tuple(extracted))


def _row(clip: ClipPlace, found: Extracted, sha256: str | None) -> tuple[ClipFeatures, ClipRecord]:
    facts = {name: float(value) for name, value in found.facts.items()}
    tally = {name: int(count) for name, count in found.tally.items()}
    features = ClipFeatures(clip.clip_id, clip.speaker, found.values, found.frame_times)
    return features, ClipRecord(sha256, facts, tally, found.note)


def _content_hash(part: Part, clip: ClipPlace) -> str | None:
    """Return the SHA-256 of the file that the features of a clip depend on; None if it cannot be read.

    What is wrong with such a file is for the extractor to say; a pipe would block whoever opens it.
    """
    path = None if clip.media is None else part.root / clip.media
    try:
        return sha256_of_file(path) if path is not None and path.is_file() else None
    except OSError:
        return None


class PartWriter:
    """Writes the rows of a part while they come, so that no more than some MB of them are in memory."""

    def __init__(self, path: Path, corpus: str, width: int) -> None:
        # Values hardly repeat: a dictionary of them would cost several times their memory for nothing.
        self._writer = pq.ParquetWriter(
            path, ROW_SCHEMA, write_page_checksum=True, use_dictionary=["corpus", "speaker", "dtype"]
        )
        self._corpus, self._width = corpus, width
        self._waiting: list[ClipFeatures] = []
        self._values = 0
        self._clips: dict[str, ClipRecord] = {}
        self._quarantined: list[Quarantined] = []
        self._without_signal: list[Quarantined] = []

    def add(self, features: ClipFeatures, record: ClipRecord) -> None:
        """Append the row of a clip."""
        self._clips[features.clip_id] = record
        self._waiting.append(features)
        self._values += features.values.size
        if self._values >= _VALUES_PER_GROUP:
            self._flush()

    def leave_out(self, clip: Quarantined, *, has_signal: bool = True) -> None:
        """Note a clip that has no row: one that cannot be read, or one whose modality carries nothing."""
        (self._quarantined if has_signal else self._without_signal).append(clip)

    def finish(self, provenance: str) -> PartRecord:
        """Write what is left, and the record of features of this provenance."""
        if self._waiting:
            self._flush()
        record = PartRecord(provenance, self._clips, tuple(self._quarantined), tuple(self._without_signal))
        self._writer.add_key_value_metadata({_METADATA_KEY: record.to_json()})
        self._writer.close()
        return record

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
                table = file.read_row_group(group, use_threads=False)
                yield from table.replace_schema_metadata(None).cast(ROW_SCHEMA).combine_chunks().to_batches()
        # Arrow's allocator would keep what it has freed, some 100 MB over a thousand clips.
        pa.default_memory_pool().release_unused()
    except _DAMAGE as error:
        fix = "remove this file and start the same command again: it extracts the clips of this part alone"
        raise StoreError(str(path), "", f"the finished part was damaged: {error}", fix) from error


class EarlierRows:
    """Rows of older parts that may be used again; one group of rows is in memory."""

    def __init__(self, paths: Sequence[Path], provenance: str) -> None:
        self._places: dict[str, tuple[Path, int, ClipRecord]] = {}
        for path in paths:
            record = read_part_record(path)
            if record is not None and record.provenance == provenance:
                for row, (clip_id, clip) in enumerate(record.clips.items()):
                    self._places.setdefault(clip_id, (path, row, clip))
        self._group: tuple[Path, int, pa.Table] | None = None

    def find(self, clip: ClipPlace, sha256: str | None) -> tuple[ClipFeatures, ClipRecord] | None:
        """Return the row of a clip that was made from the same content of its file; None if there is none."""
        path, row, record = self._places.get(clip.clip_id, (None, 0, None))
        if path is None or record is None or record.sha256 != sha256:
            return None
        try:
            entry = self._row(path, row)
        except _DAMAGE as error:
            logger.warning("%s was damaged (%s); clip %s is extracted again", path, error, clip.clip_id)
            return None
        values = entry["values"].values.to_numpy(zero_copy_only=False).reshape(-1, entry["width"].as_py())
        times = entry["frame_times"].values.to_numpy(zero_copy_only=False)
        return ClipFeatures(clip.clip_id, clip.speaker, values.astype(np.float32), times), record

    def _row(self, path: Path, row: int) -> dict[str, Any]:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            group, start = 0, 0
            while row >= start + (rows := file.metadata.row_group(group).num_rows):
                group, start = group + 1, start + rows
            if self._group is None or self._group[:2] != (path, group):
                self._group = (path, group, file.read_row_group(group))
        table = self._group[2]
        return {name: table[name][row - start] for name in table.column_names}

"""One part of an extraction: a run of clips of one modality, in shards of its own.

A part is the unit of work of a process and of resumption. Its shards lie where the store has them; its record, which
says what is known of each clip, is written after them, whole or not at all.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from vavl.config.files import make_directory, read_json, sha256_of_file, write_text
from vavl.errors import ConfigError, FullDiskError, InputError, NoSignalError, StoreError
from vavl.extraction.report import Quarantined
from vavl.extraction.sources import ClipPlace, Extract, Source
from vavl.extractors.extracted import Extracted, read_modality
from vavl.store.checked_files import check_size
from vavl.store.shards import (
    SHARD_BYTES,
    ClipFeatures,
    Dtype,
    Rows,
    Shard,
    ShardWriter,
    checksum,
    row_batch,
    shard_rows,
)
from vavl.workers.attempts import Attempts, TimeLimit

logger = logging.getLogger(__name__)
_AGAIN = "run: jobs/prepare_corpus.py again, which extracts the clip anew"

FORMAT = 3
"""Of the record; a part of another format is made again."""
# A part of long clips with wide features would not fit into memory as a whole; some copies of a group have to.
_VALUES_PER_GROUP = 1_000_000


@dataclass(frozen=True)
class Part:
    """What a process works on."""

    modality: str  # "audio" or "video"
    path: Path  # of the record
    corpus: str
    root: Path
    width: int
    provenance: str  # ``ModalityInfo.provenance`` of the features
    dtype: Dtype  # of the features on disk
    clips: tuple[ClipPlace, ...]  # in the order of the manifest
    # records of older parts whose rows are used again where a clip's file has not changed
    earlier: tuple[Path, ...] = ()

    @property
    def marker(self) -> Path:
        """File that names the clip in work, for the case that the process ends in the middle of it."""
        return self.path.with_name(f".{self.path.stem}.current")

    def shard_writer(self) -> ShardWriter:
        """Return a writer of the shards, which have the key of the part in their names."""
        stem = f"data-{self.path.stem.rpartition('-')[2]}"
        return ShardWriter(shard_directory(self.path), stem, self.width, self.dtype, SHARD_BYTES)


def shard_directory(record: Path) -> Path:
    """Return where the shards of a part lie, by the path of its record: ``STORE/parts/audio-<key>.json``."""
    return record.parents[1] / record.stem.partition("-")[0]


@dataclass(frozen=True)
class ClipRecord:
    """What is known of an extracted clip besides its rows."""

    sha256: str | None  # of the media file that the features depend on; None if there is none
    facts: Mapping[str, float] = field(default_factory=dict)  # what the file is like, see ``Extracted.facts``
    tally: Mapping[str, int] = field(default_factory=dict)  # numbers that are added up over clips
    note: str | None = None  # what a person should know about the clip; None if nothing


@dataclass(frozen=True)
class PartRecord:
    """What is known of a finished part besides its rows."""

    provenance: str  # ``ModalityInfo.provenance`` of the features
    dtype: Dtype  # of the features on disk
    width: int  # channels of a frame
    clips: Mapping[str, ClipRecord]  # clip id -> record, in the order of the rows
    shards: tuple[Shard, ...]  # in the order of the rows
    checksums: tuple[tuple[int, ...], ...]  # of the rows of each shard, in their order
    quarantined: tuple[Quarantined, ...] = ()  # clips left out
    without_signal: tuple[Quarantined, ...] = ()  # clips that count as clips without the modality: it carries nothing

    def write(self, path: Path) -> None:
        """Write the record, whole or not at all."""
        write_text(path, json.dumps({"format": FORMAT, **asdict(self)}, ensure_ascii=False) + "\n")

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """Return what ``write`` wrote; None if it cannot be read, is of another format, or lacks a whole shard."""
        try:
            content: dict[str, Any] = read_json(path)
            if content.pop("format") != FORMAT:
                return None
            content["clips"] = {clip_id: ClipRecord(**entry) for clip_id, entry in content["clips"].items()}
            for key, kind in (("shards", Shard), ("quarantined", Quarantined), ("without_signal", Quarantined)):
                content[key] = tuple(kind(**entry) for entry in content[key])
            content["checksums"] = tuple(map(tuple, content["checksums"]))
            record = cls(**content)
            if [len(one) for one in record.checksums] != [one.clips for one in record.shards] or (
                sum(map(len, record.checksums)) != len(record.clips)
            ):
                return None
            for shard in record.shards:
                check_size(shard_directory(path) / shard.name, shard.bytes)
        except (InputError, StoreError, OSError, KeyError, TypeError, ValueError, AttributeError):
            return None
        return record


@dataclass(frozen=True)
class PartResult:
    """What the job has to know of a finished part: small, whatever the features are."""

    name: str
    extracted: tuple[str, ...] = ()  # clip ids that were worked on, those in quarantine included
    quarantined: tuple[Quarantined, ...] = ()  # clips left out
    without_signal: tuple[Quarantined, ...] = ()  # clips whose modality carries nothing
    tally: Mapping[str, int] = field(default_factory=dict)  # sums over the clips of the part

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
        """Extract the clips of a part, write its shards, then its record.

        Clips that fail are quarantined. A clip whose row is in an earlier part, made from the same content of
        its file with the same extractor, keeps that row.

        Raises:
            ConfigError: the settings of the extractor do not fit; no clip could be extracted with them.
            InputError: the directory cannot be written, or a disk is full.
            StoreError: a value is too large for float16.
            TrainingError: processes end before they touch a clip of the part.
        """
        source = self._sources[part.modality]
        extracted: list[str] = []
        make_directory(part.path.parent)
        attempts = Attempts(part.marker, self._limit)
        try:
            if part.modality not in self._extractors:
                self._extractors[part.modality] = source.make()
            extract, earlier = self._extractors[part.modality], EarlierRows(part)
            with part.shard_writer() as shards:
                writer = PartWriter(part, shards)
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
                    except (ConfigError, FullDiskError):
                        raise
                    except NoSignalError as error:
                        nothing = Quarantined.of(clip.clip_id, part.modality, clip.file, error)
                        writer.leave_out(nothing, has_signal=False)
                    except Exception as error:  # noqa: BLE001  what a damaged file provokes concerns it alone
                        writer.leave_out(Quarantined.of(clip.clip_id, part.modality, clip.file, error))
                    else:
                        writer.add(*row)
                record = writer.finish()
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

    def __init__(self, part: Part, shards: ShardWriter) -> None:
        self._part, self._shards = part, shards
        self._waiting: list[ClipFeatures] = []
        self._values = 0
        self._clips: dict[str, ClipRecord] = {}
        self._quarantined: list[Quarantined] = []
        self._without_signal: list[Quarantined] = []

    def add(self, features: ClipFeatures, record: ClipRecord) -> None:
        """Append the row of a clip; raises StoreError if float16 cannot hold a value of it."""
        self._clips[features.clip_id] = record
        self._waiting.append(features)
        self._values += features.values.size
        if self._values >= _VALUES_PER_GROUP:
            self._flush()

    def leave_out(self, clip: Quarantined, *, has_signal: bool = True) -> None:
        """Note a clip that has no row: one that cannot be read, or one whose modality carries nothing."""
        (self._quarantined if has_signal else self._without_signal).append(clip)

    def finish(self) -> PartRecord:
        """Write what is left, and the record of the part."""
        self._flush()
        part, shards, checksums = self._part, tuple(self._shards.finish()), tuple(self._shards.checksums)
        left_out = tuple(self._quarantined), tuple(self._without_signal)
        record = PartRecord(part.provenance, part.dtype, part.width, self._clips, shards, checksums, *left_out)
        record.write(part.path)
        return record

    def _flush(self) -> None:
        if self._waiting:
            self._shards.write(row_batch(self._part.corpus, self._part.width, self._waiting))
            self._waiting, self._values = [], 0


class EarlierRows:
    """Rows of older parts that may be used again; their shards are mapped, one at a time."""

    def __init__(self, part: Part) -> None:
        self._width, self._dtype = part.width, part.dtype
        self._places: dict[str, tuple[Path, int, int, ClipRecord]] = {}
        for path in part.earlier:
            record = PartRecord.read(path)
            if record is None or (record.provenance, record.dtype) != (part.provenance, part.dtype):
                continue
            clips = iter(record.clips.items())
            for shard, checksums in zip(record.shards, record.checksums, strict=True):
                for row, crc32 in enumerate(checksums):
                    clip_id, clip = next(clips)
                    self._places.setdefault(clip_id, (shard_directory(path) / shard.name, row, crc32, clip))
        self._shard: tuple[Path, list[Rows]] | None = None

    def find(self, clip: ClipPlace, sha256: str | None) -> tuple[ClipFeatures, ClipRecord] | None:
        """Return the row of a clip that was made from the same content of its file; None if there is none."""
        if clip.clip_id not in self._places or self._places[clip.clip_id][3].sha256 != sha256:
            return None
        path, row, crc32, record = self._places[clip.clip_id]
        try:
            values, times = self._row(path, row)
            if checksum(values, times) != crc32:
                raise StoreError(str(path), f"clip {clip.clip_id}", "its CRC-32 differs", _AGAIN)
        except StoreError as error:
            logger.warning("%s was damaged (%s); clip %s is extracted again", path, error.problem, clip.clip_id)
            return None
        frames = values.astype(np.float32, copy=False).reshape(-1, self._width)
        return ClipFeatures(clip.clip_id, clip.speaker, frames, times), record

    def _row(self, path: Path, row: int) -> tuple[NDArray[Any], NDArray[np.float32]]:
        if self._shard is None or self._shard[0] != path:
            self._shard = path, list(shard_rows(path, self._width, self._dtype))
        for rows in self._shard[1]:
            if row < len(rows.frames):
                return next(islice(rows.clips(), row, None))
            row -= len(rows.frames)
        raise StoreError(str(path), "", "rows are missing", _AGAIN)

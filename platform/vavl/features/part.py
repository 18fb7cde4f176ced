"""One part of an extraction: a run of clips of one modality, in a file of its own.

A part is the unit of work of a process and of resumption: its file is whole or absent.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from vavl.config.files import make_folder, written_beside
from vavl.data.store import ROW_SCHEMA
from vavl.data.store_writer import ClipFeatures, row_batch
from vavl.errors import ClipError, ConfigError
from vavl.features.extracted import Extracted, require_finite
from vavl.features.quarantine import Quarantined

_METADATA_KEY = b"vavl"


@dataclass(frozen=True)
class ClipPlace:
    """Where one modality of a clip is found.

    Attributes:
        clip_id: of the manifest.
        speaker: of the manifest.
        file: path relative to the corpus folder, or the key of a row of the table of features.
        sound: path of the clip's sound, for a table; None otherwise.
    """

    clip_id: str
    speaker: str
    file: str
    sound: str | None = None


@dataclass(frozen=True)
class Part:
    """What a process works on.

    Attributes:
        modality: "audio" or "video".
        number: of the part, from 0.
        path: of its file.
        corpus: name.
        width: channels of a frame.
        clips: in the order of the manifest.
        crashing: clip ids that ended their process before; they are quarantined untried.
    """

    modality: str
    number: int
    path: Path
    corpus: str
    width: int
    clips: tuple[ClipPlace, ...]
    crashing: frozenset[str] = frozenset()

    @property
    def marker(self) -> Path:
        """File that names the clip in work, for the case that the process ends in the middle of it."""
        return self.path.with_name(f".{self.path.stem}.current")

    def with_crashing(self, clip_id: str) -> Part:
        """Return the part with one more clip that is not to be tried again."""
        return replace(self, crashing=self.crashing | {clip_id})


@dataclass(frozen=True)
class PartRecord:
    """What is known of a finished part beside its rows.

    Attributes:
        quarantined: clips left out.
        notes: clip id -> note.
        tally: sums over the clips of the part.
    """

    quarantined: tuple[Quarantined, ...] = ()
    notes: Mapping[str, str] = field(default_factory=dict)
    tally: Mapping[str, int] = field(default_factory=dict)

    def to_json(self) -> bytes:
        """Return the record as JSON for the metadata of the part's file."""
        return json.dumps(asdict(self), sort_keys=True, ensure_ascii=False).encode()

    @classmethod
    def from_json(cls, text: bytes) -> Self:
        """Read what ``to_json`` wrote."""
        content: dict[str, Any] = json.loads(text)
        quarantined = tuple(Quarantined(**entry) for entry in content["quarantined"])
        return cls(quarantined, content["notes"], content["tally"])


Extract = Callable[[ClipPlace], Extracted]


def extract_part(part: Part, extract: Extract) -> PartRecord:
    """Extract the clips of a part and write its file.

    Clips that fail are quarantined. Rows of an older file of the part stay as they are, its
    quarantined clips are tried again.

    Raises:
        ConfigError: the settings of the extractor do not fit; no clip could be extracted with them.
        InputError: the folder cannot be written.
    """
    make_folder(part.path.parent)
    old_rows, old = read_part(part.path) if part.path.exists() else (None, PartRecord())
    bad = {record.clip_id for record in old.quarantined}
    features: list[ClipFeatures] = []
    quarantined: list[Quarantined] = []
    notes, tally = dict(old.notes), Counter(old.tally)
    for clip in part.clips:
        if old_rows is not None and clip.clip_id not in bad:
            continue
        part.marker.write_text(clip.clip_id, encoding="utf-8")
        try:
            extracted = _try(part, clip, extract)
        except ConfigError:
            raise
        except Exception as fault:  # noqa: BLE001  whatever a damaged file provokes concerns that file only
            quarantined.append(Quarantined.of(clip.clip_id, part.modality, clip.file, fault))
            continue
        features.append(ClipFeatures(clip.clip_id, clip.speaker, extracted.values, extracted.frame_times))
        tally.update(extracted.tally)
        if extracted.note:
            notes[clip.clip_id] = extracted.note
    rows = pa.Table.from_batches([row_batch(part.corpus, part.width, features)], ROW_SCHEMA)
    if old_rows is not None:
        rows = pa.concat_tables([old_rows, rows]).sort_by("clip_id")
    record = PartRecord(tuple(quarantined), notes, dict(tally))
    with written_beside(part.path) as partial:
        pq.write_table(rows.replace_schema_metadata({_METADATA_KEY: record.to_json()}), partial)
    part.marker.unlink(missing_ok=True)
    return record


def read_part(path: Path) -> tuple[pa.Table, PartRecord]:
    """Return the rows of a part and its record."""
    table = pq.read_table(path, partitioning=None)
    record = PartRecord.from_json(table.schema.metadata[_METADATA_KEY])
    return table.replace_schema_metadata(None).cast(ROW_SCHEMA), record


def read_part_record(path: Path) -> PartRecord | None:
    """Return the record of a finished part; None if there is no readable file of it."""
    try:
        return PartRecord.from_json(pq.read_schema(path).metadata[_METADATA_KEY])
    except (OSError, pa.ArrowInvalid, KeyError, TypeError, ValueError):
        return None


def _try(part: Part, clip: ClipPlace, extract: Extract) -> Extracted:
    if clip.clip_id in part.crashing:
        raise ClipError(
            clip.file, part.modality, "the process that decoded it ended without a word (crash or out of memory)",
            "look at the file; make it again from its source, or leave the clip out",
        )  # fmt: skip
    extracted = require_finite(clip.file, part.modality, extract(clip))
    if extracted.values.shape[1] != part.width:
        raise ClipError(
            clip.file, part.modality, f"{extracted.values.shape[1]} channels instead of {part.width}",
            "repair the extractor",
        )  # fmt: skip
    return extracted

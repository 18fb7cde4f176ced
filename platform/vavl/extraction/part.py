"""One part of an extraction: a run of clips of one modality, in a file of its own.

A part is the unit of work of a process and of resumption: its file is whole or absent.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from vavl.config.files import make_folder, sha256_of_file, written_beside
from vavl.errors import ClipError, ConfigError
from vavl.extraction.part_file import ClipRecord, EarlierRows, PartRecord, PartWriter
from vavl.extraction.quarantine import Quarantined
from vavl.extraction.sources import ClipPlace, Extract
from vavl.extractors.extracted import require_finite
from vavl.store.store_writer import ClipFeatures
from vavl.workers.attempts import Attempts, TimeLimit


@dataclass(frozen=True)
class Part:
    """What a process works on.

    Attributes:
        modality: "audio" or "video".
        path: of its file.
        corpus: name.
        root: absolute corpus folder.
        width: channels of a frame.
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

    def to_json(self) -> str:
        """Return the part as text for another process."""
        return json.dumps(asdict(self), default=str)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what ``to_json`` wrote."""
        content: dict[str, Any] = json.loads(text)
        clips = tuple(ClipPlace(**clip) for clip in content.pop("clips"))
        path, root = Path(content.pop("path")), Path(content.pop("root"))
        earlier = tuple(Path(path) for path in content.pop("earlier"))
        return cls(**content, path=path, root=root, clips=clips, earlier=earlier)


@dataclass(frozen=True)
class PartResult:
    """What the job has to know of a finished part: small, whatever the features are.

    Attributes:
        extracted: clip ids that were worked on, those in quarantine included.
        quarantined: clips left out.
        tally: sums over the clips of the part.
    """

    extracted: tuple[str, ...] = ()
    quarantined: tuple[Quarantined, ...] = ()
    tally: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, record: PartRecord, extracted: tuple[str, ...] = ()) -> Self:
        """Sum up a part."""
        tally: Counter[str] = Counter()
        for clip in record.clips.values():
            tally.update(clip.tally)
        return cls(extracted, record.quarantined, dict(tally))

    def to_json(self) -> str:
        """Return the result as text for another process."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what ``to_json`` wrote."""
        content: dict[str, Any] = json.loads(text)
        quarantined = tuple(Quarantined(**entry) for entry in content["quarantined"])
        return cls(tuple(content["extracted"]), quarantined, content["tally"])


def extract_part(part: Part, make_extractor: Callable[[], Extract], limit: TimeLimit) -> PartResult:
    """Extract the clips of a part and write its file.

    Clips that fail are quarantined. A clip whose row is in an earlier part, made from the same content of
    its file with the same extractor, keeps that row.

    Args:
        part: what to do.
        make_extractor: called once, before the first clip.
        limit: longest time for one clip.

    Raises:
        ConfigError: the settings of the extractor do not fit; no clip could be extracted with them.
        InputError: the folder cannot be written.
        TrainingError: processes end before they touch a clip of the part.
    """
    make_folder(part.path.parent)
    attempts = Attempts(part.marker, limit)
    try:
        with written_beside(part.path) as partial:
            writer = PartWriter(partial, part.corpus, part.width)
            record, extracted = _work(part, make_extractor(), attempts, writer)
            writer.finish(record)
    finally:
        # Only a process that ends without a word leaves its marker behind.
        attempts.finish()
    return PartResult.of(record, extracted)


def _work(
    part: Part, extract: Extract, attempts: Attempts, writer: PartWriter
) -> tuple[PartRecord, tuple[str, ...]]:
    """Write the rows of the part; return its record and the clip ids that were worked on."""
    earlier = EarlierRows(part.earlier, part.provenance)
    clips: dict[str, ClipRecord] = {}
    extracted: list[str] = []
    quarantined: list[Quarantined] = []
    for clip in part.clips:
        try:
            with attempts.at(clip.clip_id, clip.file, part.modality):
                found = _kept(part, clip, earlier)
                if found is None:
                    extracted.append(clip.clip_id)
                    found = _extracted(part, clip, extract)
        except ConfigError:
            raise
        except Exception as fault:  # noqa: BLE001  whatever a damaged file provokes concerns that file only
            quarantined.append(Quarantined.of(clip.clip_id, part.modality, clip.file, fault))
            continue
        writer.add(found[0])
        clips[clip.clip_id] = found[1]
    return PartRecord(part.provenance, clips, tuple(quarantined)), tuple(extracted)


def _kept(part: Part, clip: ClipPlace, earlier: EarlierRows) -> tuple[ClipFeatures, ClipRecord] | None:
    """Return the earlier row of a clip, if there is one and the file has not changed since."""
    if not earlier.knows(clip.clip_id):
        return None
    return earlier.find(clip.clip_id, clip.speaker, _content_hash(part, clip))


def _extracted(part: Part, clip: ClipPlace, extract: Extract) -> tuple[ClipFeatures, ClipRecord]:
    content_hash = _content_hash(part, clip)
    found = require_finite(clip.file, part.modality, extract(clip))
    if found.values.shape[1] != part.width:
        raise ClipError(
            clip.file, part.modality, f"{found.values.shape[1]} channels instead of {part.width}",
            "repair the extractor",
        )  # fmt: skip
    record = ClipRecord(
        content_hash,
        {name: float(value) for name, value in found.facts.items()},
        {name: int(count) for name, count in found.tally.items()},
        found.note,
    )
    return ClipFeatures(clip.clip_id, clip.speaker, found.values, found.frame_times), record


def _content_hash(part: Part, clip: ClipPlace) -> str | None:
    """Return the SHA-256 of the file that the features of a clip depend on; None if it cannot be read.

    What is wrong with such a file is for the extractor to say; a pipe would block whoever opens it.
    """
    path = None if clip.media is None else part.root / clip.media
    try:
        return sha256_of_file(path) if path is not None and path.is_file() else None
    except OSError:
        return None

"""What an extraction has to do: its parts, those that an earlier one left, and those that are to be made."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from vavl.config.files import file_mark, read_json, sha256_of_json, write_json
from vavl.corpora.card import CorpusCard, card_hash, corpus_root
from vavl.corpora.manifest import CONVERT, FIRST_FORMAT_MANIFEST, Manifest
from vavl.errors import InputError, StoreError
from vavl.extraction.parts import FORMAT, Part, PartRecord, PartResult
from vavl.extraction.settings import FeatureSettings
from vavl.extraction.sources import Source, sources_of
from vavl.features import MODALITIES, ModalityInfo, changed_settings
from vavl.store.shards import Dtype

logger = logging.getLogger(__name__)

_FEWEST_CLIPS, _MOST_CLIPS, _PARTS_AIMED_AT = 16, 1024, 64
_FARTHEST = 4
_THREADS_THAT_LOOK = 16
STATEMENT = "extraction.json"


@dataclass(frozen=True)
class PartPlace:
    """One part of the layout."""

    start: int  # first row among those of the manifest that have the modality
    length: int
    # of its record; in it stands a hash of everything that the part depends on, media by size and time of change
    name: str


@dataclass(frozen=True)
class ExtractionPlan:
    """Everything that decides the content of a store."""

    manifest: Manifest
    root: Path
    directory: Path
    sources: Mapping[str, Source]  # of each modality that a clip of the manifest has
    dtype: Dtype = "float32"  # of the features on disk

    @property
    def infos(self) -> Mapping[str, ModalityInfo]:
        """Provenance of each modality."""
        return {name: source.info for name, source in self.sources.items()}

    @property
    def parts_directory(self) -> Path:
        """Where the parts are."""
        return self.directory / "parts"

    @cached_property
    def layout(self) -> Mapping[str, tuple[PartPlace, ...]]:
        """The parts of each modality; looks at every media file once."""
        return {name: tuple(self._layout(name)) for name in self.sources}

    @property
    def total(self) -> int:
        """Number of (clip, modality) pairs."""
        return sum(place.length for places in self.layout.values() for place in places)

    def clip_ids(self, modality: str) -> pa.ChunkedArray:
        """Return the ids of the clips that have the modality."""
        if modality not in self.sources:
            return pa.chunked_array([], pa.string())
        return self._rows(modality)["clip_id"]

    def part(self, modality: str, place: PartPlace, earlier: Sequence[Path] = ()) -> Part:
        """Make one part; thousands of them need not be in memory at once."""
        source = self.sources[modality]
        rows = self._rows(modality).slice(place.start, place.length)
        return Part(
            modality=modality,
            path=self.parts_directory / place.name,
            corpus=self.manifest.corpus,
            root=self.root,
            width=source.info.width,
            provenance=source.info.provenance,
            dtype=self.dtype,
            clips=tuple(source.place(row) for row in rows.to_pylist()),
            earlier=tuple(earlier),
        )

    def parts(self, modality: str) -> Iterator[Part]:
        """Yield the parts of a modality in order."""
        for place in self.layout[modality]:
            yield self.part(modality, place)

    def statement(self) -> dict[str, Any]:
        """Return what a person should know of the parts in the directory."""
        return {
            "corpus": self.manifest.corpus,
            **{
                name: {
                    "extractor": info.extractor,
                    "version": info.version,
                    "settings": dict(info.settings),
                    "channels": list(info.channels),
                    "dtype": self.dtype,
                }
                for name, info in self.infos.items()
            },
        }

    def _rows(self, modality: str) -> pa.Table:
        source = self.sources[modality]
        columns = dict.fromkeys(["clip_id", "speaker", source.file_column, source.media_column])
        rows = self.manifest.table.select([name for name in columns if name is not None])
        return rows.filter(pc.is_valid(rows[source.file_column]))

    def _layout(self, modality: str) -> Iterator[PartPlace]:
        rows, source = self._rows(modality), self.sources[modality]
        with ThreadPoolExecutor(_THREADS_THAT_LOOK) as threads:
            for start, end in part_bounds(rows["clip_id"], len(self.manifest)):
                own = rows.slice(start, end - start)
                media = own[source.media_column].to_pylist() if source.media_column else []
                marks = list(threads.map(self._mark, media))
                content = [own[name].to_pylist() for name in ("clip_id", "speaker", source.file_column)]
                parts = [FORMAT, self.manifest.corpus, source.info.provenance, self.dtype, content, marks]
                yield PartPlace(start, end - start, f"{modality}-{sha256_of_json(parts)[:12]}.json")

    def _mark(self, name: str | None) -> str:
        return "" if name is None else file_mark(self.root / name)


def plan_extraction(
    card: CorpusCard, manifest: Manifest, root: Path | None, settings: FeatureSettings, directory: Path
) -> ExtractionPlan:
    """Return the plan of an extraction; reads tables of ready features that the card names.

    Raises:
        CorpusError: the corpus directory or a table is missing or broken.
        ConfigError: the settings of an extractor do not fit together, or OpenCV's face cascade is missing.
    """
    place = corpus_root(card, root)
    assert manifest.card_hash == card_hash(card)
    found = sources_of(card, place, settings)
    sources = {
        name: found[name]
        for name in MODALITIES
        if name in found and manifest.table[found[name].file_column].null_count < len(manifest)
    }
    return ExtractionPlan(manifest, place, directory.absolute(), sources, settings.dtype)


def part_bounds(clip_ids: pa.ChunkedArray, clips: int) -> Iterator[tuple[int, int]]:
    """Yield start and end of each part of sorted clip ids.

    Where a part ends depends on the ids around it alone, so that clips which are added or removed
    leave the other parts as they are.

    ``clips``: of the whole manifest; parts of a larger corpus are larger.
    """
    power = 1 << max((clips // _PARTS_AIMED_AT).bit_length() - 1, 0)
    size = min(max(power, _FEWEST_CLIPS), _MOST_CLIPS)
    start = 0
    for row, clip_id in enumerate(clip_ids):
        length = row - start
        if length >= _FARTHEST * size or (length >= size // _FARTHEST and _begins(clip_id.as_py(), size)):
            yield start, row
            start = row
    if start < len(clip_ids):
        yield start, len(clip_ids)


def _begins(clip_id: str, size: int) -> bool:
    digest = hashlib.sha256(clip_id.encode()).digest()
    return int.from_bytes(digest[:4], "big") % size == 0


@dataclass
class FoundParts:
    """The parts of a plan, as they are found at the start."""

    plan: ExtractionPlan
    # name of the record -> result of each part that needs no more work
    finished: dict[str, PartResult] = field(default_factory=dict)
    pending: list[tuple[str, PartPlace]] = field(default_factory=list)  # modality and place of each other part
    was_killed: bool = False  # a process ended in the middle of a clip, in an earlier job
    # path of the record, provenance, first and last clip of each part that is not one of the plan's, or that has
    # clips in quarantine
    older: list[tuple[Path, str, str, str]] = field(default_factory=list)

    def pairs_left(self, *modalities: str) -> int:
        """Return the number of (clip, modality) pairs in parts that are not finished."""
        return sum(place.length for name, place in self.pending if name in modalities)

    def parts_left(self, modality: str) -> Iterator[Part]:
        """Yield the pending parts of a modality with the older parts that may hold rows of theirs."""
        for name, place in self.pending:
            if name == modality:
                part = self.plan.part(modality, place)
                first, last = part.clips[0].clip_id, part.clips[-1].clip_id
                earlier = (
                    path
                    for path, provenance, old_first, old_last in self.older
                    if provenance == part.provenance and old_first <= last and first <= old_last
                )
                yield self.plan.part(modality, place, sorted(earlier))

    def remove_rest(self) -> None:
        """Remove every record that is not of a finished extraction of this plan."""
        wanted = {STATEMENT, "lock"} | {place.name for places in self.plan.layout.values() for place in places}
        for path in self.plan.parts_directory.iterdir():
            if path.name not in wanted:
                path.unlink()


def find_parts(plan: ExtractionPlan, *, resume: bool) -> FoundParts:
    """Look at what an earlier extraction left, or throw it away, and state what is extracted here now.

    Raises:
        StoreError: the directory holds another corpus.
    """
    directory = plan.parts_directory
    old = read_statement(plan) if resume else None
    if old is None:
        for path in directory.glob("*.*"):
            path.unlink()
    else:
        for line in differences(plan, old):
            logger.info("%s", line)
    found = FoundParts(plan, was_killed=any(directory.glob(".*.current")))
    # Half-written files; a clip in which a killed job was at work gets a new chance.
    for path in (*plan.directory.rglob(".*.partial"), *directory.glob(".*.*")):
        path.unlink()
    write_json(directory / STATEMENT, plan.statement())
    _find_finished(found)
    found.pending = [
        (name, place) for name, places in plan.layout.items() for place in places if place.name not in found.finished
    ]
    return found


def _find_finished(found: FoundParts) -> None:
    """Look at the record of every part; those that cannot be read, or whose shards are not there, are removed."""
    names = {place.name for places in found.plan.layout.values() for place in places}
    for path in sorted(found.plan.parts_directory.glob("*-*")):
        record = PartRecord.read(path)
        if record is None:
            logger.warning("%s or a shard of it is damaged or of an older version; it is made again", path.name)
            path.unlink()
        elif path.name in names and not record.quarantined:
            found.finished[path.name] = PartResult.of(path.name, record)
        elif record.clips:
            ids = list(record.clips)
            found.older.append((path, record.provenance, ids[0], ids[-1]))


def read_statement(plan: ExtractionPlan) -> dict[str, Any] | None:
    """Return what an earlier extraction into the same directory stated; None if there was none.

    Raises:
        StoreError: the directory holds another corpus, or a store of an earlier version.
    """
    if (plan.directory / FIRST_FORMAT_MANIFEST).exists():
        raise StoreError(str(plan.directory), "", "holds a store of an earlier version", CONVERT)
    path = plan.parts_directory / STATEMENT
    try:
        old: dict[str, Any] | None = read_json(path) if path.is_file() else None
    except InputError:  # cut off; the keys of the parts say what they are
        return None
    if old is not None and old.get("corpus") != plan.manifest.corpus:
        problem = f"the store holds the corpus {old.get('corpus')}, not {plan.manifest.corpus}"
        fix = "choose another output_dir, or set resume=false to replace the store"
        raise StoreError(str(plan.directory), "corpus", problem, fix)
    return old


def differences(plan: ExtractionPlan, old: Mapping[str, Any]) -> Iterator[str]:
    """Say in words which features of an earlier extraction are not those wanted now."""
    new = plan.statement()
    for modality in MODALITIES:
        if modality in old and modality in new and old[modality] != new[modality]:
            changes = changed_settings(old[modality], new[modality])
            yield f"other {modality} features are wanted ({changes}): all of them are extracted again"

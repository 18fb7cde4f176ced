"""What an extraction has to do: its parts, and what they are made of."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence, Sized
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from vavl.config.files import read_json, sha256_of_json
from vavl.corpora.card import CorpusCard, card_hash, corpus_root
from vavl.corpora.manifest import Manifest
from vavl.errors import InputError, StoreError
from vavl.extraction.part import Part
from vavl.extraction.part_file import FORMAT
from vavl.extraction.settings import FeatureSettings
from vavl.extraction.sources import Source, place_of, sources_of
from vavl.features import MODALITIES, ModalityInfo

_FEWEST_CLIPS, _MOST_CLIPS, _PARTS_AIMED_AT = 16, 256, 64
_FARTHEST = 4
_MOST_SHOWN = 10
_THREADS_THAT_LOOK = 16
STATEMENT = "extraction.json"


@dataclass(frozen=True)
class PartPlace:
    """One part of the layout.

    Attributes:
        start: first row among those of the manifest that have the modality.
        length: rows.
        key: hash of everything that the part's file depends on, media by size and time of change.
    """

    start: int
    length: int
    key: str


@dataclass(frozen=True)
class ExtractionPlan:
    """Everything that decides the content of a store.

    Attributes:
        manifest: the clips.
        root: absolute corpus folder.
        folder: absolute folder of the store.
        sources: of each modality that a clip of the manifest has.
    """

    manifest: Manifest
    root: Path
    folder: Path
    sources: Mapping[str, Source]

    @cached_property
    def infos(self) -> Mapping[str, ModalityInfo]:
        """Provenance of each modality."""
        return {name: source.info for name, source in self.sources.items()}

    @property
    def parts_folder(self) -> Path:
        """Where the parts are."""
        return self.folder / "parts"

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
        return (
            self._rows(modality)["clip_id"] if modality in self.sources else pa.chunked_array([], pa.string())
        )

    def file_name(self, modality: str, number: int) -> str:
        """Return the name of a part's file."""
        return f"{modality}-{number:05d}-{self.layout[modality][number].key}.parquet"

    def part(self, modality: str, number: int, earlier: Sequence[Path] = ()) -> Part:
        """Make one part; thousands of them need not be in memory at once."""
        place = self.layout[modality][number]
        source = self.sources[modality]
        rows = self._rows(modality).slice(place.start, place.length)
        return Part(
            modality=modality,
            path=self.parts_folder / self.file_name(modality, number),
            corpus=self.manifest.corpus,
            root=self.root,
            width=source.info.width,
            provenance=source.info.provenance,
            clips=tuple(place_of(row, source) for row in rows.to_pylist()),
            earlier=tuple(earlier),
        )

    def parts(self, modality: str) -> Iterator[Part]:
        """Yield the parts of a modality in order."""
        for number in range(len(self.layout[modality])):
            yield self.part(modality, number)

    def statement(self) -> dict[str, Any]:
        """Return what a person should know of the parts in the folder."""
        return {
            "corpus": self.manifest.corpus,
            **{
                name: {
                    "extractor": info.extractor,
                    "version": info.version,
                    "settings": dict(info.settings),
                    "channels": list(info.channels),
                }
                for name, info in self.infos.items()
            },
        }

    def _rows(self, modality: str) -> pa.Table:
        file, media = self.sources[modality].columns
        columns = dict.fromkeys(["clip_id", "speaker", file, media])
        rows = self.manifest.table.select([name for name in columns if name is not None])
        return rows.filter(pc.is_valid(rows[file]))

    def _layout(self, modality: str) -> Iterator[PartPlace]:
        rows = self._rows(modality)
        file, media = self.sources[modality].columns
        provenance = self.infos[modality].provenance
        with ThreadPoolExecutor(_THREADS_THAT_LOOK) as threads:
            for start, end in part_bounds(rows["clip_id"], len(self.manifest)):
                own = rows.slice(start, end - start)
                marks = list(threads.map(self._mark, own[media].to_pylist())) if media else []
                content = [own[name].to_pylist() for name in ("clip_id", "speaker", file)]
                key = [FORMAT, self.manifest.corpus, provenance, content, marks]
                yield PartPlace(start, end - start, sha256_of_json(key)[:12])

    def _mark(self, name: str | None) -> str:
        """Return size and time of change of a media file: what changes when it is replaced."""
        if name is None:
            return ""
        try:
            status = os.stat(self.root / name)  # noqa: PTH116  half the time of Path.stat, for every file
        except OSError:
            return "missing"
        return f"{status.st_size} {status.st_mtime_ns}"


def plan_extraction(
    card: CorpusCard, manifest: Manifest, root: Path | None, settings: FeatureSettings, folder: Path
) -> ExtractionPlan:
    """Return the plan of an extraction; reads tables of ready features that the card names.

    Raises:
        CorpusError: the corpus folder or a table is missing or broken.
        ConfigError: the settings of an extractor do not fit together, or OpenCV's face cascade is missing.
    """
    place = corpus_root(card, root)
    assert manifest.card_hash == card_hash(card)
    found = sources_of(card, place, settings)
    sources = {
        name: found[name]
        for name in MODALITIES
        if name in found and manifest.table[found[name].columns[0]].null_count < len(manifest)
    }
    return ExtractionPlan(manifest, place, folder.absolute(), sources)


def part_bounds(clip_ids: pa.ChunkedArray, clips: int) -> Iterator[tuple[int, int]]:
    """Yield start and end of each part of sorted clip ids.

    Where a part ends depends on the ids around it alone, so that clips which are added or removed
    leave the other parts as they are.

    Args:
        clip_ids: those of one modality.
        clips: of the whole manifest; parts of a larger corpus are larger.
    """
    size = min(max(_power_of_two(clips // _PARTS_AIMED_AT), _FEWEST_CLIPS), _MOST_CLIPS)
    start = 0
    for row, clip_id in enumerate(clip_ids):
        length = row - start
        if length >= _FARTHEST * size or (length >= size // _FARTHEST and _begins(clip_id.as_py(), size)):
            yield start, row
            start = row
    if start < len(clip_ids):
        yield start, len(clip_ids)


def _power_of_two(number: int) -> int:
    return 1 << max(number.bit_length() - 1, 0)


def _begins(clip_id: str, size: int) -> bool:
    digest = hashlib.sha256(clip_id.encode()).digest()
    return int.from_bytes(digest[:4], "big") % size == 0


def read_statement(plan: ExtractionPlan) -> dict[str, Any] | None:
    """Return what an earlier extraction into the same folder stated; None if there was none.

    Raises:
        StoreError: the folder holds another corpus.
    """
    path = plan.parts_folder / STATEMENT
    try:
        old: dict[str, Any] | None = read_json(path) if path.is_file() else None
    except InputError:  # cut off; the keys of the parts say what they are
        return None
    if old is None:
        return None
    if old.get("corpus") != plan.manifest.corpus:
        raise StoreError(
            str(plan.folder), "corpus",
            f"the store holds the corpus {old.get('corpus')}, not {plan.manifest.corpus}",
            "choose another output_dir, or set resume=false to replace the store",
        )  # fmt: skip
    return old


def differences(plan: ExtractionPlan, old: Mapping[str, Any]) -> Iterator[str]:
    """Say in words which features of an earlier extraction are not those wanted now."""
    new = plan.statement()
    for modality in MODALITIES:
        if modality in old and modality in new and old[modality] != new[modality]:
            yield difference(modality, old[modality], new[modality])


def difference(modality: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Say in words how an earlier provenance differs from the one now."""
    flat_old, flat_new = ({**entry, **entry["settings"]} for entry in (old, new))
    names = [
        name
        for name in sorted(flat_old.keys() | flat_new.keys())
        if name != "settings" and flat_old.get(name, "absent") != flat_new.get(name, "absent")
    ]
    changes = ", ".join(
        f"{name} {_short(flat_old.get(name, 'absent'))} -> {_short(flat_new.get(name, 'absent'))}"
        for name in names
    )
    return f"other {modality} features are wanted ({changes}): all of them are extracted again"


def _short(value: Any) -> str:
    """Write a setting of a message; hundreds of channel names would hide the rest."""
    if isinstance(value, Sized) and not isinstance(value, str) and len(value) > _MOST_SHOWN:
        return f"({len(value)} entries)"
    return str(value)

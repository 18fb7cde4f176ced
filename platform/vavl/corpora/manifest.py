"""The manifest: one row per clip with speaker, splits, places of its two modalities and its label, if any."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from vavl.config.files import write_dataset_state, written_beside
from vavl.corpora.card import CorpusCard, corpus_root
from vavl.corpora.label_sets import with_label_set
from vavl.corpora.manifest_rows import manifest_table
from vavl.corpora.splits import SPLITS
from vavl.errors import CorpusError, StoreError

logger = logging.getLogger(__name__)

TRAIN, VALIDATION, TEST, NONE = 0, 1, 2, -1

MANIFEST_FILE = "manifest/data-00000-of-00001.arrow"
MANIFEST_FILES = (MANIFEST_FILE, "manifest/state.json", "manifest/dataset_info.json")
FIRST_FORMAT_MANIFEST = "manifest.arrow"
CONVERT = "convert the store once: python jobs/convert_store.py STORE; of an address convert a copy, and push it again"
_METADATA_KEY = b"vavl"


@dataclass(frozen=True)
class Manifest:
    """All clips of a corpus, sorted by clip id, in one Arrow table.

    Columns: clip_id, corpus, speaker, sex, label, soft_label (share per class), arousal, valence,
    dominance, audio_path and video_path (relative to the corpus directory, POSIX), audio_table_key and
    video_table_key (ready features), test_fold, split_<fold> (train, validation, test or none),
    group_<name>. Anything unknown is null.
    Attributes lie in 0 .. 1. The label columns are those of the chosen set of labels; the other sets
    stand next to it as <column>__<set>.

    Nothing here holds an object per clip: a mapped manifest costs no private memory.
    """

    table: pa.Table

    @classmethod
    def of(cls, table: pa.Table, metadata: Mapping[str, Any]) -> Self:
        """Put rows and facts together."""
        return cls(table.replace_schema_metadata({_METADATA_KEY: json.dumps(metadata).encode()}))

    @cached_property
    def metadata(self) -> dict[str, Any]:
        """Facts about the whole manifest, from the schema: corpus, classes, folds, card_hash ..."""
        stored = (self.table.schema.metadata or {}).get(_METADATA_KEY)
        if stored is None:
            raise StoreError("manifest", "schema", "holds no vavl metadata", "make the manifest with this project")
        try:
            found: dict[str, Any] = json.loads(stored)
        except ValueError as error:
            fix = "make the store again: python jobs/prepare_corpus.py CONFIG"
            raise StoreError("manifest", "schema", f"its metadata was damaged: {error!r}", fix) from None
        return found

    @property
    def corpus(self) -> str:
        """Name of the corpus."""
        return str(self.metadata["corpus"])

    @property
    def corpora(self) -> tuple[str, ...]:
        """Names of the corpora in the column ``corpus``: several in a merged store, else the one."""
        return tuple(self.metadata.get("corpora", [self.corpus]))

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in the order of the network's outputs."""
        return tuple(self.metadata["classes"])

    @property
    def target(self) -> str:
        """What the labels of the chosen set mean, e.g. "intended emotion"."""
        return str(self.metadata["target"])

    @property
    def label_sets(self) -> dict[str, str]:
        """What the labels mean, by name of the set; the first is the corpus' default."""
        return {name: str(facts["target"]) for name, facts in self.metadata.get("labels", {}).items()}

    @property
    def label_set(self) -> str:
        """Name of the chosen set of labels; empty where the manifest names none."""
        return str(self.metadata.get("label_set", ""))

    def with_labels(self, name: str | None) -> Self:
        """Return the manifest with another set of labels chosen; None leaves it as it is.

        Raises:
            ConfigError: there is no such set; the known ones are listed.
        """
        if name is None:
            return self
        return self.of(*with_label_set(self.table, self.metadata, name))

    @property
    def protocol(self) -> str:
        """Name of the split protocol."""
        return str(self.metadata["protocol"])

    @property
    def folds(self) -> tuple[int, ...]:
        """Folds that have test speakers at hand."""
        return tuple(self.metadata["folds"])

    def fold_title(self, fold: int) -> str:
        """Return number and, where folds have one, name of a fold: "0" or "0 (ravdess)"."""
        name = self.metadata.get("fold_names", {}).get(str(fold))
        return str(fold) if name is None else f"{fold} ({name})"

    @property
    def card_hash(self) -> str:
        """Hash of the card that the manifest was built from."""
        return str(self.metadata["card_hash"])

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def split(self, fold: int) -> npt.NDArray[np.int8]:
        """Return the split of every clip in ``fold``: TRAIN, VALIDATION, TEST or NONE.

        Raises:
            CorpusError: the protocol has no such fold; the known ones are listed.
        """
        if fold not in self.folds:
            known = ", ".join(str(known) for known in self.folds)
            problem = f"protocol {self.protocol} has no fold {fold} here"
            raise CorpusError(f"{self.corpus} manifest", "fold", problem, f"choose one of {known}")
        return self._positions(f"split_{fold}", SPLITS, np.int8)

    def class_index(self) -> npt.NDArray[np.int16]:
        """Return the position of every clip's label among the classes; -1 for an unlabeled clip."""
        return self._positions("label", self.classes, np.int16)

    def speaker_codes(self) -> tuple[npt.NDArray[np.int32], tuple[str, ...]]:
        """Return the position of every clip's speaker in the sorted names, and these names."""
        names = tuple(sorted(pc.unique(self.table["speaker"]).to_pylist()))
        return self._positions("speaker", names, np.int32), names

    def write(self, directory: Path) -> None:
        """Write the data set ``manifest/`` of Hugging Face into ``directory``.

        Raises:
            InputError: the directory cannot be written.
        """
        path = directory / MANIFEST_FILE
        with written_beside(path) as partial, pa.ipc.new_stream(str(partial), self.table.schema) as writer:
            writer.write_table(self.table)
        write_dataset_state(path.parent, [path.name])

    @classmethod
    def read(cls, directory: Path) -> Self:
        """Map the manifest of ``directory`` in place.

        Raises:
            StoreError: the file is missing, cut off or not a manifest.
        """
        path = directory / MANIFEST_FILE
        fix = "make the store again: python jobs/prepare_corpus.py CONFIG"
        try:
            with pa.ipc.open_stream(pa.memory_map(str(path))) as reader:
                manifest = cls(reader.read_all())
        except FileNotFoundError:
            if (directory / FIRST_FORMAT_MANIFEST).exists():
                raise StoreError(str(directory), "", "is a store of an earlier version", CONVERT) from None
            raise StoreError(str(path), "", "there is no manifest", fix) from None
        except (pa.ArrowException, ValueError, OSError) as error:
            raise StoreError(str(path), "", f"not a readable manifest: {error}", fix) from None
        if _METADATA_KEY not in (manifest.table.schema.metadata or {}):
            raise StoreError(str(path), "schema", "holds no vavl metadata", fix)
        # A stream that was cut off between two messages reads as a shorter one, without an error.
        if len(manifest) != manifest.metadata.get("clips"):
            raise StoreError(str(path), "", f"holds {len(manifest)} of {manifest.metadata.get('clips')} clips", fix)
        return manifest

    def _positions(self, column: str, names: tuple[str, ...], dtype: Any) -> npt.NDArray[Any]:
        """Return where each value of ``column`` stands in ``names``; -1 for null and others."""
        found = pc.index_in(self.table[column], value_set=pa.array(names, pa.string()))
        positions: npt.NDArray[Any] = pc.fill_null(found, -1).to_numpy()
        return positions.astype(dtype)


def build_manifest(card: CorpusCard, root: Path | None = None) -> Manifest:
    """Find the clips of a corpus and put everything known about them into a manifest.

    Reads names and tables only, no media. The same files and card always give the same manifest.

    ``root``: corpus directory; by default the card's environment variable, then its default directory.

    Raises:
        CorpusError: the directory is missing, a pattern matches nothing, a clip is there twice, a label is
            outside the classes or missing in a labeled split, a table is broken or outside the directory.
    """
    directory = corpus_root(card, root)
    manifest = Manifest.of(*manifest_table(card, directory))
    _compare_counts(card, manifest)
    return manifest


def listed_manifest(card: CorpusCard, root: Path | None = None) -> Manifest:
    """Build the manifest of a corpus from its tables alone: the clips of its list, without media.

    For looking at labels and splits where the media are not at hand; nothing can be extracted from it.

    Raises:
        CorpusError: the card names no list, or see ``build_manifest``.
    """
    return Manifest.of(*manifest_table(card, corpus_root(card, root), listed=True))


def _compare_counts(card: CorpusCard, manifest: Manifest) -> None:
    """Warn when clips or speakers are neither those of the corpus nor those of the declared subset."""
    found = (len(manifest), len(manifest.speaker_codes()[1]))
    known = [(counts.clips, counts.speakers) for counts in (card.expected, card.subset) if counts is not None]
    if found not in known:
        wanted = " or ".join(f"{clips} clips of {speakers} speakers" for clips, speakers in known)
        logger.warning("%s: found %d clips of %d speakers, the card says %s", card.name, *found, wanted)

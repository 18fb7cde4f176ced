"""What an audit looks at (manifest, store, facts of the files, quarantine), and what a check says of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from vavl.corpora.manifest import TEST, TRAIN, VALIDATION, Manifest
from vavl.features import MODALITIES
from vavl.store.clip_facts import FILE_NAME, read_facts
from vavl.store.store import FeatureStore

PREPARE_AGAIN = "prepare the corpus again with this version: python jobs/prepare_corpus.py CONFIG"


class State(StrEnum):
    """How a check ended; a failed one stops training unless it is waived."""

    PASSED = "passed"
    WARNING = "warning"
    FAILED = "failed"


class Check(StrEnum):
    """The checks, by the names that ``data.waive_audit`` takes, each with what it is about, for people."""

    about: str

    def __new__(cls, name: str, about: str = "") -> Self:
        """Make a check."""
        check = str.__new__(cls, name)
        check._value_, check.about = name, about
        return check

    SPEAKERS = "speakers", "speakers across splits"
    SPEAKER_NAMES = "speaker_names", "names of speakers"
    DUPLICATE_FILES = "duplicate_files", "equal files across splits"
    EQUAL_FEATURES = "equal_features", "equal features across splits"
    NEAR_DUPLICATES = "near_duplicates", "near-duplicates between train and test"
    IDENTITY_CANARY = "identity_canary", "canary: speaker and sentence alone"
    BATCH_CANARY = "batch_canary", "canary: labels of batch-mates"
    SENTENCES = "sentences", "sentences that tell the emotion"
    LABEL_BALANCE = "label_balance", "label balance"
    LABEL_SETS = "label_sets", "agreement of label sets"
    COUNTS = "counts", "clips and speakers as the card expects"
    QUARANTINE = "quarantine", "unreadable files"
    PARTNERS = "partners", "clips without a partner"
    DURATIONS = "durations", "durations"
    SIDE_LENGTHS = "side_lengths", "audio and video of equal length"
    SILENCE = "silence", "silence"
    CLIPPING = "clipping", "clipping"
    FACES = "faces", "frames without a face"


CHANCE_DEVIATIONS = 4

Example = Mapping[str, Any]


@dataclass(frozen=True)
class Finding:
    """What one check says about a corpus."""

    check: Check
    state: State
    text: str  # one line for a person, with the numbers that matter
    fix: str = ""  # what to do about it; dropped when it passed
    numbers: Mapping[str, Any] = field(default_factory=dict)  # JSON values, for plots and other programs
    examples: tuple[Example, ...] = ()  # clips or splits concerned, the worst first
    labels: str | None = None  # the label set it belongs to; None where labels do not matter
    is_known: bool = True  # False where the check could not be made

    def __post_init__(self) -> None:
        """Drop what to do where there is nothing to do."""
        if self.state == State.PASSED:
            object.__setattr__(self, "fix", "")

    @property
    def title(self) -> str:
        """What was looked at, with the label set."""
        return self.check.about + (f" ({self.labels})" if self.labels else "")

    def with_labels(self, name: str) -> Self:
        """Return the finding as one of the label set ``name``."""
        return replace(self, labels=name)

    def with_numbers(self, numbers: Mapping[str, Any]) -> Self:
        """Return the finding with further numbers."""
        return replace(self, numbers={**self.numbers, **numbers})

    def to_json(self) -> dict[str, Any]:
        """Return the finding as JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """Read what ``to_json`` returned."""
        known = {**content, "check": Check(content["check"]), "state": State(content["state"])}
        return cls(**{**known, "examples": tuple(content["examples"])})


def not_known(check: Check, missing: str, fix: str) -> Finding:
    """Return the finding of a check that could not be made: never a silent pass."""
    return Finding(check, State.WARNING, f"not known: {missing}", fix, is_known=False)


def state_of(value: float, warning: float, failed: float) -> State:
    """Judge a value: above ``failed`` fails, above ``warning`` warns."""
    if value > failed:
        return State.FAILED
    return State.WARNING if value > warning else State.PASSED


def above_chance(score: float, chance: float, deviation: float) -> float:
    """Return by how much a score exceeds chance; 0 for less than four standard deviations, which may be chance."""
    return score - chance if score - chance > CHANCE_DEVIATIONS * deviation else 0.0


def with_unknown(finding: Finding, clips: int) -> Finding:
    """Return the finding with the number of clips that it could not look at: any of them is worth a warning."""
    if not clips:
        return finding
    state = State.WARNING if finding.state == State.PASSED else finding.state
    text = f"{finding.text}; not known of {clips:,} clip(s)"
    fix = finding.fix or "prepare the corpus again with this version"
    return replace(finding, state=state, text=text, fix=fix, numbers={**finding.numbers, "unknown": clips})


SPLIT_CODES = {"train": TRAIN, "validation": VALIDATION, "test": TEST}


@dataclass(frozen=True)
class Material:
    """A corpus under audit; arrays of clips are in the manifest's order."""

    manifest: Manifest  # labels, speakers and splits; `with_labels` chooses the label set
    store: FeatureStore | None  # features; None where the labels alone are looked at
    facts: pa.Table | None  # of the files (`vavl.store.clip_facts`); None for a store without them

    @classmethod
    def of(cls, directory: Path) -> Self:
        """Open the store in ``directory``.

        Raises:
            StoreError: it is missing, incomplete or broken.
        """
        store, manifest = FeatureStore.open(directory), Manifest.read(directory)
        facts = read_facts(directory) if (directory / FILE_NAME).exists() else None
        return cls(manifest, store, facts)

    def with_labels(self, name: str) -> Self:
        """Return the material with another label set chosen."""
        return replace(self, manifest=self.manifest.with_labels(name))

    @property
    def features(self) -> FeatureStore:
        """The store of a corpus whose features are looked at."""
        assert self.store is not None, "there are no features without a store"
        return self.store

    @property
    def clip_ids(self) -> pa.ChunkedArray:
        """Clip ids, sorted."""
        return self.manifest.table.column("clip_id")

    def clip(self, row: int) -> str:
        """Return the id of one clip."""
        return str(self.clip_ids[int(row)].as_py())

    @cached_property
    def rows(self) -> Mapping[str, NDArray[np.int32]]:
        """Store row of each clip by modality of the store, -1 where the clip lacks it."""
        return {name: self.features.rows(name, self.clip_ids) for name in self.features.info}

    @cached_property
    def speakers(self) -> tuple[NDArray[np.int32], tuple[str, ...]]:
        """Code of each clip's speaker, and the names."""
        codes, names = self.manifest.speaker_codes()
        return codes, tuple(names)

    @cached_property
    def splits(self) -> Mapping[int, NDArray[np.int8]]:
        """Split of each clip by fold."""
        return {fold: self.manifest.split(fold) for fold in self.manifest.folds}

    def text_column(self, name: str) -> pa.ChunkedArray | None:
        """Return a column of the manifest, None if it has no such one or no value in it."""
        if name not in self.manifest.table.column_names:
            return None
        column = self.manifest.table.column(name)
        return None if column.null_count == len(column) else column

    @property
    def decoded(self) -> tuple[str, ...]:
        """Modalities whose features come from media files; ready features of a table do not."""
        from_table = self.text_column("video_table_key") is not None
        return tuple(name for name in MODALITIES if name in self.features.info and (name == "audio" or not from_table))

    def fact(self, modality: str, column: str) -> NDArray[np.float64]:
        """Return a number of every clip's file; NaN where it is unknown."""
        known = self._facts_of(modality)
        if known is None:
            return np.full(len(self.manifest), np.nan)
        values = np.asarray(known.column(column).to_numpy(zero_copy_only=False), np.float64)
        return self._aligned(known, values, np.nan)

    def file_codes(self, modality: str) -> NDArray[np.int64]:
        """Return a number per content of the file, the same for equal bytes; -1 where it is unknown."""
        known = self._facts_of(modality)
        if known is None or modality not in self.decoded:
            return np.full(len(self.manifest), -1, np.int64)
        coded = known.column("sha256").combine_chunks().dictionary_encode().indices
        codes = pc.fill_null(coded, -1).to_numpy(zero_copy_only=False).astype(np.int64)
        aligned: NDArray[np.int64] = self._aligned(known, codes, -1)
        return aligned

    def _facts_of(self, modality: str) -> pa.Table | None:
        if self.facts is None:
            return None
        known = self.facts.filter(pc.equal(self.facts["modality"], modality))
        return known if known.num_rows else None

    def _aligned(self, known: pa.Table, values: NDArray[Any], missing: Any) -> NDArray[Any]:
        places = pc.index_in(self.clip_ids, value_set=known.column("clip_id").combine_chunks())
        place = pc.fill_null(places, -1).to_numpy()
        aligned: NDArray[Any] = np.where(place >= 0, values[np.maximum(place, 0)], missing)
        return aligned


def histogram(values: NDArray[np.float64], bins: int = 30, span: tuple[float, float] | None = None) -> dict[str, Any]:
    """Count finite values into equal bins, as JSON values: ``edges`` and ``counts``."""
    known = values[np.isfinite(values)]
    counts, edges = np.histogram(known, bins=bins, range=span)
    return {"edges": [round(float(edge), 6) for edge in edges], "counts": counts.tolist()}

"""Splits of a merged store, from the splits of its corpora."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from vavl.corpora.manifest import TEST, TRAIN, Manifest
from vavl.corpora.split_tables import NO_SPLIT
from vavl.corpora.splits import SPLITS
from vavl.errors import ConfigError
from vavl.store.merge_settings import AlignedFolds, LeaveOneCorpusOut

_NAMES = np.array([*SPLITS, NO_SPLIT], dtype=object)  # code -1 is the last one


@dataclass(frozen=True)
class MergedFold:
    """One fold of a merged store.

    Attributes:
        number: of the fold.
        of_corpus: the fold of each corpus that gives its splits.
        test_corpus: that is tested as a whole; None where every corpus tests its own speakers.
    """

    number: int
    of_corpus: Mapping[str, int]
    test_corpus: str | None = None

    @property
    def name(self) -> str:
        """What reports call the fold beside its number."""
        if self.test_corpus is not None:
            return self.test_corpus
        return ", ".join(f"{corpus} {fold}" for corpus, fold in self.of_corpus.items())

    def column(self, corpus: str, manifest: Manifest, is_unused: np.ndarray) -> pa.Array:
        """Return the split of every clip of one corpus.

        Args:
            corpus: that the manifest is of.
            manifest: of the corpus.
            is_unused: (clips,), True for clips that are to be in no split.
        """
        split = manifest.split(self.of_corpus[corpus]).copy()
        if self.test_corpus == corpus:
            split[split >= 0] = TEST
        elif self.test_corpus is not None:
            split[split == TEST] = TRAIN
        split[is_unused] = -1
        return pa.array(_NAMES[split], pa.string())


def merged_folds(
    rule: AlignedFolds | LeaveOneCorpusOut, manifests: Mapping[str, Manifest]
) -> list[MergedFold]:
    """Return the folds of a merged store.

    Args:
        rule: how they come about.
        manifests: by corpus.

    Raises:
        ConfigError: a corpus or a fold is not there, or no fold is left.
    """
    match rule:
        case AlignedFolds():
            return _aligned(rule, manifests)
        case LeaveOneCorpusOut():
            first = {corpus: manifest.folds[0] for corpus, manifest in manifests.items()}
            return [MergedFold(number, first, corpus) for number, corpus in enumerate(manifests)]


def protocol_of(rule: AlignedFolds | LeaveOneCorpusOut, manifests: Mapping[str, Manifest]) -> str:
    """Return the name of the split protocol; every report names it."""
    if isinstance(rule, LeaveOneCorpusOut):
        return f"leave one corpus out ({', '.join(manifests)})"
    return "aligned folds: " + "; ".join(
        f"{corpus}: {manifest.protocol}" for corpus, manifest in manifests.items()
    )


def check_speakers_are_apart(speakers: pa.Array, splits: pa.Array, fold: int) -> None:
    """Assert that no speaker is in two of train, validation and test."""
    pairs = pa.table({"speaker": speakers, "split": splits}).group_by(["speaker", "split"]).aggregate([])
    used = [speaker for speaker, split in zip(*pairs.to_pydict().values(), strict=True) if split in SPLITS]
    assert len(used) == len(set(used)), f"fold {fold}: splits share a speaker"


def validation_of(rule: AlignedFolds | LeaveOneCorpusOut) -> str:
    """Return in words who the validation speakers are."""
    if isinstance(rule, AlignedFolds):
        return "those of every corpus"
    return "those of the first fold of every corpus that trains"


def _aligned(rule: AlignedFolds, manifests: Mapping[str, Manifest]) -> list[MergedFold]:
    strange = sorted(set(rule.by_corpus) - set(manifests))
    if strange:
        raise ConfigError(
            "merge",
            "folds.by_corpus",
            f"{', '.join(strange)}: no such corpus",
            f"known: {', '.join(manifests)}",
        )
    common = set.intersection(*(set(manifest.folds) for manifest in manifests.values()))
    named = next(iter(rule.by_corpus.values()), None)
    numbers = sorted(common) if named is None else range(len(named))
    if not numbers:
        raise ConfigError(
            "merge",
            "folds",
            "no fold is in all corpora: " + _known(manifests),
            "name their folds in folds.by_corpus",
        )
    folds = []
    for number in numbers:
        of_corpus = {
            corpus: rule.by_corpus[corpus][number] if corpus in rule.by_corpus else number
            for corpus in manifests
        }
        for corpus, fold in of_corpus.items():
            if fold not in manifests[corpus].folds:
                raise ConfigError(
                    "merge", "folds.by_corpus", f"{corpus} has no fold {fold}; " + _known(manifests),
                    "name folds that are there",
                )  # fmt: skip
        folds.append(MergedFold(number, of_corpus))
    return folds


def _known(manifests: Mapping[str, Manifest]) -> str:
    return "; ".join(f"{corpus} has {list(manifest.folds)}" for corpus, manifest in manifests.items())

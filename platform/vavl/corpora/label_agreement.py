"""What the label sets of a corpus say about each other: counts, agreement, and a reference score per fold.

Everything here comes from a manifest, so also from the tables of a corpus without its media.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import f1_score

from vavl.corpora.label_sets import LABEL_COLUMNS
from vavl.corpora.manifest import TEST, TRAIN, VALIDATION, Manifest


@dataclass(frozen=True)
class LabelSetFacts:
    """One set of labels.

    Attributes:
        name: of the set.
        target: what its labels mean.
        known: clips that the set says anything about.
        with_class: clips with a class.
        tied: clips with shares and no class, for two classes have the largest share.
        classes: clips by class.
    """

    name: str
    target: str
    known: int
    with_class: int
    tied: int
    classes: dict[str, int]


@dataclass(frozen=True)
class Agreement:
    """How often two sets of labels name the same class.

    Attributes:
        one: name of a set.
        other: name of a later set.
        clips: clips that both sets say anything about; one without a class counts as different.
        equal: clips with the same class in both.
    """

    one: str
    other: str
    clips: int
    equal: int

    @property
    def percent(self) -> float:
        """Share of the clips with the same class, in per cent."""
        return 100 * self.equal / self.clips


@dataclass(frozen=True)
class LabelYardstick:
    """The score of a set of labels that is taken for predictions of another, on the test splits.

    Attributes:
        truth: name of the set that is predicted.
        prediction: name of the set that stands for the predictions.
        f1_micro: by fold, over its labeled test clips.
        f1_macro: by fold.
    """

    truth: str
    prediction: str
    f1_micro: dict[int, float]
    f1_macro: dict[int, float]


@dataclass(frozen=True)
class FoldFacts:
    """Clips and speakers of the splits of a fold; speakers are disjoint, or no manifest would be."""

    fold: int
    clips: dict[str, int]
    speakers: dict[str, int]


@dataclass(frozen=True)
class LabelFacts:
    """Everything that is known of a corpus' labels and splits.

    Attributes:
        corpus: name.
        clips: in all.
        speakers: in all.
        sets: every set of labels.
        agreements: every pair of sets with a clip in common.
        yardsticks: the default set predicted by each of the others with a class for all its test clips.
        folds: every fold.
    """

    corpus: str
    clips: int
    speakers: int
    sets: tuple[LabelSetFacts, ...]
    agreements: tuple[Agreement, ...]
    yardsticks: tuple[LabelYardstick, ...]
    folds: tuple[FoldFacts, ...]


def label_facts_of(manifest: Manifest) -> LabelFacts:
    """Return the label facts of the clips of a manifest."""
    sets = {name: _OfSet.read(manifest.with_labels(name)) for name in manifest.label_sets}
    return LabelFacts(
        corpus=manifest.corpus,
        clips=len(manifest),
        speakers=len(manifest.speaker_codes()[1]),
        sets=tuple(found.facts(name, manifest) for name, found in sets.items()),
        agreements=tuple(_agreements(sets)),
        yardsticks=tuple(_yardsticks(manifest, sets)),
        folds=tuple(_fold_facts(manifest, fold) for fold in manifest.folds),
    )


@dataclass(frozen=True)
class _OfSet:
    """Labels of one set: (clips,) class or -1, whether anything is known, whether there are shares."""

    classes: NDArray[np.int16]
    known: NDArray[np.bool_]
    has_shares: NDArray[np.bool_]

    @classmethod
    def read(cls, manifest: Manifest) -> _OfSet:
        valid = {name: np.asarray(manifest.table[name].is_valid()) for name in LABEL_COLUMNS}
        return cls(manifest.class_index(), np.logical_or.reduce(list(valid.values())), valid["soft_label"])

    def facts(self, name: str, manifest: Manifest) -> LabelSetFacts:
        counts = np.bincount(self.classes[self.classes >= 0], minlength=len(manifest.classes))
        return LabelSetFacts(
            name=name,
            target=manifest.label_sets[name],
            known=int(self.known.sum()),
            with_class=int((self.classes >= 0).sum()),
            tied=int((self.has_shares & (self.classes < 0)).sum()),
            classes=dict(zip(manifest.classes, counts.tolist(), strict=True)),
        )


def _agreements(sets: dict[str, _OfSet]) -> Iterator[Agreement]:
    for one, other in combinations(sets, 2):
        first, second = sets[one], sets[other]
        if not ((first.classes >= 0).any() and (second.classes >= 0).any()):
            continue
        both = first.known & second.known
        equal = both & (first.classes == second.classes) & (first.classes >= 0)
        if both.any():
            yield Agreement(one, other, int(both.sum()), int(equal.sum()))


def _yardsticks(manifest: Manifest, sets: dict[str, _OfSet]) -> Iterator[LabelYardstick]:
    """A set with gaps predicts nothing there, so it gives no reference score."""
    names = list(sets)
    for other in names[1:]:
        truth, prediction = sets[names[0]].classes, sets[other].classes
        micro: dict[int, float] = {}
        macro: dict[int, float] = {}
        for fold in manifest.folds:
            tested = (manifest.split(fold) == TEST) & (truth >= 0)
            if not tested.any() or (prediction[tested] < 0).any():
                break
            pair, labels = (truth[tested], prediction[tested]), range(len(manifest.classes))
            micro[fold] = float(f1_score(*pair, labels=labels, average="micro", zero_division=0))
            macro[fold] = float(f1_score(*pair, labels=labels, average="macro", zero_division=0))
        if len(micro) == len(manifest.folds):
            yield LabelYardstick(names[0], other, micro, macro)


def _fold_facts(manifest: Manifest, fold: int) -> FoldFacts:
    split, (speaker, _) = manifest.split(fold), manifest.speaker_codes()
    codes = {"train": TRAIN, "validation": VALIDATION, "test": TEST}
    return FoldFacts(
        fold=fold,
        clips={name: int((split == code).sum()) for name, code in codes.items()},
        speakers={name: len(np.unique(speaker[split == code])) for name, code in codes.items()},
    )

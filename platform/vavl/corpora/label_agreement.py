"""What the label sets of a corpus say about each other: counts, agreement, and a reference score per fold.

Everything here comes from a manifest, so also from the tables of a corpus without its media.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import Any

import numpy as np
from sklearn.metrics import f1_score

from vavl.corpora.label_sets import LABEL_COLUMNS
from vavl.corpora.manifest import TEST, TRAIN, VALIDATION, Manifest


def label_facts_of(manifest: Manifest) -> dict[str, Any]:
    """Return everything that is known of the labels and splits of a manifest, as JSON values.

    Returns:
        ``corpus``, ``clips``, ``speakers``.
        ``sets``: per set of labels its ``name`` and ``target``, the clips ``known`` to it and ``with_class``, those
        ``tied`` (shares, and no class, for two classes have the largest) and ``classes``, clips by class.
        ``agreements`` of every two sets with a clip in common: ``one`` and ``other``, ``clips`` that both say anything
        about (one without a class counts as different) and those with ``equal`` classes.
        ``yardsticks``: the default set (``truth``) predicted by each of the others (``prediction``) that has a class
        for all its test clips: ``f1_micro`` and ``f1_macro`` by fold.
        ``folds``: per ``fold`` the ``clips`` and ``speakers`` by split.
    """
    sets = {name: manifest.with_labels(name) for name in manifest.label_sets}
    return {
        "corpus": manifest.corpus,
        "clips": len(manifest),
        "speakers": len(manifest.speaker_codes()[1]),
        "sets": [_facts_of_set(name, found) for name, found in sets.items()],
        "agreements": list(_agreements(sets)),
        "yardsticks": list(_yardsticks(manifest, sets)),
        "folds": [_fold_facts(manifest, fold) for fold in manifest.folds],
    }


def _known(labels: Manifest) -> Any:
    return np.logical_or.reduce([np.asarray(labels.table[name].is_valid()) for name in LABEL_COLUMNS])


def _facts_of_set(name: str, labels: Manifest) -> dict[str, Any]:
    classes, has_shares = labels.class_index(), np.asarray(labels.table["soft_label"].is_valid())
    counts = np.bincount(classes[classes >= 0], minlength=len(labels.classes))
    return {
        "name": name,
        "target": labels.target,
        "known": int(_known(labels).sum()),
        "with_class": int((classes >= 0).sum()),
        "tied": int((has_shares & (classes < 0)).sum()),
        "classes": dict(zip(labels.classes, counts.tolist(), strict=True)),
    }


def _agreements(sets: Mapping[str, Manifest]) -> Iterator[dict[str, Any]]:
    for one, other in combinations(sets, 2):
        first, second = sets[one].class_index(), sets[other].class_index()
        both = _known(sets[one]) & _known(sets[other])
        if both.any() and (first >= 0).any() and (second >= 0).any():
            equal = both & (first == second) & (first >= 0)
            yield {"one": one, "other": other, "clips": int(both.sum()), "equal": int(equal.sum())}


def _yardsticks(manifest: Manifest, sets: Mapping[str, Manifest]) -> Iterator[dict[str, Any]]:
    """A set with gaps predicts nothing there, so it gives no reference score."""
    for other in list(sets)[1:]:
        default = next(iter(sets))
        truth, prediction = sets[default].class_index(), sets[other].class_index()
        scores: dict[str, dict[str, float]] = {"micro": {}, "macro": {}}
        for fold in manifest.folds:
            tested = (manifest.split(fold) == TEST) & (truth >= 0)
            if not tested.any() or (prediction[tested] < 0).any():
                break
            pair, labels = (truth[tested], prediction[tested]), range(len(manifest.classes))
            for average, by_fold in scores.items():
                by_fold[str(fold)] = float(f1_score(*pair, labels=labels, average=average, zero_division=0))
        else:
            named = {f"f1_{average}": by_fold for average, by_fold in scores.items()}
            yield {"truth": default, "prediction": other, **named}


def _fold_facts(manifest: Manifest, fold: int) -> dict[str, Any]:
    split, (speaker, _) = manifest.split(fold), manifest.speaker_codes()
    parts = {name: split == code for name, code in (("train", TRAIN), ("validation", VALIDATION), ("test", TEST))}
    return {
        "fold": fold,
        "clips": {name: int(part.sum()) for name, part in parts.items()},
        "speakers": {name: len(np.unique(speaker[part])) for name, part in parts.items()},
    }

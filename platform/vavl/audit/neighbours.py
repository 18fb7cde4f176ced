"""Near-duplicates between train and test: copies that were cut, mixed or encoded anew."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vavl.audit.finding import Check, Example, Finding, State, state_of
from vavl.audit.material import Material, histogram
from vavl.audit.settings import AuditSettings
from vavl.corpora.manifest import TEST, TRAIN

_SEED = 0
_BLOCK = 512
_FEWEST = 4


@dataclass(frozen=True)
class _Described:
    """Clips of one modality as unit vectors.

    Attributes:
        rows: (clips,), manifest rows.
        vectors: (clips, number), mean and deviation of each channel over time, each scaled over the clips,
            the whole to length 1: a product of two is their cosine.
    """

    rows: NDArray[np.int64]
    vectors: NDArray[np.float32]


@dataclass(frozen=True)
class _Nearest:
    """The nearest training clip of each clip of one fold: of another speaker for a training clip."""

    distance: NDArray[np.float32]
    neighbour: NDArray[np.int64]


def check_near_duplicates(material: Material, settings: AuditSettings) -> Finding:
    """Compare the nearest training clip of every test clip with what is near between speakers.

    Clips are their means and deviations over time, so cutting and noise move them little. Near is the
    small quantile of the cosine distance between a training clip and the nearest one of another
    speaker; a test clip (whose speaker is another one, too) much nearer than that is a copy. Of a large
    corpus a fixed number of clips is drawn; the finding says so.
    """
    limits = settings.leaks
    found: list[Example] = []
    numbers: dict[str, Any] = {"compared": {}, "histogram": {}, "near": {}}
    worst = 0.0
    for name in material.rows:
        described = _describe(material, name, limits.neighbour_clips)
        numbers["compared"][name] = len(described.rows)
        for fold, nearest in _nearest_by_fold(material, described).items():
            split = material.splits[fold][described.rows]
            within = nearest.distance[(split == TRAIN) & np.isfinite(nearest.distance)]
            tested = (split == TEST) & np.isfinite(nearest.distance)
            if len(within) < _FEWEST or not tested.any():
                continue
            near = float(np.quantile(within, limits.neighbour_quantile))
            copies = tested & (nearest.distance < limits.neighbour_ratio * near)
            worst = max(worst, float(copies.sum() / tested.sum()))
            numbers["near"][f"{name}, fold {fold}"] = round(near, 5)
            top = float(max(np.quantile(within, 0.99), nearest.distance[tested].max()))
            numbers["histogram"].setdefault(
                name,
                {
                    "train": histogram(within.astype(np.float64), span=(0.0, top)),
                    "test": histogram(nearest.distance[tested].astype(np.float64), span=(0.0, top)),
                },
            )
            found += [
                {
                    "fold": fold, "modality": name, "test": material.clip(described.rows[place]),
                    "train": material.clip(described.rows[nearest.neighbour[place]]),
                    "distance": round(float(nearest.distance[place]), 6), "near": round(near, 6),
                }
                for place in np.flatnonzero(copies)
            ]  # fmt: skip
    return _judged(settings, found, worst, numbers, _drawn(material, numbers["compared"]))


def _judged(
    settings: AuditSettings, found: list[Example], worst: float, numbers: dict[str, Any], drawn: str
) -> Finding:
    numbers |= {"copies": len(found), "share": worst}
    if not numbers["near"]:
        return Finding(
            Check.NEAR_DUPLICATES, State.WARNING, "not known: too few clips of different speakers to compare",
            "judge such a small corpus by eye", numbers, is_known=False,
        )  # fmt: skip
    state = state_of(worst, 0, settings.leaks.neighbour_failed)
    if state == State.PASSED:
        text = f"no test clip is a near-duplicate of a training clip{drawn}"
        return Finding(Check.NEAR_DUPLICATES, state, text, numbers=numbers)
    found = sorted(found, key=lambda example: example["distance"] / max(example["near"], 1e-12))
    first = found[0]
    text = (
        f"{len(found)} test clip(s) are near-duplicates of training clips, e.g. {first['test']} of {first['train']} "
        f"({first['modality']}, fold {first['fold']}: distance {first['distance']:.2g}, near is "
        f"{first['near']:.2g}){drawn}"
    )
    fix = "compare the pairs; remove the copies, or put their speakers into one split"
    return Finding(Check.NEAR_DUPLICATES, state, text, fix, numbers, tuple(found[: settings.most_examples]))


def _drawn(material: Material, compared: dict[str, int]) -> str:
    parts = [
        f"{count:,} of {clips:,} {name} clips"
        for name, count in compared.items()
        if count < (clips := int((material.rows[name] >= 0).sum()))
    ]
    return f" (looked at {', '.join(parts)})" if parts else ""


def _describe(material: Material, modality: str, most: int) -> _Described:
    """Return the vectors of at most ``most`` clips; those that are one constant are left out."""
    store_rows = material.rows[modality]
    rows = np.flatnonzero(store_rows >= 0)
    if len(rows) > most:
        rows = np.sort(np.random.default_rng(_SEED).choice(rows, most, replace=False))
    width = material.features.info[modality].width
    vectors = np.empty((len(rows), 2 * width), np.float32)
    for place, row in enumerate(rows):
        frames = material.features.features(modality, int(store_rows[row]))
        vectors[place, :width], vectors[place, width:] = frames.mean(axis=0), frames.std(axis=0)
    # Scaled over all clips of all splits: nothing is trained with these numbers.
    vectors -= vectors.mean(axis=0) if len(rows) else 0
    deviation = vectors.std(axis=0) if len(rows) else np.ones(2 * width, np.float32)
    vectors = vectors[:, deviation > 0] / deviation[deviation > 0]
    length = np.linalg.norm(vectors, axis=1)
    usable = length > 0
    return _Described(rows[usable], vectors[usable] / length[usable, None])


def _nearest_by_fold(material: Material, described: _Described) -> dict[int, _Nearest]:
    """Return for every fold the nearest training clip of another speaker, block by block."""
    clips = len(described.rows)
    speakers = material.speakers[0][described.rows]
    training = {fold: split[described.rows] == TRAIN for fold, split in material.splits.items()}
    found = {
        fold: _Nearest(np.full(clips, np.inf, np.float32), np.zeros(clips, np.int64)) for fold in training
    }
    for start in range(0, clips, _BLOCK):
        block = slice(start, min(start + _BLOCK, clips))
        distance = 1 - described.vectors[block] @ described.vectors.T
        distance[speakers[block, None] == speakers[None, :]] = np.inf
        for fold, is_training in training.items():
            if not is_training.any():
                continue
            candidates = np.flatnonzero(is_training)
            nearest = distance[:, candidates].argmin(axis=1)
            found[fold].neighbour[block] = candidates[nearest]
            found[fold].distance[block] = distance[np.arange(len(distance)), candidates[nearest]]
    return found

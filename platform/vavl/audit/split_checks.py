"""Checks of the splits: the same speaker, file or features in two of them, and copies between train and test."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vavl.audit.finding import (
    PREPARE_AGAIN,
    SPLIT_CODES,
    Check,
    Example,
    Finding,
    Material,
    State,
    histogram,
    not_known,
    state_of,
    with_unknown,
)
from vavl.audit.settings import AuditSettings
from vavl.corpora.manifest import TEST, TRAIN
from vavl.features import MODALITIES

_SEED = 0
_NEAR_QUANTILE = 0.01  # of the nearest distances between speakers: what is near
_BLOCK = 512
_FEWEST = 4
_WITHOUT_FACTS = "the store has no facts.arrow with the hashes of the files"


def check_speakers(material: Material, settings: AuditSettings) -> Finding:
    """Find speakers that are in more than one split of a fold."""
    codes, names = material.speakers
    shared: list[Example] = []
    for fold, split in material.splits.items():
        is_in = np.stack([np.bincount(codes[split == code], minlength=len(names)) > 0 for code in SPLIT_CODES.values()])
        for speaker in np.flatnonzero(is_in.sum(axis=0) > 1):
            where = [name for name, found in zip(SPLIT_CODES, is_in[:, speaker], strict=True) if found]
            shared.append({"fold": fold, "speaker": names[speaker], "splits": where})
    folds = sorted({str(example["fold"]) for example in shared})
    numbers = {"speakers": len(names), "folds": len(material.splits), "shared": len(shared)}
    if not shared:
        text = f"{len(names)} speakers, none in two splits of any of {len(material.splits)} fold(s)"
        return Finding(Check.SPEAKERS, State.PASSED, text, numbers=numbers)
    first = shared[0]
    text = (
        f"{len(shared)} speaker(s) in more than one split (fold {', '.join(folds)}), e.g. {first['speaker']} in "
        f"{' and '.join(first['splits'])} of fold {first['fold']}"
    )
    fix = "correct the card's splits, so that a speaker is in one split of a fold, and prepare the corpus again"
    examples = tuple(shared[: settings.most_examples])
    return Finding(Check.SPEAKERS, State.FAILED, text, fix, numbers, examples)


def check_duplicate_files(material: Material, settings: AuditSettings) -> Finding:
    """Find files of equal bytes under different clip ids."""
    codes = {name: material.file_codes(name) for name in MODALITIES}
    known = {name: found for name, found in codes.items() if (found >= 0).any()}
    if not known:
        return not_known(Check.DUPLICATE_FILES, _WITHOUT_FACTS, PREPARE_AGAIN)
    groups = [(name, group) for name, found in known.items() for group in _equal_codes(found)]
    missing = sum(int(((material.rows[name] >= 0) & (codes[name] < 0)).sum()) for name in material.decoded)
    numbers = {"files": {name: int((found >= 0).sum()) for name, found in known.items()}}
    return with_unknown(_duplicates(Check.DUPLICATE_FILES, material, settings, groups, numbers), missing)


def check_equal_features(material: Material, settings: AuditSettings) -> Finding:
    """Find clips of equal features under different clip ids; features that are one constant do not count."""
    groups: list[tuple[str, NDArray[np.int64]]] = []
    constant: dict[str, int] = {}
    for name in material.rows:
        codes, is_constant = _feature_codes(material, name)
        constant[name] = int(is_constant.sum())
        groups += [
            (name, same)
            for group in _equal_codes(np.where(is_constant, -1, codes))
            for same in _really_equal(material, name, group)
        ]
    finding = _duplicates(Check.EQUAL_FEATURES, material, settings, groups, {"constant": constant})
    empty = {name: count for name, count in constant.items() if count}
    if not empty:
        return finding
    counts = ", ".join(f"{count} {name}" for name, count in empty.items())
    state = State.WARNING if finding.state == State.PASSED else finding.state
    fix = finding.fix or "look at these clips: their features say nothing"
    text = f"{finding.text}; {counts} clip(s) of one constant value"
    return replace(finding, state=state, text=text, fix=fix)


def _duplicates(
    check: Check,
    material: Material,
    settings: AuditSettings,
    groups: Sequence[tuple[str, NDArray[np.int64]]],
    numbers: dict[str, Any],
) -> Finding:
    """Judge groups of equal clips: across the splits of a fold they fail, inside one they warn."""
    what = "files" if check == Check.DUPLICATE_FILES else "features"
    across: list[dict[str, Any]] = []
    within: list[dict[str, Any]] = []
    for name, rows in groups:
        splits = _apart(material, rows)
        example = {"modality": name, "clips": [material.clip(row) for row in rows[:4]], **splits}
        (across if splits else within).append(example)
    numbers = {**numbers, "across": len(across), "within": len(within)}
    examples = tuple((across + within)[: settings.most_examples])
    if across:
        first = across[0]
        text = (
            f"{len(across)} group(s) of clips with equal {what} in different splits, e.g. "
            f"{' = '.join(first['clips'][:2])} ({' and '.join(first['splits'])} of fold {first['fold']})"
        )
        fix = "remove the copies from the corpus, or give their speakers one name, and prepare it again"
        return Finding(check, State.FAILED, text, fix, numbers, examples)
    if within:
        pair = " = ".join(within[0]["clips"][:2])
        text = f"{len(within)} group(s) of clips with equal {what}, none across splits, e.g. {pair}"
        return Finding(check, State.WARNING, text, "remove the copies: they count twice", numbers, examples)
    return Finding(check, State.PASSED, f"no two clips have equal {what}", numbers=numbers)


def _apart(material: Material, rows: NDArray[np.int64]) -> dict[str, Any]:
    """Return the first fold in which the clips are in different splits, nothing if there is none."""
    for fold, split in material.splits.items():
        names = [name for name, code in SPLIT_CODES.items() if (split[rows] == code).any()]
        if len(names) > 1:
            return {"fold": fold, "splits": names}
    return {}


def _equal_codes(codes: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """Yield the positions of every code that occurs more than once; negative codes are unknown."""
    order = np.argsort(codes, kind="stable")
    ordered = codes[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    for group in np.split(order, starts[1:]):
        if len(group) > 1 and codes[group[0]] >= 0:
            yield np.sort(group)


def _feature_codes(material: Material, modality: str) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return a code of each clip's length and three of its frames, and which clips are one constant.

    Equal features have equal codes; -1 where the clip lacks the modality.
    """
    rows = material.rows[modality]
    codes, is_constant = np.full(len(rows), -1, np.int64), np.zeros(len(rows), np.bool_)
    for clip in np.flatnonzero(rows >= 0):
        frames = material.features.features(modality, int(rows[clip]))
        three = frames[[0, len(frames) // 2, -1]]
        is_constant[clip] = np.ptp(three) == 0 and np.ptp(frames) == 0
        codes[clip] = _digest(three, len(frames))
    return codes, is_constant


def _really_equal(material: Material, modality: str, group: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """Yield the parts of a group whose features are equal to the last value."""
    rows = material.rows[modality][group]
    whole = np.array([_digest(material.features.features(modality, int(row))) for row in rows], np.int64)
    yield from (group[same] for same in _equal_codes(whole))


def _digest(frames: NDArray[np.float32], length: int = 0) -> int:
    content = np.ascontiguousarray(frames).tobytes() + length.to_bytes(8, "big")
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "big") >> 1


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
        rows, vectors = _vectors(material, name, limits.neighbour_clips)
        numbers["compared"][name] = len(rows)
        for fold, (distance, neighbour) in _nearest_by_fold(material, rows, vectors).items():
            split = material.splits[fold][rows]
            within = distance[(split == TRAIN) & np.isfinite(distance)]
            tested = (split == TEST) & np.isfinite(distance)
            if len(within) < _FEWEST or not tested.any():
                continue
            near = float(np.quantile(within, _NEAR_QUANTILE))
            copies = tested & (distance < limits.neighbour_ratio * near)
            worst = max(worst, float(copies.sum() / tested.sum()))
            numbers["near"][f"{name}, fold {fold}"] = round(near, 5)
            top = float(max(np.quantile(within, 0.99), distance[tested].max()))
            parts = {"train": within, "test": distance[tested]}
            numbers["histogram"].setdefault(
                name, {part: histogram(values.astype(np.float64), span=(0.0, top)) for part, values in parts.items()}
            )
            found += [
                {
                    "fold": fold,
                    "modality": name,
                    "test": material.clip(rows[copy]),
                    "train": material.clip(rows[neighbour[copy]]),
                    "distance": round(float(distance[copy]), 6),
                    "near": round(near, 6),
                }
                for copy in np.flatnonzero(copies)
            ]
    return _judged(settings, found, worst, numbers, _drawn(material, numbers["compared"]))


def _judged(
    settings: AuditSettings, found: list[Example], worst: float, numbers: dict[str, Any], drawn: str
) -> Finding:
    numbers |= {"copies": len(found), "share": worst}
    if not numbers["near"]:
        missing = "too few clips of different speakers to compare"
        return not_known(Check.NEAR_DUPLICATES, missing, "judge such a small corpus by eye").with_numbers(numbers)
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


def _vectors(material: Material, modality: str, most: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return at most ``most`` clips as unit vectors; those that are one constant are left out.

    Returns:
        Manifest rows, (clips,); and mean and deviation of each channel over time, (clips, number), each scaled over
        the clips, the whole to length 1: a product of two is their cosine.
    """
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
    return rows[usable], vectors[usable] / length[usable, None]


def _nearest_by_fold(
    material: Material, rows: NDArray[np.int64], vectors: NDArray[np.float32]
) -> dict[int, tuple[NDArray[np.float32], NDArray[np.int64]]]:
    """Return for every fold distance and position of each clip's nearest training clip of another speaker."""
    speakers = material.speakers[0][rows]
    training = {fold: np.flatnonzero(split[rows] == TRAIN) for fold, split in material.splits.items()}
    found = {fold: (np.full(len(rows), np.inf, np.float32), np.zeros(len(rows), np.int64)) for fold in training}
    for start in range(0, len(rows), _BLOCK):
        block = slice(start, min(start + _BLOCK, len(rows)))
        distance = 1 - vectors[block] @ vectors.T
        distance[speakers[block, None] == speakers[None, :]] = np.inf
        for fold, candidates in training.items():
            if len(candidates):
                nearest = candidates[distance[:, candidates].argmin(axis=1)]
                found[fold][0][block] = distance[np.arange(len(distance)), nearest]
                found[fold][1][block] = nearest
    return found

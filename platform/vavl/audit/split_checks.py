"""Checks of the splits: the same speaker, file or features on both sides of a split."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vavl.audit.finding import Check, Example, Finding, State, not_known, with_unknown
from vavl.audit.material import SPLIT_CODES, Material
from vavl.audit.settings import AuditSettings
from vavl.features import MODALITIES

_SPLIT_NAMES = {code: name for name, code in SPLIT_CODES.items()}
_WITHOUT_FACTS = "the store has no facts.arrow with the hashes of the files"
PREPARE_AGAIN = "prepare the corpus again with this version: python jobs/prepare_corpus.py CONFIG"


def check_speakers(material: Material, settings: AuditSettings) -> Finding:
    """Find speakers that are in more than one split of a fold."""
    codes, names = material.speakers
    shared: list[Example] = []
    for fold, split in material.splits.items():
        is_in = np.stack(
            [np.bincount(codes[split == code], minlength=len(names)) > 0 for code in SPLIT_CODES.values()]
        )
        for speaker in np.flatnonzero(is_in.sum(axis=0) > 1):
            where = [name for name, found in zip(SPLIT_CODES, is_in[:, speaker], strict=True) if found]
            shared.append({"fold": fold, "speaker": names[speaker], "splits": where})
    folds = sorted({str(example["fold"]) for example in shared})
    numbers = {"speakers": len(names), "folds": len(material.splits), "shared": len(shared)}
    if not shared:
        text = f"{len(names)} speakers, none in two splits of any of {len(material.splits)} fold(s)"
        return Finding(Check.SPEAKERS, State.PASSED, text, numbers=numbers)
    first = shared[0]
    return Finding(
        Check.SPEAKERS, State.FAILED,
        f"{len(shared)} speaker(s) in more than one split (fold {', '.join(folds)}), e.g. {first['speaker']} in "
        f"{' and '.join(first['splits'])} of fold {first['fold']}",
        "correct the card's splits, so that a speaker is in one split of a fold, and prepare the corpus again",
        numbers, tuple(shared[: settings.most_examples]),
    )  # fmt: skip


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
    told = ", ".join(f"{count} {name}" for name, count in empty.items())
    state = State.WARNING if finding.state == State.PASSED else finding.state
    fix = finding.fix or "look at these clips: their features say nothing"
    text = f"{finding.text}; {told} clip(s) of one constant value"
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
        place = _apart(material, rows)
        example = {"modality": name, "clips": [material.clip(row) for row in rows[:4]], **(place or {})}
        (across if place else within).append(example)
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
        told = " = ".join(within[0]["clips"][:2])
        text = f"{len(within)} group(s) of clips with equal {what}, none across splits, e.g. {told}"
        return Finding(check, State.WARNING, text, "remove the copies: they count twice", numbers, examples)
    return Finding(check, State.PASSED, f"no two clips have equal {what}", numbers=numbers)


def _apart(material: Material, rows: NDArray[np.int64]) -> dict[str, Any] | None:
    """Return the first fold in which the clips are in different splits, None if there is none."""
    for fold, split in material.splits.items():
        found = np.unique(split[rows])
        names = [_SPLIT_NAMES[code] for code in found.tolist() if code in _SPLIT_NAMES]
        if len(names) > 1:
            return {"fold": fold, "splits": names}
    return None


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
    codes = np.full(len(rows), -1, np.int64)
    is_constant = np.zeros(len(rows), np.bool_)
    for clip in np.flatnonzero(rows >= 0):
        frames = material.features.features(modality, int(rows[clip]))
        three = frames[[0, len(frames) // 2, -1]]
        is_constant[clip] = np.ptp(three) == 0 and np.ptp(frames) == 0
        digest = hashlib.blake2b(three.tobytes() + len(frames).to_bytes(8, "big"), digest_size=8).digest()
        codes[clip] = int.from_bytes(digest, "big") >> 1
    return codes, is_constant


def _really_equal(material: Material, modality: str, group: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """Yield the parts of a group whose features are equal to the last value."""
    whole: dict[bytes, list[int]] = {}
    for clip in group.tolist():
        frames = material.features.features(modality, int(material.rows[modality][clip]))
        whole.setdefault(hashlib.blake2b(np.ascontiguousarray(frames).data).digest(), []).append(clip)
    for clips in whole.values():
        if len(clips) > 1:
            yield np.array(clips, np.int64)

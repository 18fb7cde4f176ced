"""Stores of small corpora that differ in classes, labels, folds and speakers, to be merged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from made_store import write_made_store

from vavl.features import ModalityInfo
from vavl.store.shards import ClipFeatures

WIDTHS = {"audio": 6, "video": 5}
SETTINGS = {"hop_ms": 20.0}


def write_corpus_store(
    folder: Path,
    corpus: str,
    classes: Sequence[str],
    *,
    folds: Sequence[int] = (0,),
    clips_per_speaker: int = 12,
    settings: Mapping[str, Any] = SETTINGS,
    modalities: Sequence[str] = ("audio", "video"),
    with_facts: bool = True,
    extractors: Mapping[str, str] | None = None,
) -> Path:
    """Write a store of six speakers; fold k tests speaker k modulo 6, the next one validates.

    A clip's features lie around a mean of its class, the same in all corpora. Clip 0 of each speaker has no
    label; clip 1 has a soft label of two classes. The group ``take`` is the clip's number.
    """
    generator = np.random.default_rng(len(corpus))
    rows = [(f"s{speaker}", number) for speaker in range(6) for number in range(clips_per_speaker)]
    clips = [
        _clip(corpus, speaker, number, classes, folds) | {f"split_{fold}": _split(speaker, fold) for fold in folds}
        for speaker, number in rows
    ]
    features = {}
    for modality in modalities:
        width = WIDTHS[modality]
        made = []
        for clip in clips:
            frames = int(generator.integers(2, 9))
            mean = _mean_of(clip["label"], width)
            values = (mean + generator.normal(size=(frames, width))).astype(np.float32)
            times = (np.arange(frames, dtype=np.float32) + 0.5) * 0.02
            made.append(ClipFeatures(clip["clip_id"], clip["speaker"], values, times))
        info = ModalityInfo((extractors or {}).get(modality, "log_mel"), "1", settings, 50.0, width)
        features[modality] = (info, made)
    facts = [
        {
            "clip_id": clip["clip_id"],
            "modality": modality,
            "file": clip["audio_path"],
            "sha256": f"{corpus} {clip['clip_id']} {modality}",
        }
        for clip in clips
        for modality in WIDTHS
    ]
    metadata = {
        "corpus": corpus, "classes": list(classes), "target": f"emotion of {corpus}", "protocol": f"{corpus}-folds",
        "folds": list(folds), "card_hash": f"{len(corpus):016d}", "licence": f"{corpus} licence",
        "labels": {"own": {"target": f"emotion of {corpus}"}}, "label_set": "own",
    }  # fmt: skip
    return write_made_store(folder, clips, features, metadata, facts if with_facts else None, quarantined=1)


def _mean_of(label: str | None, width: int) -> np.ndarray:
    seed = sum(map(ord, label)) if label else 0
    return 2.5 * np.random.default_rng(seed).normal(size=width)


def _clip(corpus: str, speaker: str, number: int, classes: Sequence[str], folds: Sequence[int]) -> dict[str, Any]:
    place = number % len(classes)
    shares = [0.0] * len(classes)
    shares[place] = 1.0
    if number == 1:
        shares = [
            0.75 if name == place else 0.25 * (name == (place + 1) % len(classes)) for name in range(len(classes))
        ]
    is_labelled = number != 0
    return {
        "clip_id": f"{speaker}_{number:03d}",
        "corpus": corpus,
        "speaker": speaker,
        "sex": "female" if speaker in ("s0", "s2", "s4") else "male",
        "label": classes[place] if is_labelled else None,
        "soft_label": shares if is_labelled else None,
        "arousal": 0.5 if is_labelled else None,
        "audio_path": f"{speaker}/{number}.wav",
        "group_take": str(number),
    }


def _split(speaker: str, fold: int) -> str:
    number = int(speaker[1:])
    return "test" if number == fold % 6 else "validation" if number == (fold + 1) % 6 else "train"

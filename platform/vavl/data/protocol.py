"""The partition protocol of a run: which training labels it may use, and which pairs it sees one modality of.

A corpus with all labels and all pairs becomes one where both are scarce, by a seed. The draws are
nested: a larger fraction (share) keeps every clip of a smaller one with the same seed.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from vavl.corpora.manifest import Manifest
from vavl.data.collection import ClipCollection
from vavl.data.partitions import PartitionSettings
from vavl.errors import ConfigError
from vavl.features import MODALITIES

_LABELS, _PAIRS = 0, 1
_STEP_OF_CLASS, _STEP_OF_SPEAKER = 0.7548776662466927, 0.5698402909980532
"""1/p and 1/p^2 for the plastic number p: their multiples modulo 1 lie evenly in both directions."""


def apply_partitions(
    collection: ClipCollection, training_rows: NDArray[np.int64], settings: PartitionSettings
) -> ClipCollection:
    """Hide labels and sides of training clips, as the settings say.

    Args:
        collection: all clips of the manifest.
        training_rows: manifest rows of the training clips; other clips stay as they are.
        settings: fractions and seed.

    Returns:
        A collection whose hidden labels are unlabeled clips and whose hidden modalities are absent, so
        that nothing reads them, statistics included. What the corpus itself lacks stays lacking.

    Raises:
        ConfigError: a class keeps no label, or a share is asked of clips without a pair.
    """
    has_audio, has_video = (collection.has(modality)[training_rows] for modality in MODALITIES)
    labelled = training_rows[collection.is_labelled[training_rows] & (has_audio | has_video)]
    pairs = training_rows[has_audio & has_video]
    return _hide_labels(_hide_sides(collection, pairs, settings), labelled, settings)


def clip_classes(manifest: Manifest) -> NDArray[np.int16]:
    """Return the class of every clip: its label, else its most voted class, else -1."""
    classes = manifest.class_index()
    if "soft_label" not in manifest.table.column_names:
        return classes
    votes = manifest.table.column("soft_label").combine_chunks()
    voted = np.asarray(votes.is_valid()) & (classes < 0)
    if voted.any():
        shares = np.asarray(votes.filter(voted).flatten()).reshape(-1, len(manifest.classes))
        classes = classes.copy()
        classes[voted] = shares.argmax(axis=1)
    return classes


def stratified_draw(
    classes: NDArray[np.integer], speakers: NDArray[np.integer], generator: np.random.Generator
) -> NDArray[np.float64]:
    """Give every clip a number, so that those below any f are the share f of all and of each stratum.

    Args:
        classes: (clips,), codes.
        speakers: (clips,), codes; a stratum is a class of a speaker.
        generator: of the draw.

    Returns:
        (clips,), in [0, 1): round(f * clips) of them are below f, and of each stratum as many, give or
        take one.
    """
    within = np.empty(len(classes))
    class_code, speaker_code = _shuffled_codes(classes, generator), _shuffled_codes(speakers, generator)
    # Where in its turn a stratum gives its first clip: evenly over classes and over speakers.
    first = generator.random() + class_code * _STEP_OF_CLASS + speaker_code * _STEP_OF_SPEAKER
    first %= 1
    _, stratum = np.unique(np.stack((classes, speakers)), axis=1, return_inverse=True)
    for number in range(int(stratum.max(initial=-1)) + 1):
        clips = np.flatnonzero(stratum == number)
        within[clips] = (generator.permutation(len(clips)) + first[clips]) / len(clips)
    place = np.argsort(np.argsort(within, kind="stable"), kind="stable")
    drawn: NDArray[np.float64] = (place + 0.5) / max(len(place), 1)
    return drawn


def _shuffled_codes(codes: NDArray[np.integer], generator: np.random.Generator) -> NDArray[np.int64]:
    """Number the codes that occur from 0 on, in random order, so that every seed favors others."""
    known, position = np.unique(codes, return_inverse=True)
    shuffled: NDArray[np.int64] = generator.permutation(len(known))[position]
    return shuffled


def _draw(
    collection: ClipCollection, rows: NDArray[np.int64], settings: PartitionSettings, stream: int
) -> NDArray[np.float64]:
    speakers = collection.speaker[rows]
    if settings.stratify == "over_all":
        speakers = np.zeros_like(speakers)
    generator = np.random.default_rng([settings.seed, stream])
    return stratified_draw(clip_classes(collection.manifest)[rows], speakers, generator)


def _hide_labels(
    collection: ClipCollection, labelled: NDArray[np.int64], settings: PartitionSettings
) -> ClipCollection:
    if settings.labelled_fraction == 1:
        return collection
    drawn = _draw(collection, labelled, settings, _LABELS)
    _check_classes(collection.manifest, clip_classes(collection.manifest)[labelled], drawn, settings)
    hidden = labelled[drawn >= settings.labelled_fraction]
    is_labelled, target = collection.is_labelled.copy(), collection.target.copy()
    is_labelled[hidden], target[hidden] = False, 0
    return replace(collection, is_labelled=is_labelled, target=target)


def _check_classes(
    manifest: Manifest, classes: NDArray[np.int16], drawn: NDArray[np.float64], settings: PartitionSettings
) -> None:
    """Refuse a fraction that takes every label of a class."""
    first = {int(code): float(drawn[classes == code].min()) for code in np.unique(classes)}
    lost = [code for code, number in first.items() if number >= settings.labelled_fraction]
    if lost:
        names = ", ".join(manifest.classes[code] if code >= 0 else "clips without class" for code in lost)
        least = (math.floor(max(first.values()) * 10_000) + 1) / 10_000
        problem = (
            f"{settings.labelled_fraction:g} of {len(classes)} labeled training clips leaves no label for: {names}"
        )
        fix = f"set it to at least {least:g}"
        raise ConfigError("data", "partitions.labelled_fraction", problem, fix)


def _hide_sides(collection: ClipCollection, pairs: NDArray[np.int64], settings: PartitionSettings) -> ClipCollection:
    shares = {"audio_only_share": settings.audio_only_share, "video_only_share": settings.video_only_share}
    asked = {name: share for name, share in shares.items() if share > 0}
    if not asked:
        return collection
    if not len(pairs):
        name, share = next(iter(asked.items()))
        problem = f"is {share:g}, but no training clip has both audio and video"
        fix = "set both shares to 0: what the corpus has unpaired stays unpaired by itself"
        raise ConfigError("data", f"partitions.{name}", problem, fix)
    drawn = _draw(collection, pairs, settings, _PAIRS)
    audio_only = drawn < settings.audio_only_share
    # Drawn from the other end, so that each share grows without touching the other's clips.
    video_only = (1 - drawn < settings.video_only_share + 1e-9) & ~audio_only
    return collection.without({"audio": pairs[video_only], "video": pairs[audio_only]})

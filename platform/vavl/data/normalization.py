"""Features normalized for the network: by the training speakers, or by what is known of each speaker."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from vavl.data.collection import ClipCollection
from vavl.data.settings import FeatureUse
from vavl.errors import StoreError
from vavl.features import MODALITIES, CausalMean, ChannelSums, Normalisation, SpeakerOrder

NORMALIZED_BY: Mapping[str, str] = {
    "none": "one, from the training speakers",
    "mean": "each speaker's mean, over all of their unlabeled clips, test speakers included",
    "causal_mean": "each speaker's mean over their earlier unlabeled clips, shrunk to that of the training speakers",
    "full": "each speaker's mean and deviation, over all of their unlabeled clips, test speakers included",
}
"""``SpeakerNormalisation`` in words."""


@dataclass(frozen=True)
class Normaliser:
    """Normalization of one modality: one for all speakers, one per speaker, or one per clip."""

    common: Normalisation  # from the training speakers.
    # by speaker code; empty unless speakers are normalized by all of their clips.
    by_speaker: Mapping[int, Normalisation] = field(default_factory=dict)
    # normalized mean frame (channel,) by code of the training speakers; empty where speakers are normalized by
    # clips of their own, which leaves them alike.
    speaker_means: Mapping[int, NDArray[np.float32]] = field(default_factory=dict)
    # (clips, channel), by manifest row: what is subtracted, where it is the mean of the speaker's earlier clips.
    by_row: NDArray[np.float32] | None = None

    @classmethod
    def unchanged(cls, width: int) -> Normaliser:
        """Return the one that leaves features of ``width`` channels as they are."""
        return cls(Normalisation(np.zeros(width, np.float32), np.ones(width, np.float32)))

    def of(self, speaker: int, row: int) -> Normalisation:
        """Return the normalization of one clip, of manifest row ``row``."""
        if self.by_row is not None:
            return Normalisation(np.asarray(self.by_row[row]), self.common.std)
        return self.by_speaker.get(speaker, self.common)


def order_of_clips(clip_ids: Sequence[str], order: SpeakerOrder) -> list[int]:
    """Return the places of clips in the order in which they count as earlier.

    Names of files sort by label in many corpora (RAVDESS: neutral first), and the number of earlier clips would tell
    the label: so the order is drawn, by a hash of the id alone, unless the store's own is asked for.
    """
    places = range(len(clip_ids))
    if order == "file":
        return list(places)
    return sorted(places, key=lambda place: hashlib.sha256(clip_ids[place].encode()).digest())


_ALL_ALIKE = FeatureUse()


def normalisers(
    collection: ClipCollection, training_rows: NDArray[np.int64], features: FeatureUse = _ALL_ALIKE
) -> dict[str, Normaliser]:
    """Build the normalization of each modality from per-speaker sums.

    Args:
        collection: clips and store.
        training_rows: clips whose speakers give the common statistics; no other speaker's features enter.
        features: what of each speaker's own clips is used (their labels are not).

    Returns:
        By modality; one that no training speaker has leaves features as they are.

    Raises:
        StoreError: see ``speaker_normaliser``.
    """
    training_speakers = {collection.speakers[code] for code in collection.speakers_of(training_rows)}
    built: dict[str, Normaliser] = {}
    for modality in MODALITIES:
        sums = collection.speaker_sums(modality) if modality in collection.store.info else {}
        known = {name: sums[name] for name in sorted(training_speakers) if name in sums}
        if not known:
            built[modality] = Normaliser.unchanged(collection.width(modality))
            continue
        common = Normalisation.from_sums(ChannelSums.total(list(known.values())))
        if features.speaker_normalisation != "none":
            built[modality] = speaker_normaliser(collection, modality, common, features)
            continue
        means = {
            code: common.apply((known[name].sum / known[name].count).astype(np.float32))
            for code, name in enumerate(collection.speakers)
            if name in known
        }
        built[modality] = Normaliser(common, speaker_means=means)
    return built


def speaker_normaliser(
    collection: ClipCollection, modality: str, common: Normalisation, features: FeatureUse
) -> Normaliser:
    """Return the normalization of a modality by each speaker's own visible clips.

    Args:
        collection: clips and store, which has the modality.
        modality: "audio" or "video".
        common: of the training speakers.
        features: which of a speaker's clips count, and how; not "none".

    Raises:
        StoreError: a speaker has a single clip, and it would become zeros; the store is damaged.
    """
    rows, kind = np.flatnonzero(collection.has(modality)), features.speaker_normalisation
    if kind == "causal_mean":
        return _by_earlier_clips(collection, modality, common, rows, features.speaker_order)
    codes, counts = np.unique(collection.speaker[rows], return_counts=True)
    alone = sorted(collection.speakers[code] for code in codes[counts == 1])
    if alone:
        problem = f"{len(alone)} of {len(codes)} speakers have fewer than two clips with {modality}, e.g. {alone[0]}"
        fix = "leave these speakers out of the corpus, or use causal_mean or none"
        raise StoreError(str(collection.store.directory), f"features.speaker_normalisation={kind}", problem, fix)
    sums = collection.speaker_sums(modality)
    own = {code: Normalisation.from_sums(sums[name]) for code, name in enumerate(collection.speakers) if name in sums}
    if kind == "mean":
        own = {code: Normalisation(one.mean, common.std) for code, one in own.items()}
    return Normaliser(common, own)


def _by_earlier_clips(
    collection: ClipCollection, modality: str, common: Normalisation, rows: NDArray[np.int64], order: SpeakerOrder
) -> Normaliser:
    """Subtract from each clip of ``rows`` the mean of its speaker's earlier ones, see ``CausalMean``.

    Reads every clip once. The means lie in a file without a name: memory does not grow with the corpus.
    """
    ids = collection.manifest.table["clip_id"].take(rows).to_pylist()
    ordered = rows[order_of_clips(ids, order)]
    codes = collection.speaker[ordered]
    with tempfile.TemporaryFile(prefix="vavl-means-") as file:
        by_row = np.memmap(file, np.float32, "w+", shape=(len(collection.speaker), len(common.mean)))
    with collection.copied_ahead([ordered]):
        for code in np.unique(codes):
            earlier = CausalMean(common.mean)
            for row in ordered[codes == code].tolist():
                by_row[row] = earlier.mean
                earlier.add(collection.frames(modality, row))
    return Normaliser(common, by_row=by_row)

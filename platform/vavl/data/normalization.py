"""Features normalized for the network: by the training speakers, or by what is known of each speaker."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

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

    def apply(self, values: NDArray[np.float32], speaker: int, row: int) -> NDArray[np.float32]:
        """Normalize the frames (time, channel) of one clip, of manifest row ``row``."""
        if self.by_row is not None:
            return Normalisation(np.asarray(self.by_row[row]), self.common.std).apply(values)
        return self.by_speaker.get(speaker, self.common).apply(values)


def of_speakers(
    common: Normalisation, sums: Mapping[str, ChannelSums], codes: Mapping[str, int], *, with_deviation: bool
) -> Normaliser:
    """Return the normalization of each speaker by all of their clips.

    Args:
        common: of speakers without any; its deviations are those of all, unless ``with_deviation``.
        sums: by speaker.
        codes: by speaker.
        with_deviation: by their own deviation, too.
    """
    own = {codes[name]: Normalisation.from_sums(one) for name, one in sums.items()}
    if not with_deviation:
        own = {code: Normalisation(one.mean, common.std) for code, one in own.items()}
    return Normaliser(common, own)


def of_earlier_clips(
    common: Normalisation,
    speakers: Iterable[Sequence[int]],
    frames: Callable[[int], NDArray[np.float32]],
    clips: int,
) -> Normaliser:
    """Return the normalization of each clip by the mean of its speaker's earlier clips, see ``CausalMean``.

    Reads every clip once. The means lie in a file without a name: memory does not grow with the corpus.

    Args:
        common: prior of the means; its deviations are those of all.
        speakers: manifest rows of each speaker's clips, in their order.
        frames: of a manifest row, (time, channel).
        clips: of the manifest.
    """
    with tempfile.TemporaryFile(prefix="vavl-means-") as file:
        by_row = np.memmap(file, np.float32, "w+", shape=(clips, len(common.mean)))
    for rows in speakers:
        earlier = CausalMean(common.mean)
        for row in rows:
            by_row[row] = earlier.mean
            earlier.add(frames(row))
    return Normaliser(common, by_row=by_row)


def order_of_clips(clip_ids: Sequence[str], order: SpeakerOrder) -> list[int]:
    """Return the places of clips in the order in which they count as earlier.

    Names of files sort by label in many corpora (RAVDESS: neutral first), and the number of earlier clips would tell
    the label: so the order is drawn, by a hash of the id alone, unless the store's own is asked for.
    """
    places = range(len(clip_ids))
    if order == "file":
        return list(places)
    return sorted(places, key=lambda place: hashlib.sha256(clip_ids[place].encode()).digest())


def check_clips_of_speakers(place: str, setting: str, modality: str, counts: Mapping[str, int]) -> None:
    """Refuse speakers with a single clip where they are normalized by all of their clips: it would become zeros.

    Args:
        place: of the store, for the message.
        setting: value of ``features.speaker_normalisation``.
        modality: "audio" or "video".
        counts: clips that have the modality, by speaker.

    Raises:
        StoreError: names some.
    """
    alone = sorted(name for name, count in counts.items() if count == 1)
    if alone:
        raise StoreError(
            place, f"features.speaker_normalisation={setting}",
            f"{len(alone)} of {len(counts)} speakers have fewer than two clips with {modality}, e.g. {alone[0]}",
            "leave these speakers out of the corpus, or use causal_mean or none",
        )  # fmt: skip


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
    if kind != "causal_mean":
        codes, counts = np.unique(collection.speaker[rows], return_counts=True)
        found = {collection.speakers[code]: int(count) for code, count in zip(codes, counts, strict=True)}
        check_clips_of_speakers(str(collection.store.directory), kind, modality, found)
        names = {name: code for code, name in enumerate(collection.speakers)}
        return of_speakers(common, collection.speaker_sums(modality), names, with_deviation=kind == "full")
    ids = collection.manifest.table["clip_id"].take(rows).to_pylist()
    ordered = rows[order_of_clips(ids, features.speaker_order)]
    codes = collection.speaker[ordered]
    speakers = (ordered[codes == code].tolist() for code in np.unique(codes))
    with collection.copied_ahead([ordered]):
        return of_earlier_clips(common, speakers, partial(collection.frames, modality), len(collection.speaker))

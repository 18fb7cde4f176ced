"""What features are: where they come from, the sums of their channels, the normalization made from them.

A store keeps count, sum and sum of squares per speaker in float64, so that a run can add up its
training speakers alone: statistics of the whole corpus would leak the test speakers.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Mapping, Sequence, Sized
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator

from vavl.config.files import sha256_of_json
from vavl.errors import StoreError

AUDIO_VIDEO, AUDIO, VIDEO = "audio_video", "audio", "video"
MODALITIES = (AUDIO, VIDEO)
CONDITIONS = (AUDIO_VIDEO, AUDIO, VIDEO)
"""The three ways to predict a clip, in the order of every table."""
# A channel whose deviation is smaller than this share of its size is constant up to rounding.
_CONSTANT = 1e-5
_MOST_SHOWN = 10
_SHRINKAGE_CLIPS = 8
_SAME_STORE = "use the store that the model was trained on, or one made with the same corpus and settings"


@dataclass(frozen=True)
class ModalityInfo:
    """What a store holds of one modality and where it comes from."""

    extractor: str  # name of the function that made the features, e.g. "log_mel" or "table:<file hash>"
    version: str  # of the extractor
    settings: Mapping[str, Any]  # of the extractor, in physical units
    frame_rate_hz: float | None  # frames per second; None where a clip is one frame
    width: int  # channels of a frame; where layers of a network are kept, those of the first layer come first
    channels: tuple[str, ...] = ()  # their names; empty if they have none
    clips: int = 0  # clips that have the modality
    frames: int = 0  # frames of all of them

    @classmethod
    def from_entry(cls, entry: Mapping[str, Any]) -> Self:
        """Read one of the ``modalities`` of a store.json."""
        rate = entry["frame_rate_hz"]
        return cls(
            extractor=entry["extractor"],
            version=entry["version"],
            settings=entry["settings"],
            frame_rate_hz=None if rate is None else float(rate),
            width=int(entry["width"]),
            channels=tuple(entry["channels"]),
            clips=int(entry["clips"]),
            frames=int(entry["frames"]),
        )

    @property
    def layers(self) -> int:
        """Layers of a network that lie side by side in a frame, each with ``width // layers`` channels; usually 1."""
        if self.frame_rate_hz is None or not self.settings.get("keep_layers"):
            return 1
        first, last = self.settings["layers"]
        return int(last - first + 1)

    @property
    def provenance(self) -> str:
        """Hash over everything that decides what a channel means; clips and corpus do not count.

        Of files named in the settings the content counts, not the place.
        """
        settings = _without_places(self.settings)
        meaning = [self.extractor, self.version, settings, self.width, list(self.channels)]
        return sha256_of_json(meaning)[:16]


@dataclass(frozen=True)
class ChannelSums:
    """Count, sum and sum of squares of each channel over frames; sums of disjoint frames add up."""

    count: int  # frames
    sum: NDArray[np.float64]  # (channel,), float64
    sum_of_squares: NDArray[np.float64]  # (channel,), float64

    @classmethod
    def of(cls, values: NDArray[np.float32]) -> Self:
        """Sum up frames (time, channel)."""
        exact = values.astype(np.float64)
        return cls(len(exact), exact.sum(axis=0), np.square(exact).sum(axis=0))

    @classmethod
    def total(cls, sums: Sequence[ChannelSums]) -> ChannelSums:
        """Add up one or more."""
        return functools.reduce(operator.add, sums)

    def __add__(self, other: ChannelSums) -> ChannelSums:
        if len(self.sum) != len(other.sum):
            problem = f"{len(self.sum)} and {len(other.sum)} channels cannot be added"
            fix = "take both from stores of the same extractor and settings"
            raise StoreError("feature sums", "width", problem, fix)
        return ChannelSums(self.count + other.count, self.sum + other.sum, self.sum_of_squares + other.sum_of_squares)


@dataclass(frozen=True)
class Normalisation:
    """Shift and scale of each channel."""

    mean: NDArray[np.float32]  # (channel,), float32
    std: NDArray[np.float32]  # (channel,), float32, above 0: a constant channel has 1, so it comes out as zeros

    @classmethod
    def from_sums(cls, sums: ChannelSums) -> Self:
        """Return the normalization that gives the summed frames mean 0 and (population) deviation 1.

        Raises:
            StoreError: the sums are over no frame at all.
        """
        if sums.count < 1:
            raise StoreError("feature sums", "count", "no frames were summed", "check the fold and the store")
        mean = sums.sum / sums.count
        deviation = np.sqrt(np.maximum(sums.sum_of_squares / sums.count - np.square(mean), 0))
        is_constant = deviation <= _CONSTANT * np.maximum(np.abs(mean), 1e-3)
        return cls(mean.astype(np.float32), np.where(is_constant, 1, deviation).astype(np.float32))

    def apply(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Normalize frames (time, channel); the input stays as it is."""
        normalised: NDArray[np.float32] = values - self.mean
        normalised /= self.std  # in place: one array less to make for each clip
        return normalised


def normalisation_kind(value: Any) -> Any:
    """Return the name for what configurations, models and summaries of earlier versions call true or false."""
    return ("full" if value else "none") if isinstance(value, bool) else value


SpeakerNormalisation = Annotated[Literal["none", "mean", "causal_mean", "full"], BeforeValidator(normalisation_kind)]
"""What of each speaker's own unlabeled clips normalization takes: nothing; their mean, or that of their earlier clips;
mean and deviation."""
SpeakerOrder = Literal["shuffled", "file"]
"""Which clips of a speaker in a store count as earlier: in the order of hashes of their ids, or in the store's own."""


@dataclass
class CausalMean:
    """Mean frame of a speaker's earlier clips, shrunk to that of the training speakers with the weight of 8 clips."""

    prior: NDArray[np.float32]  # (channel,), mean of the training speakers' frames
    clips: int = 0  # earlier ones
    # (channel,), sum of their mean frames; each clip counts once, however long it is
    total: NDArray[np.float64] | float = 0.0

    @property
    def mean(self) -> NDArray[np.float32]:
        """(channel,); that of the training speakers before the first clip."""
        found = (_SHRINKAGE_CLIPS * self.prior.astype(np.float64) + self.total) / (_SHRINKAGE_CLIPS + self.clips)
        return found.astype(np.float32)

    def add(self, frames: NDArray[np.float32]) -> None:
        """Count a clip (time, channel) among the earlier ones."""
        self.total = self.total + frames.mean(axis=0, dtype=np.float64)
        self.clips += 1


@dataclass(frozen=True)
class FeatureStatistics:
    """The normalization of a modality, as it is saved with a model, and what it belongs to."""

    corpus: str  # whose training speakers were summed up
    modality: str  # "audio" or "video"
    provenance: str  # ``ModalityInfo.provenance`` of the features
    normalisation: Normalisation  # shift and scale

    @classmethod
    def of(cls, corpus: str, modality: str, info: ModalityInfo, sums: ChannelSums) -> Self:
        """Make the statistics of ``modality`` from the summed frames of the training speakers."""
        return cls(corpus, modality, info.provenance, Normalisation.from_sums(sums))

    def check(self, corpus: str, info: ModalityInfo) -> None:
        """Refuse features that these statistics do not belong to.

        Raises:
            StoreError: another corpus, another extractor or other settings of it, another width.
        """
        if self.corpus != corpus:
            problem = f"statistics of another corpus: {self.corpus}, the store holds {corpus}"
            raise StoreError(f"{self.modality} statistics", "corpus", problem, _SAME_STORE)
        self.check_features(info)

    def check_features(self, info: ModalityInfo) -> None:
        """Refuse features that are made in another way; those of another corpus pass.

        Raises:
            StoreError: another extractor or other settings of it, another width.
        """
        fix = _SAME_STORE
        width = len(self.normalisation.mean)
        if width != info.width:
            problem = f"statistics of {width} channels, the store has {info.width}"
            raise StoreError(f"{self.modality} statistics", "width", problem, fix)
        if self.provenance != info.provenance:
            problem = (
                f"statistics of other features ({self.provenance}), the store has {info.extractor} "
                f"{info.version} ({info.provenance})"
            )
            raise StoreError(f"{self.modality} statistics", "provenance", problem, fix)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values; ``from_dict`` gives back equal statistics."""
        return {
            "corpus": self.corpus,
            "modality": self.modality,
            "provenance": self.provenance,
            "mean": self.normalisation.mean.tolist(),
            "std": self.normalisation.std.tolist(),
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Self:
        """Read what ``to_dict`` returned.

        Raises:
            StoreError: a key is missing, the two lists differ in length, or a deviation is not positive.
        """
        fix = "restore the file, or train the model again"
        try:
            mean = np.asarray(content["mean"], dtype=np.float32)
            std = np.asarray(content["std"], dtype=np.float32)
            names = [str(content[key]) for key in ("corpus", "modality", "provenance")]
        except (KeyError, TypeError, ValueError) as error:
            raise StoreError("feature statistics", "", f"not readable: {error!r}", fix) from None
        usable = np.isfinite(mean).all() and np.isfinite(std).all() and (std > 0).all()
        if mean.ndim != 1 or mean.shape != std.shape or not usable:
            problem = f"need {mean.shape} finite means and as many positive deviations, found {std.shape}"
            raise StoreError("feature statistics", "mean, std", problem, fix)
        return cls(names[0], names[1], names[2], Normalisation(mean, std))


def parts_of(provenance: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the provenance of each extractor that made some features: itself, or those that were joined.

    Args:
        provenance: ``extractor``, ``version`` and ``settings``, as a store or a model keeps them; {} has none.
    """
    return list(provenance.get("settings", {}).get("parts", [provenance]))


def changed_settings(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Say in words in which entries one provenance differs from another, e.g. ``hop_ms 20.0 -> 10.0``."""
    flat_old, flat_new = _flat(old), _flat(new)
    return ", ".join(
        f"{name} {_short(flat_old.get(name, 'absent'))} -> {_short(flat_new.get(name, 'absent'))}"
        for name in sorted(flat_old.keys() | flat_new.keys())
        if flat_old.get(name, "absent") != flat_new.get(name, "absent")
    )


def _flat(entry: Mapping[str, Any]) -> dict[str, Any]:
    settings = dict(entry["settings"])
    for part in settings.pop("parts", ()):
        settings |= {f"{part['extractor']}.{name}": value for name, value in _flat(part).items()}
    return {**entry, **settings, "settings": None}


def _short(value: Any) -> str:
    """Write a setting of a message; hundreds of channel names would hide the rest."""
    if isinstance(value, Sized) and not isinstance(value, str) and len(value) > _MOST_SHOWN:
        return f"({len(value)} entries)"
    return str(value)


def _without_places(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Drop the place of every file whose SHA-256 stands next to it: ``x`` next to ``x_sha256``.

    Where ``x`` holds further settings only its ``folder``, ``hub`` and ``revision`` are places.
    """
    kept: dict[str, Any] = {}
    for key, value in settings.items():
        is_hashed = f"{key}_sha256" in settings
        if isinstance(value, Mapping):
            inner = _without_places(value)
            places = {"folder", "hub", "revision"} if is_hashed else set()
            kept[key] = {name: entry for name, entry in inner.items() if name not in places}
        elif key == "parts":
            kept[key] = [_without_places(part) for part in value]
        elif not is_hashed:
            kept[key] = value
    return kept

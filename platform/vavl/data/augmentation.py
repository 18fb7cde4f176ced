"""Noisy views of training clips: masked frames and channels, noise, another tempo, another speaker.

The draws of a clip depend on (seed, step, place in the global batch, stream) alone, so the number of
workers changes nothing; each modality, each kind of view and the choice of modalities has its own stream.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from vavl.config.base import FrozenConfig

_STREAMS = {"audio": 0, "video": 1}
_WEAK, _SIDES, _SPEAKERS = 2, 4, 6


class ViewSettings(FrozenConfig):
    """How the normalized frames of one modality are changed in training; all 0 leaves them as they are."""

    frame_masks: int = Field(0, ge=0, description="spans of frames set to the mean (SpecAugment, Park et al. 2019)")
    frame_mask_share: float = Field(0.1, ge=0, le=1, description="longest span as a share of the clip")
    channel_masks: int = Field(0, ge=0, description="spans of neighboring channels set to the mean")
    channel_mask_share: float = Field(0.1, ge=0, le=1, description="widest span as a share of the channels")
    noise: float = Field(0.0, ge=0, description="Gaussian noise, in standard deviations of a channel")
    tempo: float = Field(0.0, ge=0, lt=1, description="frames are stretched by up to this share, either way")

    @model_validator(mode="before")
    @classmethod
    def _refuse_what_is_gone(cls, content: Any) -> Any:
        """Settings of version 0.1 that nothing used; training runs of that version saved them as 0."""
        if not isinstance(content, dict):
            return content
        for name in ("channel_shift", "level"):
            if content.get(name):
                raise ValueError(f"{name} is gone; noise, tempo and masks are there")
        return {name: value for name, value in content.items() if name not in ("channel_shift", "level")}

    @property
    def changes_something(self) -> bool:
        """False where a view equals its clip."""
        return bool(self.frame_masks or self.channel_masks or self.noise or self.tempo)


class AugmentationSettings(FrozenConfig):
    """Views of each modality."""

    audio: ViewSettings = ViewSettings()
    video: ViewSettings = ViewSettings()
    modality_dropout: float = Field(
        0.0, ge=0, le=1, description="chance that a pair is shown with one modality only, either one alike"
    )
    speaker_exchange: float = Field(
        0.0,
        ge=0,
        le=1,
        description="chance that a clip moves from its speaker's mean to between two other training speakers' means",
    )


@dataclass(frozen=True)
class ViewMaker:
    """Makes the views of one step.

    Args:
        settings: by modality.
        seed: of the run.
        step: of the run.
        places: place in the global batch of each row of the micro-batch.
        is_weak: the weak view for pseudo-labels, whose draws are apart from those of the strong one.
    """

    settings: AugmentationSettings
    seed: int
    step: int
    places: NDArray[np.int64]
    is_weak: bool = False

    def changes(self, modality: str) -> bool:
        """Tell whether frames of a modality may become others."""
        settings: ViewSettings = getattr(self.settings, modality)
        return settings.changes_something or self.settings.speaker_exchange > 0

    def shown(self, has: Mapping[str, NDArray[np.bool_]]) -> dict[str, NDArray[np.bool_]]:
        """Choose the modalities that are shown of each row; ``has`` tells by modality (rows,) what there is."""
        shown = {modality: there.copy() for modality, there in has.items()}
        if self.settings.modality_dropout:
            for row in np.flatnonzero(np.logical_and.reduce(list(has.values()))):
                generator = self._generator(int(row), _SIDES)
                if generator.random() < self.settings.modality_dropout:
                    shown["audio" if generator.random() < 0.5 else "video"][row] = False
        return shown

    def exchanged(
        self, row: int, values: NDArray[np.float32], speaker: int, means: Mapping[int, NDArray[np.float32]]
    ) -> NDArray[np.float32]:
        """Return the normalized frames of row ``row`` as another speaker might have given them.

        A classifier of few speakers leans on what is their own. Moving a clip by the difference of
        speakers' means, which need no labels, leaves it nothing to lean on. Both modalities of a pair move
        towards the same speakers.

        Args:
            row: of the micro-batch.
            values: (time, channel).
            speaker: code of the clip's speaker.
            means: normalized mean frame (channel,) by code of the training speaker; a clip of any other
                speaker stays as it is.
        """
        if not self.settings.speaker_exchange or speaker not in means:
            return values
        generator = self._generator(row, _SPEAKERS + (_WEAK if self.is_weak else 0))
        if generator.random() >= self.settings.speaker_exchange:
            return values
        codes = sorted(means)
        first, second = (means[codes[place]] for place in generator.integers(len(codes), size=2))
        share = generator.random(dtype=np.float32)
        shift = second + share * (first - second) - means[speaker]
        return (values + shift).astype(np.float32, copy=False)

    def view(self, modality: str, row: int, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return a view of the normalized frames (time, channel) of row ``row`` of the micro-batch."""
        settings: ViewSettings = getattr(self.settings, modality)
        if not settings.changes_something:
            return values
        stream = _STREAMS[modality] + (_WEAK if self.is_weak else 0)
        return changed(values, settings, self._generator(row, stream))

    def _generator(self, row: int, stream: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, self.step, int(self.places[row]), stream])


def changed(values: NDArray[np.float32], settings: ViewSettings, generator: np.random.Generator) -> NDArray[np.float32]:
    """Return a changed copy of normalized frames (time, channel); only the tempo changes their number."""
    view = _stretched(values, settings.tempo, generator)
    if settings.noise:
        view = view + settings.noise * generator.standard_normal(view.shape, dtype=np.float32)
    # Zero is the mean of the training speakers: the frames are normalized.
    for _ in range(settings.frame_masks):
        view[_span(len(view), settings.frame_mask_share, generator)] = 0
    for _ in range(settings.channel_masks):
        view[:, _span(view.shape[1], settings.channel_mask_share, generator)] = 0
    return view


def _stretched(values: NDArray[np.float32], most: float, generator: np.random.Generator) -> NDArray[np.float32]:
    """Stretch by a factor between 1 - most and 1 + most, linearly between neighboring frames."""
    if not most or len(values) < 2:
        return values.copy()
    frames = max(2, round(len(values) * (1 + generator.uniform(-most, most))))
    place = np.linspace(0, len(values) - 1, frames)
    before = np.minimum(place.astype(int), len(values) - 2)
    share = (place - before).astype(np.float32)[:, None]
    stretched: NDArray[np.float32] = values[before] * (1 - share) + values[before + 1] * share
    return stretched


def _span(size: int, share: float, generator: np.random.Generator) -> slice:
    width = int(generator.integers(0, int(size * share) + 1))
    start = int(generator.integers(0, size - width + 1))
    return slice(start, start + width)

"""Features normalized for the network: by the training speakers, or by each speaker."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from vavl.features import Normalisation


@dataclass(frozen=True)
class Normaliser:
    """Normalization of one modality: one for all speakers, or one per speaker.

    Attributes:
        common: from the training speakers.
        by_speaker: by speaker code; empty unless per-speaker normalization is on.
        speaker_means: normalized mean frame (channel,) by code of the training speakers; empty where
            per-speaker normalization has made them all zero.
    """

    common: Normalisation
    by_speaker: Mapping[int, Normalisation]
    speaker_means: Mapping[int, NDArray[np.float32]] = field(default_factory=dict)

    def apply(self, values: NDArray[np.float32], speaker: int) -> NDArray[np.float32]:
        """Normalize the frames (time, channel) of one clip."""
        return self.by_speaker.get(speaker, self.common).apply(values)

"""A batch of clips: what the network sees, with the flags that say which losses a clip carries."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Self

import torch
from torch import Tensor


@dataclass(frozen=True)
class ModalityBatch:
    """The clips of a batch that have one modality, padded to the longest of them.

    At least one row, and at least one real frame in every row: when no clip has the modality, one
    row of zeros stands in with ``weight`` 0, so that every rank runs the same graph.
    """

    values: Tensor
    """(clips of the modality, time, channel), float32, normalised."""
    is_real: Tensor
    """(clips of the modality, time), bool; False where the frame is padding."""
    clip: Tensor
    """(clips of the modality,), int64: place of each row among the clips of the batch."""
    weight: Tensor
    """(clips of the modality,), float32: 1 for a clip, 0 for a row that only fills up."""


@dataclass(frozen=True)
class ClipBatch:
    """One micro-batch of one rank.

    Clips whose ``index`` is -1 fill the batch up to an equal count on every rank; all their flags
    are 0, so they carry no loss.
    """

    audio: ModalityBatch
    video: ModalityBatch
    index: Tensor
    """(clips,), int64: row of each clip in the manifest, -1 for a filler."""
    target: Tensor
    """(clips, outputs), float32: class probabilities or attribute values; zeros without label."""
    is_labelled: Tensor
    """(clips,), float32: 1 where the clip has a label that training may use."""
    has_audio: Tensor
    """(clips,), float32."""
    has_video: Tensor
    """(clips,), float32."""
    place: Tensor
    """(clips,), int64: place of each row in the global batch of its step; all draws of a row are keyed by it."""
    weak: WeakView | None = None
    """The unlabelled clips once more, where pseudo-labels are trained."""

    @property
    def clips(self) -> int:
        """Number of clips, fillers included."""
        return int(self.index.shape[0])

    def to(self, device: torch.device) -> Self:
        """Copy every tensor to ``device``."""
        moved = {
            field.name: getattr(self, field.name).to(device, non_blocking=True)
            for field in fields(self)
            if isinstance(getattr(self, field.name), Tensor)
        }
        audio, video = _moved(self.audio, device), _moved(self.video, device)
        weak = self.weak.to(device) if self.weak else None
        return replace(self, audio=audio, video=video, weak=weak, **moved)


@dataclass(frozen=True)
class WeakView:
    """The unlabelled clips of a micro-batch under weak augmentation, with every modality they have.

    Without an unlabelled clip one filler row stands in, so that every rank runs the same graph.
    """

    batch: ClipBatch
    clip: Tensor
    """(rows,), int64: place of each row among the clips of the micro-batch; 0 for the filler."""

    def to(self, device: torch.device) -> Self:
        """Copy every tensor to ``device``."""
        return replace(self, batch=self.batch.to(device), clip=self.clip.to(device, non_blocking=True))


def _moved(modality: ModalityBatch, device: torch.device) -> ModalityBatch:
    return ModalityBatch(
        *(getattr(modality, field.name).to(device, non_blocking=True) for field in fields(modality))
    )

"""A batch of clips: what the network sees, with the flags that say which losses a clip carries."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class ModalityBatch:
    """The clips of a batch that have one modality, padded to the longest of them.

    At least one row, and at least one real frame in every row: when no clip has the modality, one
    row of zeros stands in with ``weight`` 0, so that every rank runs the same graph.
    """

    values: Tensor
    """(clips of the modality, time, channel), float32, normalized."""
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
    """The unlabeled clips once more, where pseudo-labels are trained."""

    @property
    def clips(self) -> int:
        """Number of clips, fillers included."""
        return int(self.index.shape[0])

    def to(self, device: torch.device) -> Self:
        """Copy every tensor to ``device``; from ``pinned`` memory without waiting for the copies."""
        return _with_each(self, lambda tensor: tensor.to(device, non_blocking=True))

    def pinned(self) -> Self:
        """Copy every tensor to page-locked memory, which a GPU reads by itself; needs a CUDA device."""
        return _with_each(self, Tensor.pin_memory)


@dataclass(frozen=True)
class WeakView:
    """The unlabeled clips of a micro-batch under weak augmentation, with every modality they have.

    Without an unlabeled clip one filler row stands in, so that every rank runs the same graph.
    """

    batch: ClipBatch
    clip: Tensor
    """(rows,), int64: place of each row among the clips of the micro-batch; 0 for the filler."""


Batch = TypeVar("Batch", bound=ClipBatch | ModalityBatch | WeakView)


def pad_clips(clips: list[NDArray[np.float32]], places: list[int], width: int) -> ModalityBatch:
    """Pad clips (time, channel) of one modality to the longest; ``places`` are their rows in the batch.

    Without any clip one row of one zero frame stands in with weight 0 (see ``ModalityBatch``).
    """
    if not clips:
        one_frame = torch.ones(1, 1, dtype=torch.bool)
        return ModalityBatch(torch.zeros(1, 1, width), one_frame, torch.zeros(1, dtype=torch.int64), torch.zeros(1))
    longest = max(len(clip) for clip in clips)
    values = torch.zeros(len(clips), longest, width)
    is_real = torch.zeros(len(clips), longest, dtype=torch.bool)
    for place, clip in enumerate(clips):
        values[place, : len(clip)] = torch.from_numpy(np.ascontiguousarray(clip))
        is_real[place, : len(clip)] = True
    return ModalityBatch(values, is_real, torch.tensor(places, dtype=torch.int64), torch.ones(len(clips)))


def middle_frames(values: NDArray[np.float32], most: int) -> NDArray[np.float32]:
    """Cut (time, channel) to at most ``most`` frames around the middle."""
    start = max(0, (len(values) - most) // 2)
    return values[start : start + most]


def _with_each(batch: Batch, change: Callable[[Tensor], Tensor]) -> Batch:
    """Change every tensor of a batch and of the batches within it."""
    changed: dict[str, Any] = {}
    for field in fields(batch):
        value = getattr(batch, field.name)
        if isinstance(value, Tensor):
            changed[field.name] = change(value)
        elif value is not None:
            changed[field.name] = _with_each(value, change)
    return replace(batch, **changed)

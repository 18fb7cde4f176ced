"""A batch of clips: what the network sees, with the flags that say which losses a clip carries."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

GPU_MULTIPLE = 32
"""Frames of a padded batch are a multiple of this on a GPU: few lengths, and aligned."""


@dataclass(frozen=True)
class ModalityBatch:
    """The clips of a batch that have one modality, padded to the longest of them.

    At least one row, and at least one real frame in every row: when no clip has the modality, one
    row of zeros stands in with ``weight`` 0, so that every rank runs the same graph.
    """

    values: Tensor
    """(clips of the modality, time, channel), float32, normalized; before ``normalized`` also float16, as stored."""
    is_real: Tensor
    """(clips of the modality, time), bool; False where the frame is padding."""
    clip: Tensor
    """(clips of the modality,), int64: place of each row among the clips of the batch."""
    weight: Tensor
    """(clips of the modality,), float32: 1 for a clip, 0 for a row that only fills up."""
    is_padded: bool = True
    """False where the host knows that every frame is real; then nothing has to be hidden."""
    mean: Tensor | None = None
    """(clips of the modality, 1, channel), float32: what ``normalized`` subtracts; None where that is done."""
    std: Tensor | None = None
    """Likewise: what it then divides by."""

    @property
    def mask(self) -> Tensor | None:
        """``is_real``, or None where every frame is."""
        return self.is_real if self.is_padded else None

    def normalized(self) -> Self:
        """Widen frames that came as they are stored to float32 and normalize them; padding is 0."""
        if self.mean is None or self.std is None:
            return self
        values = self.values.float().sub_(self.mean).div_(self.std)
        if self.is_padded:
            values.masked_fill_(~self.is_real.unsqueeze(-1), 0)
        return replace(self, values=values, mean=None, std=None)


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
    copied: torch.cuda.Event | None = None
    """On the GPU already, by ``sent``: when the copies are there."""

    @property
    def clips(self) -> int:
        """Number of clips, fillers included."""
        return int(self.index.shape[0])

    def to(self, device: torch.device) -> Self:
        """Copy every tensor to ``device``, where frames are ``normalized`` that are not yet.

        The host does not wait where the tensors are ``pinned`` or were ``sent``.
        """
        if self.copied is None:
            return _with_each(self, lambda tensor: tensor.to(device, non_blocking=True)).normalized()
        stream = torch.cuda.current_stream(device)
        stream.wait_event(self.copied)

        def received(tensor: Tensor) -> Tensor:
            tensor.record_stream(stream)  # its memory is free again after this stream's work, not after the copy's
            return tensor

        return _with_each(replace(self, copied=None), received).normalized()

    def sent(self, device: torch.device, stream: torch.cuda.Stream) -> Self:
        """Begin to copy every tensor to a GPU on a stream of its own, while it computes; ``to`` receives them."""
        with torch.cuda.stream(stream):
            moved = _with_each(self.pinned(), lambda tensor: tensor.to(device, non_blocking=True))
            return replace(moved, copied=stream.record_event())

    def normalized(self) -> Self:
        """Normalize the frames of both modalities, and those of the weak view; see ``ModalityBatch``."""
        weak = self.weak and replace(self.weak, batch=self.weak.batch.normalized())
        return replace(self, audio=self.audio.normalized(), video=self.video.normalized(), weak=weak)

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


def pad_clips(clips: Sequence[NDArray[np.floating]], places: list[int], width: int, multiple: int = 1) -> ModalityBatch:
    """Pad clips (time, channel) of one modality to the longest.

    Without any clip one row of one zero frame stands in with weight 0 (see ``ModalityBatch``).

    Args:
        clips: of the modality, all float32 or, as they are stored, all float16.
        places: their rows in the batch.
        width: channels.
        multiple: frames of a batch that needs padding are rounded up to a multiple of this.
    """
    if not clips:
        one_frame = torch.ones(1, 1, dtype=torch.bool)
        nothing, first = torch.zeros(1, 1, width), torch.zeros(1, dtype=torch.int64)
        return ModalityBatch(nothing, one_frame, first, torch.zeros(1), is_padded=False)
    shortest, longest = min(map(len, clips)), max(map(len, clips))
    is_padded = shortest < longest
    if is_padded:
        longest = -(-longest // multiple) * multiple
    half = clips[0].dtype == np.float16
    values = torch.empty(len(clips), longest, width, dtype=torch.float16 if half else torch.float32)
    filled = values.numpy()
    is_real = torch.zeros(len(clips), longest, dtype=torch.bool)
    for place, clip in enumerate(clips):
        filled[place, : len(clip)] = clip
        filled[place, len(clip) :] = 0
        is_real[place, : len(clip)] = True
    numbers = torch.tensor(places, dtype=torch.int64)
    return ModalityBatch(values, is_real, numbers, torch.ones(len(clips)), is_padded)


def middle_frames(values: NDArray[Any], most: int) -> NDArray[Any]:
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
        elif isinstance(value, ClipBatch | ModalityBatch | WeakView):
            changed[field.name] = _with_each(value, change)
    return replace(batch, **changed)

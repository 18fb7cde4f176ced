"""A batch of clips: what the network sees, with the flags that say which losses a clip carries."""

from __future__ import annotations

from collections.abc import Callable
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
    """(clips of the modality, time, channel), float32, normalized; float16 on the way where it was ``halved``."""
    is_real: Tensor
    """(clips of the modality, time), bool; False where the frame is padding."""
    clip: Tensor
    """(clips of the modality,), int64: place of each row among the clips of the batch."""
    weight: Tensor
    """(clips of the modality,), float32: 1 for a clip, 0 for a row that only fills up."""
    is_padded: bool = True
    """False where the host knows that every frame is real; then nothing has to be hidden."""

    @property
    def mask(self) -> Tensor | None:
        """``is_real``, or None where every frame is."""
        return self.is_real if self.is_padded else None


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
        """Copy every tensor to ``device``; the host does not wait where they are ``pinned`` or were ``sent``.

        There frames that were ``halved`` become float32 again.
        """
        if self.copied is None:
            return _with_each(self, lambda tensor: _widened(tensor.to(device, non_blocking=True)))
        stream = torch.cuda.current_stream(device)
        stream.wait_event(self.copied)

        def received(tensor: Tensor) -> Tensor:
            tensor.record_stream(stream)  # its memory is free again after this stream's work, not after the copy's
            return _widened(tensor)

        return _with_each(replace(self, copied=None), received)

    def sent(self, device: torch.device, stream: torch.cuda.Stream) -> Self:
        """Begin to copy every tensor to a GPU on a stream of its own, while it computes; ``to`` receives them."""
        with torch.cuda.stream(stream):
            moved = _with_each(self.pinned(), lambda tensor: tensor.to(device, non_blocking=True))
            return replace(moved, copied=stream.record_event())

    def halved(self) -> Self:
        """Round all frames to float16, half the bytes to copy, for features that a store holds as float16.

        The normalized frames are rounded as finely as the features were: to 1/2048 of each.
        """
        sides = {name: getattr(self, name) for name in ("audio", "video")}
        halves = {name: replace(side, values=_halved(side.values)) for name, side in sides.items()}
        weak = self.weak and replace(self.weak, batch=self.weak.batch.halved())
        return replace(self, **halves, weak=weak)

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


def pad_clips(clips: list[NDArray[np.float32]], places: list[int], width: int, multiple: int = 1) -> ModalityBatch:
    """Pad clips (time, channel) of one modality to the longest.

    Without any clip one row of one zero frame stands in with weight 0 (see ``ModalityBatch``).

    Args:
        clips: of the modality.
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
    values = torch.empty(len(clips), longest, width)
    is_real = torch.zeros(len(clips), longest, dtype=torch.bool)
    for place, clip in enumerate(clips):
        values[place, : len(clip)] = torch.from_numpy(np.ascontiguousarray(clip))
        values[place, len(clip) :] = 0
        is_real[place, : len(clip)] = True
    numbers = torch.tensor(places, dtype=torch.int64)
    return ModalityBatch(values, is_real, numbers, torch.ones(len(clips)), is_padded)


def middle_frames(values: NDArray[np.float32], most: int) -> NDArray[np.float32]:
    """Cut (time, channel) to at most ``most`` frames around the middle."""
    start = max(0, (len(values) - most) // 2)
    return values[start : start + most]


def _halved(values: Tensor) -> Tensor:
    most = torch.finfo(torch.float16).max
    return values.clamp(-most, most).half()


def _widened(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype == torch.float16 else tensor


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

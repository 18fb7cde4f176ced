"""Noise that belongs to a clip and a step, wherever the clip is computed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vavl.data.batch import ModalityBatch
from vavl.models.draws import DrawKey, mixed

_BITS = 63


def layer_noise(
    key: DrawKey, stream: int, clips: ModalityBatch, place: Tensor, widths: Sequence[int]
) -> tuple[Tensor, ...]:
    """Draw standard normal noise for some layers of one modality.

    Args:
        key: of the step.
        stream: one number per modality.
        clips: the rows; padded frames get zeros.
        place: (clips of the batch,), place in the global batch; each row draws from a generator of its
            own, so neither padding nor batch-mates nor the number of ranks changes what it gets.
        widths: channels of each layer.

    Returns:
        (rows, time, channel) per layer, float32.
    """
    values = clips.values.new_zeros(*clips.is_real.shape, sum(widths), dtype=torch.float32)
    generator = torch.Generator(device=values.device)
    frames = clips.is_real.sum(dim=1).tolist()
    for row, (number, length) in enumerate(zip(place[clips.clip].tolist(), frames, strict=True)):
        generator.manual_seed(mixed(key.seed, key.step, number, stream) >> (64 - _BITS))
        values[row, :length] = torch.randn(
            length, values.shape[-1], generator=generator, device=values.device
        )
    return torch.split(values, list(widths), dim=-1)

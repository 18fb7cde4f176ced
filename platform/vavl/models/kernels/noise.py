"""Noise that belongs to a clip and a step, wherever the clip is computed."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from vavl.data.batch import ModalityBatch
from vavl.models.kernels.draws import DrawKey, keys_of_rows, mixed, random_bytes
from vavl.models.kernels.masking import keep

_BITS = 63
_BYTES_OF_A_WORD = 4
_FIRST_GROUP = 3
"""Of the keys of rows; those of dropout have lower ones."""


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
    draw = _by_generators if clips.values.device.type == "cpu" else _by_counter
    return torch.split(draw(key, stream, clips, place, sum(widths)), list(widths), dim=-1)


def _by_generators(key: DrawKey, stream: int, clips: ModalityBatch, place: Tensor, channels: int) -> Tensor:
    """Draw (rows, time, channels) with torch's generator, seeded anew for every row."""
    values = clips.values.new_zeros(*clips.is_real.shape, channels, dtype=torch.float32)
    generator = torch.Generator()
    frames = clips.is_real.sum(dim=1).tolist()
    for row, (number, length) in enumerate(zip(place[clips.clip].tolist(), frames, strict=True)):
        generator.manual_seed(mixed(key.seed, key.step, number, stream) >> (64 - _BITS))
        values[row, :length] = torch.randn(length, channels, generator=generator)
    return values


def _by_counter(key: DrawKey, stream: int, clips: ModalityBatch, place: Tensor, channels: int) -> Tensor:
    """Draw (rows, time, channels) without asking the device for a number; on a CPU it takes three times as long.

    Box and Muller (1958): two uniform numbers make two normal ones.
    """
    rows = keys_of_rows(key, place[clips.clip], _FIRST_GROUP + stream)
    frames = clips.is_real.shape[1]
    pairs = -(-frames * channels // 2)
    words = random_bytes(rows, 0, 2 * _BYTES_OF_A_WORD * pairs).view(torch.int32).float()
    # From (0, 1], as its logarithm is taken, and from [-pi, pi].
    share = ((words[:, 0::2] + 2.0**31) * 2.0**-32).clamp(2.0**-33, 1.0)
    angle = words[:, 1::2] * (math.pi / 2**31)
    radius = share.log().mul(-2).sqrt()
    drawn = torch.stack((radius * angle.cos(), radius * angle.sin()), dim=-1).flatten(1)
    return keep(drawn[:, : frames * channels].view(-1, frames, channels), clips.is_real.unsqueeze(-1))

"""Random numbers of a training pass: each a function of what it belongs to, and of nothing else.

A draw has a key: seed, step, place of the row in the global batch, and what draws. So it is the same for
any number of ranks and micro-batches, any padding and batch-mates, on a CPU and a GPU, and whenever a
pass is repeated; there is no random state to save, restore or pass on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from vavl.data.batch import ModalityBatch

BYTES_PER_DRAW = 8
_BITS_OF_A_SEED = 63
_BYTES_OF_A_WORD = 4
_FIRST_GROUP_OF_NOISE = 3
"""Of the keys of rows; those of dropout have lower ones."""


class DrawKey(NamedTuple):
    """What the draws of a training step have in common."""

    seed: int
    step: int


def mixed(*numbers: int) -> int:
    """Return 64 bits, unsigned, that depend on all of the numbers; none of them may be negative."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])


def keys_of_rows(key: DrawKey, place: Tensor, group: int) -> Tensor:
    """Give every row a key of its own.

    Args:
        key: of the step.
        place: (rows,), int64: place of each row in the global batch.
        group: tells apart the kinds of rows that one clip has, such as its audio and its video.

    Returns:
        (rows,), int64.
    """
    start = _signed(mixed(key.seed, key.step, group))
    return _finalise(place * _WEYL + start)


def random_bytes(rows: Tensor, stream: int, count: int) -> Tensor:
    """Draw uniform bytes by SplitMix64 (Steele, Lea and Flood 2014) with a counter in place of its state.

    Args:
        rows: (rows,), int64, from ``keys_of_rows``.
        stream: one number per use of the same keys.
        count: bytes per row; the first bytes of a row are the same for any count.

    Returns:
        (rows, count), uint8.
    """
    return _draws(rows, stream, count).view(torch.uint8)[:, :count]


def random_choices(rows: Tensor, stream: int, count: int, level: int) -> Tensor:
    """Tell of the bytes of ``random_bytes`` which are at least ``level``.

    Args:
        rows: (rows,), int64, from ``keys_of_rows``.
        stream: one number per use of the same keys.
        count: per row.
        level: 1 to 255.

    Returns:
        (rows, count), int8: -1 (all bits set) or 0. A third of the time of comparing byte by byte on a CPU.
    """
    draws = _draws(rows, stream, count)
    # All eight bytes at once: the highest bit of each byte of the sum tells of the other seven.
    low = (draws & _SEVEN_BITS).add_((128 - level if level <= 128 else 256 - level) * _ONES)
    chosen = low.bitwise_or_(draws) if level <= 128 else low.bitwise_and_(draws)
    # 0 or 1 in each byte, times 255.
    return (chosen >> 7).bitwise_and_(_ONES).mul_(255).view(torch.int8)[:, :count]


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
        generator.manual_seed(mixed(key.seed, key.step, number, stream) >> (64 - _BITS_OF_A_SEED))
        values[row, :length] = torch.randn(length, channels, generator=generator)
    return values


def _by_counter(key: DrawKey, stream: int, clips: ModalityBatch, place: Tensor, channels: int) -> Tensor:
    """Draw (rows, time, channels) without asking the device for a number; on a CPU it takes three times as long.

    Box and Muller (1958): two uniform numbers make two normal ones.
    """
    rows = keys_of_rows(key, place[clips.clip], _FIRST_GROUP_OF_NOISE + stream)
    frames = clips.is_real.shape[1]
    pairs = -(-frames * channels // 2)
    words = random_bytes(rows, 0, 2 * _BYTES_OF_A_WORD * pairs).view(torch.int32).float()
    # From (0, 1], as its logarithm is taken, and from [-pi, pi].
    share = ((words[:, 0::2] + 2.0**31) * 2.0**-32).clamp(2.0**-33, 1.0)
    angle = words[:, 1::2] * (math.pi / 2**31)
    radius = share.log().mul(-2).sqrt()
    drawn = torch.stack((radius * angle.cos(), radius * angle.sin()), dim=-1).flatten(1)
    noise = drawn[:, : frames * channels].view(-1, frames, channels)
    return noise.masked_fill(~clips.is_real.unsqueeze(-1), 0)


def _draws(rows: Tensor, stream: int, count: int) -> Tensor:
    counter = torch.arange(-(-count // BYTES_PER_DRAW), device=rows.device)
    first = (rows + _signed(stream * _STREAM_WEYL)).unsqueeze(1)
    return _finalise(torch.add(first, counter, alpha=_WEYL))


def _finalise(state: Tensor) -> Tensor:
    """Mix the bits of each int64, overwriting ``state``, as the output function of SplitMix64 does."""
    _shift_and_xor(state, 30).mul_(_FIRST_FACTOR)
    _shift_and_xor(state, 27).mul_(_SECOND_FACTOR)
    return _shift_and_xor(state, 31)


def _shift_and_xor(state: Tensor, bits: int) -> Tensor:
    # torch shifts int64 arithmetically; without the copies of the sign it is the shift of an unsigned number.
    shifted = (state >> bits).bitwise_and_((1 << (64 - bits)) - 1)
    return state.bitwise_xor_(shifted)


def _signed(number: int) -> int:
    """Return the int64 with the lowest 64 bits of a number."""
    return (number + 2**63) % 2**64 - 2**63


# 2^64 / golden ratio, and the factors of SplitMix64's output function.
_WEYL = _signed(0x9E3779B97F4A7C15)
_FIRST_FACTOR = _signed(0xBF58476D1CE4E5B9)
_SECOND_FACTOR = _signed(0x94D049BB133111EB)
# 1 and 127 in each of eight bytes.
_ONES, _SEVEN_BITS = 0x0101010101010101, 0x7F7F7F7F7F7F7F7F
# Another odd number without pattern: streams start far apart in the sequence of counters.
_STREAM_WEYL = 0xD1342543DE82EF95

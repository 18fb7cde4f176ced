"""Random numbers of a training pass: each a function of what it belongs to, and of nothing else.

A draw has a key: seed, step, place of the row in the global batch, and what draws. So it is the same for
any number of ranks and micro-batches, any padding and batch-mates, on a CPU and a GPU, and whenever a
pass is repeated; there is no random state to save, restore or pass on.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

BYTES_PER_DRAW = 8


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

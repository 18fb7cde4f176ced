"""Random numbers of a training pass, and dropout by them: each a function of what it belongs to, and of nothing else.

A draw has a key: seed, step, place of the row in the global batch, and what draws. So it is the same for
any number of ranks and micro-batches, any padding and batch-mates, on a CPU and a GPU, and whenever a
pass is repeated; there is no random state to save, restore or pass on.

Dropout is one operator, ``vavl::drop``, of the keys on the device; a GPU runs it in one kernel (``gpu.py``).
It is its own gradient: the backward pass calls it once more with the same keys, and nothing is kept for that.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from vavl.models import gpu

BYTES_PER_DRAW = 8
_LEVELS = 256


class DrawKey(NamedTuple):
    """What the draws of a training step have in common."""

    seed: int
    step: int


class Draw(NamedTuple):
    """A use of dropout: elements whose byte is below ``level`` become 0, the others are multiplied by ``scale``."""

    stream: int
    level: int
    scale: float


def mixed(*numbers: int) -> int:
    """Return 64 bits, unsigned, that depend on all of the numbers; none of them may be negative."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])


def keys_of_rows(key: DrawKey, place: Tensor, *groups: int) -> Tensor:
    """Give every row a key of its own.

    Args:
        key: of the step.
        place: (rows,), int64: place of each row in the global batch.
        groups: tell apart the kinds of rows that one clip has, such as its audio and its video.

    Returns:
        (rows,), int64; (groups, rows) for several groups.
    """
    spread = place * _WEYL
    states = [spread + _signed(mixed(key.seed, key.step, group)) for group in groups]
    return _finalise(states[0] if len(states) == 1 else torch.stack(states))


def keys_from_stream(rows: Tensor | None, stream: int) -> Tensor | None:
    """Return keys whose stream 0 is ``stream`` of the keys ``rows``; None for None."""
    return rows if rows is None or stream == 0 else rows + _signed(stream * _STREAM_WEYL)


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
    """Tell of the bytes of ``random_bytes`` which are at least ``level``, 1 to 255.

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


def _is_kept(rows: Tensor, draw: Draw, shape: torch.Size) -> Tensor:
    """Return what ``kept_elements`` returns, as bool and in a form that a compiler fuses."""
    shifts = torch.arange(0, 8 * BYTES_PER_DRAW, 8, device=rows.device)
    count = shape[1:].numel()
    drawn = (_draws(rows, draw.stream, count).unsqueeze(-1) >> shifts).bitwise_and(_LEVELS - 1)
    return (drawn.flatten(1)[:, :count] >= draw.level).view(shape)


# 2^64 / golden ratio, and the factors of SplitMix64's output function.
_WEYL = _signed(0x9E3779B97F4A7C15)
_FIRST_FACTOR = _signed(0xBF58476D1CE4E5B9)
_SECOND_FACTOR = _signed(0x94D049BB133111EB)
# 1 and 127 in each of eight bytes.
_ONES, _SEVEN_BITS = 0x0101010101010101, 0x7F7F7F7F7F7F7F7F
# Another odd number without pattern: streams start far apart in the sequence of counters.
_STREAM_WEYL = 0xD1342543DE82EF95


class Dropout(nn.Module):
    """Dropout by a byte per element that the key of its row decides.

    The probability is rounded to a multiple of 1/256 and the scale follows the rounded one, so the
    expectation is exact.

    Args:
        probability: of an element to become 0.
    """

    stream: int = 0
    """Tells the draws of this module from those of others under the same keys."""

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability
        self.level = round(probability * _LEVELS)

    def forward(
        self, values: Tensor, rows: Tensor | None, residual: Tensor | None = None, weight: float = 1.0
    ) -> Tensor:
        """Return ``values`` with some elements 0 and the others scaled up, times ``weight``, added to ``residual``.

        Args:
            values: (rows, ...). An element is known by its place within the row: with time on the second axis no
                padding changes the draws of the frames before it.
            rows: (rows,), int64: key of each row; None for a pass without dropout.
            residual: (rows, ...), to be added to; None for none.
            weight: of ``values``.

        Returns:
            ``values`` themselves in evaluation and without keys, where nothing is added.
        """
        if rows is None or not self.is_on(rows):
            if residual is not None:
                return torch.add(residual, values, alpha=weight)
            return values if weight == 1 else values * weight
        draw = self.draw(rows, weight)
        if torch.compiler.is_compiling():
            scaled = torch.where(_is_kept(rows, draw, values.shape), values, 0) * draw.scale
            return scaled if residual is None else residual + scaled
        dropped: Tensor = _Drop.apply(values, rows, draw, residual, False)  # type: ignore[no-untyped-call]
        return dropped

    def is_on(self, rows: Tensor | None) -> bool:
        """Tell whether a pass with these keys drops anything."""
        return rows is not None and self.training and self.level > 0

    def scale(self, rows: Tensor | None) -> float:
        """Return the factor by which ``forward`` scales up what it keeps."""
        return _LEVELS / (_LEVELS - self.level) if self.is_on(rows) else 1.0

    def draw(self, rows: Tensor | None, weight: float = 1.0) -> Draw:
        """Return what ``forward`` draws, and the scale of what it keeps."""
        return Draw(self.stream, self.level, weight * self.scale(rows))


class SwishDropout(Dropout):
    """Swish, then dropout."""

    def forward(
        self, values: Tensor, rows: Tensor | None, residual: Tensor | None = None, weight: float = 1.0
    ) -> Tensor:
        """Return dropout of Swish of ``values``; see ``Dropout``."""
        if residual is None and self.is_on(rows) and gpu.is_usable(values):
            dropped: Tensor = _Drop.apply(values, rows, self.draw(rows, weight), None, True)  # type: ignore[no-untyped-call]
            return dropped
        return super().forward(functional.silu(values), rows, residual, weight)


class SequentialWithDropout(nn.Sequential):
    """A chain of layers that hands the keys of the rows to those that draw."""

    def forward(self, values: Tensor, rows: Tensor | None = None) -> Tensor:
        """Apply every layer in turn to (rows, ...); without keys nothing is dropped."""
        return in_turn(self, values, rows)


def in_turn(layers: Iterable[nn.Module], values: Tensor, rows: Tensor | None = None) -> Tensor:
    """Apply layers one after the other to (rows, ...); those that draw get the keys of the rows."""
    for layer in layers:
        values = layer(values, rows) if isinstance(layer, Dropout) else layer(values)
    return values


class _Drop(torch.autograd.Function):
    """Dropout and sum; the backward pass draws once more, so nothing but the keys is kept.

    On a GPU Swish may come first: then the values are kept as well.
    """

    @staticmethod
    def forward(
        ctx: Any, values: Tensor, rows: Tensor, draw: Draw, residual: Tensor | None, with_swish: bool
    ) -> Tensor:
        """Return ``residual`` + dropout of ``values``, or of their Swish."""
        ctx.save_for_backward(rows, values if with_swish else None)
        ctx.draw, ctx.dtype, ctx.of_residual = draw, values.dtype, None if residual is None else residual.dtype
        return _dropped(values, rows, draw, residual=residual, swish=with_swish)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Drop the same of the gradient."""
        rows, values = ctx.saved_tensors
        if values is not None:
            return _dropped(values, rows, ctx.draw, grad=grad, swish=True), None, None, None, None
        of_values = _dropped(grad.to(ctx.dtype), rows, ctx.draw)
        return of_values, None, None, None if ctx.of_residual is None else grad.to(ctx.of_residual), None


def _dropped(values: Tensor, rows: Tensor, draw: Draw, *, residual: Tensor | None = None, **for_swish: Any) -> Tensor:
    if gpu.is_usable(values):
        dropped: Tensor = gpu.kernels().drop(values, rows, draw, residual=residual, **for_swish)
        return dropped
    kept = where_kept(values, kept_elements(values, rows, draw))
    return kept.mul_(draw.scale) if residual is None else torch.add(residual, kept, alpha=draw.scale)


def kept_elements(values: Tensor, rows: Tensor, draw: Draw) -> Tensor:
    """Return int8 of the shape of ``values`` (rows, ...): -1 (all bits set) where dropout keeps an element, else 0."""
    return random_choices(rows, draw.stream, values[0].numel(), draw.level).view(values.shape)


_WHOLE = {
    torch.bfloat16: torch.int16,
    torch.float16: torch.int16,
    torch.float32: torch.int32,
    torch.float64: torch.int64,
}
"""Whole numbers as wide as floating-point ones."""


def where_kept(values: Tensor, is_kept: Tensor) -> Tensor:
    """Return ``values`` where ``is_kept``, else zeros, without gradient: by bits, so that no NaN survives.

    On a CPU it is quicker than a product or a fill.

    Args:
        values: floating point.
        is_kept: int8 of the shape of ``values``: -1 (all bits set), else 0.
    """
    whole = _WHOLE[values.dtype]
    return (values.view(whole) & is_kept.to(whole)).view(values.dtype)

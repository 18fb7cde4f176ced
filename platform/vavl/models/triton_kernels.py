# mypy: ignore-errors
"""Triton kernels of keyed dropout, keyed noise, rotary positions and the ladder's combinator.

``gpu.kernels()`` gives this module; ``draws.py``, ``conformer.py`` and ``ladder.py`` hold the plain ways that the
kernels are equal to.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

_WORDS = 128
"""Draws of a program: each is 64 bits and decides eight elements."""
_ELEMENTS = 512
"""Of a program that rotates."""
_ROWS, _CHANNELS = 16, 128
"""Frames and channels of a program that combines."""


@triton.jit
def _draws(rows, row, word, stream):
    """SplitMix64 with a counter, as ``draws.random_bytes``: 64 bits per word."""
    state = tl.load(rows + row).to(tl.uint64, bitcast=True) + stream.to(tl.uint64) * 0xD1342543DE82EF95
    state = state + word.to(tl.uint64) * 0x9E3779B97F4A7C15
    state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9
    state = (state ^ (state >> 27)) * 0x94D049BB133111EB
    return state ^ (state >> 31)


@triton.jit(do_not_specialize=["count", "stream", "level"])
def _drop(  # noqa: PLR0913
    values, rows, other, out, count, stream, level, scale,
    ADDS: tl.constexpr, SWISH: tl.constexpr, BACKWARD: tl.constexpr, WORDS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    word = tl.program_id(1) * WORDS + tl.arange(0, WORDS)
    state = _draws(rows, row, word, stream)
    byte = tl.arange(0, 8)
    drawn = (state[:, None] >> (8 * byte[None, :]).to(tl.uint64)) & 255
    element = word[:, None] * 8 + byte[None, :]
    inside = element < count
    place = row * count + element
    value = tl.load(values + place, mask=inside, other=0.0).to(tl.float32)
    slope = 1.0
    if SWISH:
        gate = 1.0 / (1.0 + tl.exp(-value))
        slope = gate * (1.0 + value * (1.0 - gate))
        value = value * gate
    if BACKWARD:
        value = tl.load(other + place, mask=inside, other=0.0).to(tl.float32)
    kept = tl.where(drawn.to(tl.int32) >= level, value, 0.0) * scale
    if BACKWARD:
        kept = kept * slope
    if ADDS:
        kept = tl.load(other + place, mask=inside, other=0.0).to(tl.float32) + kept
    tl.store(out + place, kept.to(out.dtype.element_ty), mask=inside)


def drop(
    values: Tensor,
    rows: Tensor,
    draw: tuple[int, int, float],
    *,
    residual: Tensor | None = None,
    grad: Tensor | None = None,
    swish: bool = False,
) -> Tensor:
    """Return ``residual`` + what dropout makes of ``values`` (rows, ...), or their Swish; ``draw``: a ``draws.Draw``.

    With the gradient above it, return that of ``values``.
    """
    values = values.contiguous()
    other = grad if residual is None else residual
    dtype = values.dtype if residual is None else torch.promote_types(values.dtype, residual.dtype)
    out, count = torch.empty(values.shape, dtype=dtype, device=values.device), values[0].numel()
    grid = (values.shape[0], triton.cdiv(count, 8 * _WORDS))
    _drop[grid](
        values, rows, values if other is None else other.contiguous(), out, count, *draw,
        ADDS=residual is not None, SWISH=swish, BACKWARD=grad is not None, WORDS=_WORDS,
    )  # fmt: skip
    return out


@triton.jit
def _rotate(qkv, cosine, sine, out, frames, width, half, sign, ELEMENTS: tl.constexpr):  # noqa: PLR0913
    token = tl.program_id(0).to(tl.int64)
    element = tl.program_id(1) * ELEMENTS + tl.arange(0, ELEMENTS)
    inside = element < 3 * width
    pair = element % half
    is_first = element % (2 * half) < half
    place = token * 3 * width + element
    value = tl.load(qkv + place, mask=inside, other=0.0).to(tl.float32)
    partner = tl.load(qkv + tl.where(is_first, place + half, place - half), mask=inside, other=0.0).to(tl.float32)
    angle = (token % frames) * half + pair
    turned = value * tl.load(cosine + angle) + partner * tl.load(sine + angle) * tl.where(is_first, -sign, sign)
    result = tl.where(element < 2 * width, turned, value)
    tl.store(out + place, result.to(out.dtype.element_ty), mask=inside)


def rotate(qkv: Tensor, cosine: Tensor, sine: Tensor, sign: int) -> Tensor:
    """Turn query and key of (B, T, 3, H, D) by ``sign`` times their angles (T, D / 2); the value stays."""
    qkv, (clips, frames, _, heads, channels) = qkv.contiguous(), qkv.shape
    out, width = torch.empty_like(qkv), heads * channels
    grid = (clips * frames, triton.cdiv(3 * width, _ELEMENTS))
    _rotate[grid](qkv, cosine, sine, out, frames, width, channels // 2, sign, ELEMENTS=_ELEMENTS)
    return out


@triton.jit(do_not_specialize=["frames", "channels", "stream"])
def _noise(rows, is_real, out, frames, channels, stream, WORDS: tl.constexpr):  # noqa: PLR0913
    row = tl.program_id(0).to(tl.int64)
    word = tl.program_id(1) * WORDS + tl.arange(0, WORDS)
    state = _draws(rows, row, word, stream)
    # The halves of a word as int32, as ``ladder.normal_numbers`` reads them.
    low = state.to(tl.uint32).to(tl.int32, bitcast=True).to(tl.float32)
    high = (state >> 32).to(tl.uint32).to(tl.int32, bitcast=True).to(tl.float32)
    share = tl.maximum(tl.minimum((low + 2147483648.0) * 2.3283064365386963e-10, 1.0), 1.1641532182693481e-10)
    angle = high * 1.4629180792671596e-09
    radius = tl.sqrt(-2.0 * tl.log(share))
    side = tl.arange(0, 2)[None, :]
    value = radius[:, None] * tl.where(side == 0, tl.cos(angle)[:, None], tl.sin(angle)[:, None])
    element = word[:, None] * 2 + side
    inside = element < frames * channels
    real = tl.load(is_real + row * frames + element // channels, mask=inside, other=0)
    tl.store(out + row * frames * channels + element, tl.where(real != 0, value, 0.0), mask=inside)


def noise(rows: Tensor, is_real: Tensor, channels: int, stream: int) -> Tensor:
    """Do what ``ladder.normal_numbers`` does."""
    clips, frames = is_real.shape
    out = torch.empty(clips, frames, channels, device=rows.device)
    grid = (clips, triton.cdiv(frames * channels, 2 * _WORDS))
    _noise[grid](rows, is_real.view(torch.uint8), out, frames, channels, stream, WORDS=_WORDS)
    return out


@triton.jit
def _combine(  # noqa: PLR0913
    lateral, vertical, linear, gate, scale, above, out, of_vertical, of_weights, frames, width, repeats,
    BACKWARD: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    block, channel = tl.program_id(0).to(tl.int64), tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    known = channel < width
    a = tl.load(linear + channel, mask=known, other=0.0)
    a_z = tl.load(linear + width + channel, mask=known, other=0.0)
    a_u = tl.load(linear + 2 * width + channel, mask=known, other=0.0)
    a_zu = tl.load(linear + 3 * width + channel, mask=known, other=0.0)
    b = tl.load(gate + channel, mask=known, other=0.0)
    b_z = tl.load(gate + width + channel, mask=known, other=0.0)
    b_u = tl.load(gate + 2 * width + channel, mask=known, other=0.0)
    b_zu = tl.load(gate + 3 * width + channel, mask=known, other=0.0)
    factor = tl.load(scale + channel, mask=known, other=0.0).to(tl.float32)
    zero = factor * 0.0
    of_a, of_az, of_au, of_azu, of_factor = zero, zero, zero, zero, zero
    of_b, of_bz, of_bu, of_bzu = zero, zero, zero, zero
    for number in range(ROWS):
        row = block * ROWS + number
        inside = known & (row < frames)
        place = row * width + channel
        z = tl.load(lateral + place, mask=inside, other=0.0).to(tl.float32)
        u = tl.load(vertical + (row // repeats) * width + channel, mask=inside, other=0.0).to(tl.float32)
        share = 1.0 / (1.0 + tl.exp(-(b + b_u * u + z * (b_z + b_zu * u))))
        if BACKWARD:
            grad = tl.load(above + place, mask=inside, other=0.0).to(tl.float32)
            low = grad * factor * share * (1.0 - share)
            of_z = grad * (a_z + a_zu * u) + low * (b_z + b_zu * u)
            of_u = grad * (a_u + a_zu * z) + low * (b_u + b_zu * z)
            tl.store(out + place, of_z.to(out.dtype.element_ty), mask=inside)
            tl.store(of_vertical + place, of_u.to(of_vertical.dtype.element_ty), mask=inside)
            of_a, of_az, of_au, of_azu = of_a + grad, of_az + grad * z, of_au + grad * u, of_azu + grad * z * u
            of_b, of_bz, of_bu, of_bzu = of_b + low, of_bz + low * z, of_bu + low * u, of_bzu + low * z * u
            of_factor = of_factor + grad * share
        else:
            estimate = a + a_u * u + z * (a_z + a_zu * u) + factor * share
            tl.store(out + place, estimate.to(out.dtype.element_ty), mask=inside)
    if BACKWARD:
        sums = of_weights + block * 9 * width + channel
        tl.store(sums, of_a, mask=known)
        tl.store(sums + width, of_az, mask=known)
        tl.store(sums + 2 * width, of_au, mask=known)
        tl.store(sums + 3 * width, of_azu, mask=known)
        tl.store(sums + 4 * width, of_b, mask=known)
        tl.store(sums + 5 * width, of_bz, mask=known)
        tl.store(sums + 6 * width, of_bu, mask=known)
        tl.store(sums + 7 * width, of_bzu, mask=known)
        tl.store(sums + 8 * width, of_factor, mask=known)


def combine(
    lateral: Tensor, vertical: Tensor, weights: Sequence[Tensor], above: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Do what a ``ladder.Combinator`` with these weights does, in the first result.

    With the gradient above it, return those of ``lateral``, of ``vertical`` with all frames, and (parts, 9, D) of the
    weights one under the other, whose sum it is.
    """
    lateral, vertical = lateral.contiguous(), vertical.contiguous()
    frames, width = lateral.shape[0] * lateral.shape[1], lateral.shape[2]
    blocks, repeats = triton.cdiv(frames, _ROWS), lateral.shape[1] // vertical.shape[1]
    out, of_vertical, of_weights = torch.empty_like(lateral), vertical, lateral
    if above is not None:
        of_vertical = torch.empty(lateral.shape, dtype=vertical.dtype, device=lateral.device)
        of_weights = torch.empty(blocks, 9, width, device=lateral.device)
    _combine[blocks, triton.cdiv(width, _CHANNELS)](
        lateral, vertical, *weights, lateral if above is None else above.contiguous(), out, of_vertical, of_weights,
        frames, width, repeats, BACKWARD=above is not None, ROWS=_ROWS, CHANNELS=_CHANNELS,
    )  # fmt: skip
    return out, of_vertical, of_weights

# mypy: ignore-errors
"""Triton kernels of keyed dropout and rotary positions.

``gpu.py`` calls them; ``draws.py`` and ``conformer.py`` hold the plain ways that they are equal to.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_WORDS = 128
"""Draws of a program: each is 64 bits and decides eight elements."""
_ELEMENTS = 512
"""Of a program that rotates."""


@triton.jit(do_not_specialize=["count", "stream", "level"])
def _drop(  # noqa: PLR0913
    values, rows, other, out, count, stream, level, scale,
    ADDS: tl.constexpr, SWISH: tl.constexpr, BACKWARD: tl.constexpr, WORDS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    word = tl.program_id(1) * WORDS + tl.arange(0, WORDS)
    # SplitMix64 with a counter, as ``draws.random_bytes``.
    state = tl.load(rows + row).to(tl.uint64, bitcast=True) + stream.to(tl.uint64) * 0xD1342543DE82EF95
    state = state + word.to(tl.uint64) * 0x9E3779B97F4A7C15
    state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9
    state = (state ^ (state >> 27)) * 0x94D049BB133111EB
    state = state ^ (state >> 31)
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
    """Launch the kernel of ``gpu.drop`` and ``gpu.swish_drop``; ``draw`` is a ``gpu.Draw``."""
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
    """Launch the kernel of ``gpu.rotate``."""
    qkv, (clips, frames, _, heads, channels) = qkv.contiguous(), qkv.shape
    out, width = torch.empty_like(qkv), heads * channels
    grid = (clips * frames, triton.cdiv(3 * width, _ELEMENTS))
    _rotate[grid](qkv, cosine, sine, out, frames, width, channels // 2, sign, ELEMENTS=_ELEMENTS)
    return out

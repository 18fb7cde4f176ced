"""Zeros in place of some elements, by bits: quicker than a product or a fill on a CPU, and no NaN survives.

Dropout within other work is drawn again in the backward pass where nothing needs to be kept.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vavl.models.layers import Dropout

_WHOLE = {
    torch.bfloat16: torch.int16,
    torch.float16: torch.int16,
    torch.float32: torch.int32,
    torch.float64: torch.int64,
}
"""Whole numbers as wide as floating-point ones."""


def keep(values: Tensor, is_kept: Tensor) -> Tensor:
    """Return ``values`` where ``is_kept``, zeros elsewhere; gradient goes to what is kept.

    Args:
        values: floating point.
        is_kept: int8 or bool, of a shape that broadcasts to that of ``values``: -1 (all bits set) or True, else 0.
    """
    kept: Tensor = _Keep.apply(values, is_kept)  # type: ignore[no-untyped-call]
    return kept


def where_kept(values: Tensor, is_kept: Tensor) -> Tensor:
    """Do what ``keep`` does, without gradient."""
    whole = _WHOLE[values.dtype]
    bits = is_kept.to(whole)
    if is_kept.dtype == torch.bool:
        bits = bits.neg_()
    kept: Tensor = (values.view(whole) & bits).view(values.dtype)
    return kept


class _Keep(torch.autograd.Function):
    """For the backward pass it keeps a byte per element of the mask."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, is_kept: Tensor) -> Tensor:
        """Leave some of ``values``."""
        ctx.save_for_backward(is_kept)
        return where_kept(values, is_kept)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        """Treat the gradient in the same way."""
        (is_kept,) = ctx.saved_tensors
        return where_kept(grad, is_kept), None


def unscaled(dropout: Dropout, values: Tensor, rows: Tensor | None) -> Tensor:
    """Return what ``dropout(values, rows)`` is before it is scaled up, for callers who scale something smaller."""
    if rows is None or not dropout.is_on(rows):
        return values
    return keep(values, dropout.choices(rows, values))


def add_dropped(dropout: Dropout, frames: Tensor, extra: Tensor, rows: Tensor | None, weight: float = 1.0) -> Tensor:
    """Return ``frames`` + ``weight`` * ``dropout(extra, rows)``, keeping nothing for the backward pass."""
    if not dropout.is_on(rows):
        return torch.add(frames, extra, alpha=weight)
    total: Tensor = _Add.apply(frames, extra, rows, dropout, weight * dropout.scale(rows))  # type: ignore[no-untyped-call]
    return total


class _Add(torch.autograd.Function):
    """A sum whose second part is dropped; it draws once more in the backward pass."""

    @staticmethod
    def forward(ctx: Any, frames: Tensor, extra: Tensor, rows: Tensor, dropout: Dropout, weight: float) -> Tensor:
        """Add ``weight`` * some of ``extra`` to ``frames``, (rows, ...) both."""
        ctx.save_for_backward(rows)
        ctx.dropout, ctx.weight, ctx.dtypes = dropout, weight, (frames.dtype, extra.dtype)
        return torch.add(frames, where_kept(extra, dropout.choices(rows, extra)), alpha=weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        """Hand the gradient on to both."""
        (rows,) = ctx.saved_tensors
        of_frames, of_extra = (grad.to(dtype) for dtype in ctx.dtypes)
        return of_frames, where_kept(of_extra, ctx.dropout.choices(rows, grad)) * ctx.weight, None, None, None

"""Dropout within other work: by bits, and drawn again in the backward pass where nothing needs to be kept."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vavl.models.dropout import Dropout
from vavl.models.kernels.masking import keep, where_kept


def unscaled(dropout: Dropout, values: Tensor, rows: Tensor | None) -> Tensor:
    """Return what ``dropout(values, rows)`` is before it is scaled up, for callers who scale something smaller."""
    if rows is None or not dropout.is_on(rows):
        return values
    return keep(values, dropout.choices(rows, values))


def add_dropped(
    dropout: Dropout, frames: Tensor, extra: Tensor, rows: Tensor | None, weight: float = 1.0
) -> Tensor:
    """Return ``frames`` + ``weight`` * ``dropout(extra, rows)``, keeping nothing for the backward pass."""
    if not dropout.is_on(rows):
        return torch.add(frames, extra, alpha=weight)
    total: Tensor = _Add.apply(frames, extra, rows, dropout, weight * dropout.scale(rows))  # type: ignore[no-untyped-call]
    return total


class _Add(torch.autograd.Function):
    """A sum whose second part is dropped; it draws once more in the backward pass."""

    @staticmethod
    def forward(
        ctx: Any, frames: Tensor, extra: Tensor, rows: Tensor, dropout: Dropout, weight: float
    ) -> Tensor:
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

"""Zeros in place of some elements, by bits: quicker than a product or a fill on a CPU, and no NaN survives."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

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

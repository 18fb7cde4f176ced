"""Dropout whose draws belong to a row of the global batch, wherever and however often it is computed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from vavl.models.draws import random_choices

_LEVELS = 256


class Dropout(nn.Module):
    """Dropout by a byte per element that the key of its row decides; see ``vavl.models.draws``.

    The probability is rounded to a multiple of 1/256 and the scale follows the rounded one, so the
    expectation is exact.

    Args:
        probability: of an element to become 0.
    """

    stream: int = 0
    """Tells the draws of this module from those of others under the same keys; see ``number_streams``."""

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability
        self._dropped_levels = round(probability * _LEVELS)

    def forward(self, values: Tensor, rows: Tensor | None) -> Tensor:
        """Return ``values`` with some elements 0 and the others scaled up.

        Args:
            values: (rows, ...). An element is known by its place within the row, in the order of memory: with
                time on the second axis no padding changes the draws of the frames before it.
            rows: (rows,), int64: key of each row; None for a pass without dropout.

        Returns:
            ``values`` themselves in evaluation and without keys.
        """
        if rows is None or not self.training or not self._dropped_levels:
            return values
        count = values[0].numel()
        is_kept = random_choices(rows, self.stream, count, self._dropped_levels).view(values.shape)
        scale = _LEVELS / (_LEVELS - self._dropped_levels)
        kept: Tensor = _Keep.apply(values, is_kept, scale)  # type: ignore[no-untyped-call]
        return kept

    def extra_repr(self) -> str:
        """Show the probability and the stream when the module is printed."""
        return f"probability={self.probability}, stream={self.stream}"


class _Keep(torch.autograd.Function):
    """Product with 0 or a scale. For the backward pass it keeps a byte per element, not a number of its precision."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, is_kept: Tensor, scale: float) -> Tensor:
        """Multiply ``values`` with ``scale`` where the byte of ``is_kept`` is 1, with 0 where it is 0."""
        ctx.save_for_backward(is_kept)
        ctx.scale = scale
        return _scaled(values, is_kept, scale)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        """Treat the gradient in the same way."""
        (is_kept,) = ctx.saved_tensors
        return _scaled(grad, is_kept, ctx.scale), None, None


def _scaled(values: Tensor, is_kept: Tensor, scale: float) -> Tensor:
    # From bytes, not bools: a CPU turns them into floating point six times as fast.
    return values * is_kept.to(values.dtype).mul_(scale)


class SequentialWithDropout(nn.Sequential):
    """A chain of layers that hands the keys of the rows to those that draw."""

    def forward(self, values: Tensor, rows: Tensor | None = None) -> Tensor:
        """Apply every layer in turn to (rows, ...); without keys nothing is dropped."""
        for layer in self:
            values = layer(values, rows) if isinstance(layer, Dropout) else layer(values)
        return values


def number_streams(network: nn.Module) -> None:
    """Give every Dropout of a network a stream of its own, by its place in the network."""
    drawing = [module for module in network.modules() if isinstance(module, Dropout)]
    for stream, module in enumerate(drawing):
        module.stream = stream

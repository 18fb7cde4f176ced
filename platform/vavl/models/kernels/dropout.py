"""Dropout whose draws belong to a row of the global batch, wherever and however often it is computed."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from vavl.models.kernels.draws import random_choices
from vavl.models.kernels.masking import keep, where_kept

_LEVELS = 256


class Dropout(nn.Module):
    """Dropout by a byte per element that the key of its row decides; see ``vavl.models.kernels.draws``.

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
        kept = self.kept(values, rows)
        return kept if kept is values else kept * self.scale(rows)

    def kept(self, values: Tensor, rows: Tensor | None) -> Tensor:
        """Return what ``forward`` does before it is scaled up, for callers who scale something smaller."""
        if rows is None or not self._draws(rows):
            return values
        return keep(values, _Choice(self.stream, self._dropped_levels).draw(rows, values))

    def added(self, frames: Tensor, extra: Tensor, rows: Tensor | None, weight: float = 1.0) -> Tensor:
        """Return ``frames`` + ``weight`` * ``forward(extra, rows)``, keeping nothing for the backward pass."""
        if not self._draws(rows):
            return torch.add(frames, extra, alpha=weight)
        total: Tensor = _Add.apply(  # type: ignore[no-untyped-call]
            frames, extra, rows, _Choice(self.stream, self._dropped_levels), weight * self.scale(rows)
        )
        return total

    def scale(self, rows: Tensor | None) -> float:
        """Return the factor by which ``forward`` scales up what it keeps."""
        return _LEVELS / (_LEVELS - self._dropped_levels) if self._draws(rows) else 1.0

    def _draws(self, rows: Tensor | None) -> bool:
        return rows is not None and self.training and self._dropped_levels > 0

    def extra_repr(self) -> str:
        """Show the probability and the stream when the module is printed."""
        return f"probability={self.probability}, stream={self.stream}"


class _Choice(NamedTuple):
    """Which elements are kept."""

    stream: int
    dropped_levels: int

    def draw(self, rows: Tensor, values: Tensor) -> Tensor:
        """Return int8 of the shape of ``values``: all bits set where an element is kept, else none."""
        chosen = random_choices(rows, self.stream, values[0].numel(), self.dropped_levels)
        return chosen.view(values.shape)


class _Add(torch.autograd.Function):
    """A sum whose second part is dropped; it draws once more in the backward pass."""

    @staticmethod
    def forward(
        ctx: Any, frames: Tensor, extra: Tensor, rows: Tensor, choice: _Choice, weight: float
    ) -> Tensor:
        """Add ``weight`` * some of ``extra`` to ``frames``, (rows, ...) both."""
        ctx.save_for_backward(rows)
        ctx.choice, ctx.weight, ctx.dtypes = choice, weight, (frames.dtype, extra.dtype)
        return torch.add(frames, where_kept(extra, choice.draw(rows, extra)), alpha=weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        """Hand the gradient on to both."""
        (rows,) = ctx.saved_tensors
        of_frames, of_extra = (grad.to(dtype) for dtype in ctx.dtypes)
        return of_frames, where_kept(of_extra, ctx.choice.draw(rows, grad)) * ctx.weight, None, None, None


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

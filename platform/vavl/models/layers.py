"""Layers of our own: padding that leaves no trace, and dropout whose draws belong to a row of the global batch."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vavl.models.draws import random_choices


def without_padding(frames: Tensor, is_real: Tensor) -> Tensor:
    """Return (batch, time, channel) with zeros where ``is_real`` (batch, time) is False, whatever was there."""
    # Filling, not multiplying: even infinite padding leaves no trace.
    return frames.masked_fill(~is_real.unsqueeze(-1), 0)


def masked_mean(frames: Tensor, is_real: Tensor) -> Tensor:
    """Average each clip over its real frames.

    Args:
        frames: (batch, time, channel), floating point.
        is_real: (batch, time), bool; False where the frame is padding.

    Returns:
        (batch, channel); padding and batch-mates never change a clip's row.
    """
    total = without_padding(frames, is_real).sum(dim=1)
    # A clip of padding only would divide by zero; it comes out as zeros instead.
    return total / is_real.sum(dim=1, keepdim=True).clamp_min(1).to(frames.dtype)


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
        if rows is None or not self.is_on(rows):
            return values
        return torch.where(self.choices(rows, values) != 0, values, 0) * self.scale(rows)

    def is_on(self, rows: Tensor | None) -> bool:
        """Tell whether a pass with these keys drops anything."""
        return rows is not None and self.training and self._dropped_levels > 0

    def scale(self, rows: Tensor | None) -> float:
        """Return the factor by which ``forward`` scales up what it keeps."""
        return _LEVELS / (_LEVELS - self._dropped_levels) if self.is_on(rows) else 1.0

    def choices(self, rows: Tensor, values: Tensor) -> Tensor:
        """Return int8 of the shape of ``values``: -1 (all bits set) where an element is kept, else 0."""
        chosen = random_choices(rows, self.stream, values[0].numel(), self._dropped_levels)
        return chosen.view(values.shape)

    def extra_repr(self) -> str:
        """Show the probability and the stream when the module is printed."""
        return f"probability={self.probability}, stream={self.stream}"


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

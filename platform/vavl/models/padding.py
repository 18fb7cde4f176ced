"""Frames of padding: left out of sums, and set to zero where a layer would mix them with real ones."""

from __future__ import annotations

from torch import Tensor


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

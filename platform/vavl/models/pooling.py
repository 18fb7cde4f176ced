"""Pooling over the real frames of a clip."""

from __future__ import annotations

from torch import Tensor


def masked_mean(frames: Tensor, is_real: Tensor) -> Tensor:
    """Average each clip over its real frames.

    Args:
        frames: (batch, time, channel), floating point.
        is_real: (batch, time), bool; False where the frame is padding.

    Returns:
        (batch, channel); padding and batch-mates never change a clip's row.
    """
    # Filling, not multiplying: even infinite padding leaves no trace.
    total = frames.masked_fill(~is_real.unsqueeze(-1), 0).sum(dim=1)
    # A clip of padding only would divide by zero; it comes out as zeros instead.
    return total / is_real.sum(dim=1, keepdim=True).clamp_min(1).to(frames.dtype)

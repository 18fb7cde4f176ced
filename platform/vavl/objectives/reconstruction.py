"""Unimodal reconstruction: the mean input frame of a clip from its representation.

Gradient goes to the reconstruction only; the target carries none.
"""

from __future__ import annotations

from torch import Tensor


def reconstruction_error_sum(estimate: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Sum over clips the squared error averaged over channels (VAVL, section III-C).

    Args:
        estimate: (clips, channel) of the reconstruction.
        target: (clips, channel), masked mean over time of the normalized input.
        weight: (clips,), 0 for rows that only fill up.

    Returns:
        Scalar, float32: to be divided by the global sum of the weights.
    """
    per_clip = (estimate.float() - target.detach().float()).square().mean(dim=-1)
    return (per_clip * weight).masked_fill(weight <= 0, 0).sum()

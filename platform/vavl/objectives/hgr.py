"""Soft-HGR maximal correlation between audio, video and label (Wang et al., AAAI 2019; Ma et al. 2020).

soft_hgr(F, G) = tr(F'G) / n - 1/2 <F'F / n, G'G / n>, F and G centred by their mean over the global
batch, n = rows - 1. No whitening and no normalized features; the second term stands in for both. All of it
follows from moments that add up over ranks and micro-batches, so the value is that of the pooled batch.

Gradient goes to both modalities.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vavl.objectives.moments import Moments, linked_moments


def correlation_moments(first: Tensor, second: Tensor, weight: Tensor) -> dict[str, Tensor]:
    """Sum what soft-HGR needs over rows that have both modalities; (...) are several pairs of functions at once.

    Args:
        first: (..., rows, K), f of each row.
        second: (..., rows, K), g of the same rows.
        weight: (..., rows), 1, or 0 where a modality is missing.

    Returns:
        Float64: ``count`` (...); ``sums`` (2, ..., K) and ``squares`` (2, ..., K, K) of f and of g; ``fg`` (...), the
        sum of f'g.
    """
    # Outside autocast and in float64: centring by moments cancels digits.
    with torch.autocast(first.device.type, enabled=False):
        sides = torch.stack((first, second)).double().masked_fill(weight.unsqueeze(-1) <= 0, 0)
        f, g = sides.unbind()
        return {
            "count": weight.double().sum(-1),
            "sums": sides.sum(-2),
            "squares": sides.mT @ sides,
            "fg": (f * g).sum((-2, -1)),
        }


def soft_hgr(moments: Moments) -> Tensor:
    """Return soft-HGR (...) from moments; 0 with fewer than two rows.

    At most min(K, rows - 1) / 2, which independent data reach too when rows are few: keep K well below
    their number.

    Args:
        moments: of ``correlation_moments``, summed over everything that belongs together.
    """
    rows = moments["count"].clamp_min(2)
    sums = moments["sums"]
    f, g = sums.unbind()
    shared = moments["fg"] - (f * g).sum(-1) / rows
    outer = sums.unsqueeze(-1) * (sums / rows.unsqueeze(-1)).unsqueeze(-2)
    first, second = (moments["squares"] - outer).unbind()
    value = shared / (rows - 1) - 0.5 * (first * second).sum((-2, -1)) / (rows - 1) ** 2
    return value.masked_fill(moments["count"] < 2, 0)


def soft_hgr_loss(global_moments: Moments, local_moments: Moments) -> Tensor:
    """Return -soft_hgr (...) of the global batch, with the local part's gradient."""
    joined = linked_moments(global_moments, local_moments)
    return -soft_hgr(joined).float()

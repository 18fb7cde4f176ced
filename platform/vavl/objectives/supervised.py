"""Task losses: cross-entropy for classes, 1 - CCC for attributes, squared error for attributes that a teacher gives.

Gradient goes to the logits or predictions only.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vavl.objectives.moments import Moments, linked_moments

_TINY = 1e-8


def cross_entropy_sum(logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Sum the cross-entropy over the clips with weight.

    Args:
        logits: (..., clips, classes).
        target: (clips, classes), class probabilities; one-hot for a hard label, votes for a soft one.
        weight: (..., clips), 0 for clips without a label that counts.

    Returns:
        (...), float32: the sum, to be divided by the global sum of the weights.
    """
    per_clip = -(torch.log_softmax(logits.float(), dim=-1) * target).sum(-1)
    # Filled, not multiplied: a filler's logit may be anything finite, and 0 * inf is NaN.
    return (per_clip * weight).masked_fill(weight <= 0, 0).sum(-1)


def squared_error_sum(prediction: Tensor, target: Tensor, weight: Tensor, variance: Tensor) -> Tensor:
    """Sum over the clips with weight, and over attributes, half the squared error in units of the label's variance.

    Where prediction and target vary as labels do and have one mean, its average over clips is 1 - CCC.

    Args:
        prediction: (..., clips, attributes).
        target: (clips, attributes).
        weight: (..., clips), 0 for clips that do not count.
        variance: (attributes,).

    Returns:
        (...), float32: the sum, to be divided by the global number of clips.
    """
    per_clip = ((prediction.float() - target).square() / (2 * variance)).sum(-1)
    return (per_clip * weight).masked_fill(weight <= 0, 0).sum(-1)


def concordance_moments(prediction: Tensor, target: Tensor, weight: Tensor) -> dict[str, Tensor]:
    """Sum what the concordance correlation needs, per attribute.

    Args:
        prediction: (..., clips, attributes).
        target: (clips, attributes).
        weight: (..., clips), 0 for clips that do not count.

    Returns:
        ``count`` (...) and the sums ``p``, ``y``, ``pp``, ``yy``, ``py`` (..., attributes), float64.
    """
    column = weight.double().unsqueeze(-1)
    p = torch.where(column > 0, prediction.double(), 0.0)
    y = torch.where(column > 0, target.double(), 0.0)
    return {
        "count": column.sum((-2, -1)),
        "p": (column * p).sum(-2),
        "y": (column * y).sum(-2),
        "pp": (column * p * p).sum(-2),
        "yy": (column * y * y).sum(-2),
        "py": (column * p * y).sum(-2),
    }


def concordance(moments: Moments) -> Tensor:
    """Return Lin's concordance correlation coefficient from moments (Lin, Biometrics 1989).

    CCC = 2 cov(p, y) / (var p + var y + (mean p - mean y)^2), population moments. A constant
    prediction or target gives 0 with finite gradients, as do fewer than two clips.

    Args:
        moments: of ``concordance_moments``, summed over everything that belongs together.

    Returns:
        (..., attributes), at most |Pearson's r|.
    """
    n = moments["count"].clamp_min(1).unsqueeze(-1)
    mean_p, mean_y = moments["p"] / n, moments["y"] / n
    covariance = moments["py"] / n - mean_p * mean_y
    spread = moments["pp"] / n - mean_p**2 + moments["yy"] / n - mean_y**2 + (mean_p - mean_y) ** 2
    return 2 * covariance / (spread + _TINY)


def concordance_loss(global_moments: Moments, local_moments: Moments) -> Tensor:
    """Return the sum over attributes of 1 - CCC of the global batch (...), with the local part's gradient.

    A global batch with fewer than two clips gives 0: there is nothing to correlate.
    """
    joined = linked_moments(global_moments, local_moments)
    loss = (1 - concordance(joined)).sum(-1).float()
    return torch.where(joined["count"] >= 2, loss, 0.0 * loss)

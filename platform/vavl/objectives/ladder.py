"""Cost of the cross-modal ladder: how well the clean layers were rebuilt (Rasmus et al. 2015, eq. 8).

Both the clean layer and its estimate are normalized by the mean and deviation, per channel, of the clean
layer over the real frames of the global batch, the variance being at least 0.01 (inputs and blocks come
normalized); the means cancel in the difference. Per clip the squared difference is averaged over real
frames, then over the clips of the global batch that have the modality.

Gradient goes to the estimate, and to the clean layers as well where they are not detached.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from vavl.data.batch import ModalityBatch
from vavl.models.conformer import without_padding
from vavl.models.vavl import LadderTrace
from vavl.objectives.moments import Moments, linked_moments

_LEAST_VARIANCE = 0.01
"""A channel that hardly varies over a batch, such as an action unit that nobody shows, would drown all others."""


def ladder_moments(trace: LadderTrace, clips: ModalityBatch) -> dict[str, Tensor]:
    """Sum what the cost needs of one modality.

    Args:
        trace: clean layers and their estimates.
        clips: masks and weights of the rows.

    Returns:
        Float64 ``clips`` () and ``frames`` (), and per layer l ``l/error`` (D,) and ``l/clean`` (2, D), the sums of
        the clean layer and of its square.
    """
    real = clips.is_real & (clips.weight > 0).unsqueeze(-1)
    frames = real.sum(dim=1, keepdim=True).clamp_min(1)
    # The channels of all layers side by side: every sum is one operator.
    target = without_padding(torch.cat(trace.clean, dim=-1).float(), real)
    error = without_padding(torch.cat(trace.estimate, dim=-1).float() - target, real)
    # Within a clip in float32, which is several times as quick; a clip's sums are the same on any rank.
    clean = torch.stack((target.sum(dim=1), target.square().sum(dim=1)))
    sums = {"error": error.square().sum(dim=1) / frames, "clean": clean}
    moments = {"clips": clips.weight.double().sum(), "frames": real.double().sum()}
    for name, of_clips in sums.items():
        layers = torch.split(of_clips.double().sum(dim=-2), [layer.shape[-1] for layer in trace.clean], dim=-1)
        moments |= {f"{number}/{name}": layer for number, layer in enumerate(layers)}
    return moments


def ladder_cost(moments: Moments, layer_weights: Sequence[float]) -> Tensor:
    """Return the weighted sum over layers of the mean normalized squared error; 0 without any clip.

    Args:
        moments: of ``ladder_moments``, summed over everything that belongs together.
        layer_weights: input first.
    """
    clips, frames = moments["clips"].clamp_min(1), moments["frames"].clamp_min(1)
    numbers = range(len(layer_weights))
    errors = [moments[f"{number}/error"] for number in numbers]
    mean, square = (torch.cat([moments[f"{number}/clean"] for number in numbers], dim=-1) / frames).unbind()
    variance = (square - mean.square()).clamp_min(_LEAST_VARIANCE)
    shares = _shares(tuple(layer_weights), tuple(map(len, errors)), clips.device)
    return (torch.cat(errors) / variance * shares).sum() / clips


@lru_cache
def _shares(layer_weights: tuple[float, ...], widths: tuple[int, ...], device: torch.device) -> Tensor:
    """Return what each channel of all layers counts."""
    each = [weight / width for weight, width in zip(layer_weights, widths, strict=True) for _ in range(width)]
    return torch.tensor(each, dtype=torch.float64, device=device)


def ladder_loss(global_moments: Moments, local_moments: Moments, layer_weights: Sequence[float]) -> Tensor:
    """Return the cost of the global batch, with the local part's gradient."""
    joined = linked_moments(global_moments, local_moments)
    return ladder_cost(joined, layer_weights).float()

"""Cost of the cross-modal ladder: how well the clean layers were rebuilt (Rasmus et al. 2015, eq. 8).

Both the clean layer and its estimate are normalized by the mean and deviation, per channel, of the clean
layer over the real frames of the global batch, the variance being at least 0.01 (inputs and blocks come
normalized); the means cancel in the difference. Per clip the squared difference is averaged over real
frames, then over the clips of the global batch that have the modality.

Gradient goes to the estimate, and to the clean layers as well where they are not detached.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from vavl.data.batch import ModalityBatch
from vavl.models.draws import keep
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
        Float64 ``clips`` () and ``frames`` (), and per layer l ``l/error``, ``l/sum``, ``l/square`` (D,).
    """
    real = (clips.is_real & (clips.weight > 0).unsqueeze(-1)).unsqueeze(-1)
    frames = real.sum(dim=1).clamp_min(1)
    moments = {"clips": clips.weight.double().sum(), "frames": real.double().sum()}
    for number, (clean, estimate) in enumerate(zip(trace.clean, trace.estimate, strict=True)):
        target = keep(clean.float(), real)
        error = keep(estimate.float() - target, real)
        # Within a clip in float32, which is several times as quick; a clip's sums are the same on any rank.
        sums = {"error": error.square().sum(dim=1) / frames, "sum": target.sum(dim=1)}
        sums["square"] = target.square().sum(dim=1)
        moments |= {f"{number}/{name}": of_clips.double().sum(dim=0) for name, of_clips in sums.items()}
    return moments


def ladder_cost(moments: Moments, layer_weights: Sequence[float]) -> Tensor:
    """Return the weighted sum over layers of the mean normalized squared error; 0 without any clip.

    Args:
        moments: of ``ladder_moments``, summed over everything that belongs together.
        layer_weights: input first.
    """
    clips, frames = moments["clips"].clamp_min(1), moments["frames"].clamp_min(1)
    cost = moments["clips"] * 0.0
    for number, weight in enumerate(layer_weights):
        mean = moments[f"{number}/sum"] / frames
        variance = (moments[f"{number}/square"] / frames - mean.square()).clamp_min(_LEAST_VARIANCE)
        cost = cost + weight * (moments[f"{number}/error"] / variance).mean() / clips
    return cost


def ladder_loss(global_moments: Moments, local_moments: Moments, layer_weights: Sequence[float]) -> Tensor:
    """Return the cost of the global batch, with the local part's gradient."""
    joined = linked_moments(global_moments, local_moments)
    return ladder_cost(joined, layer_weights).float()

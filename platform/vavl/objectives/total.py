"""The weighted sum of all objectives of a micro-batch, normalised over the global batch.

Every part is scaled such that its sum over all ranks and micro-batches is the loss of the global
batch. The engine must therefore add gradients up, not average them (``training/engine.py``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from vavl.data.batch import ClipBatch, ModalityBatch
from vavl.metrics.names import AUDIO, AUDIO_VIDEO, VIDEO
from vavl.models.pooling import masked_mean
from vavl.models.settings import AttributeTask, ClassTask, Task
from vavl.models.vavl import VavlOutput
from vavl.objectives.moments import Moments
from vavl.objectives.reconstruction import reconstruction_error_sum
from vavl.objectives.settings import ObjectiveSettings
from vavl.objectives.supervised import concordance_loss, concordance_moments, cross_entropy_sum


@dataclass(frozen=True)
class Prediction:
    """What one condition predicts, and which clips count for it.

    Attributes:
        logits: (rows, outputs).
        target: (rows, outputs).
        weight: (rows,), 1 where the clip has the condition's modalities and a label.
    """

    logits: Tensor
    target: Tensor
    weight: Tensor


def predictions(output: VavlOutput, batch: ClipBatch) -> dict[str, Prediction]:
    """Gather the predictions of a batch by condition."""
    both = batch.has_audio * batch.has_video * batch.is_labelled
    return {
        AUDIO_VIDEO: Prediction(output.fusion_logits, batch.target, both),
        AUDIO: _of_modality(output.audio.logits, batch.audio, batch),
        VIDEO: _of_modality(output.video.logits, batch.video, batch),
    }


def needs_first_pass(task: Task) -> bool:
    """Tell whether a loss depends on moments of the network's output over the global batch.

    Counts are known from the batch alone; CCC's moments are not, and with several micro-batches they
    need a first pass without gradient.
    """
    return isinstance(task, AttributeTask)


def batch_moments(output: VavlOutput | None, batch: ClipBatch, task: Task) -> dict[str, Tensor]:
    """Sum over one micro-batch what the objectives need of the global batch.

    Args:
        output: the network's output; None when ``needs_first_pass`` is False.
        batch: the micro-batch.
        task: what is predicted.

    Returns:
        Float64 sums by name, to be added over micro-batches and ranks.
    """
    moments = {
        f"{AUDIO}/clips": batch.audio.weight.double().sum(),
        f"{VIDEO}/clips": batch.video.weight.double().sum(),
        f"{AUDIO}/labelled": (batch.has_audio * batch.is_labelled).double().sum(),
        f"{VIDEO}/labelled": (batch.has_video * batch.is_labelled).double().sum(),
        f"{AUDIO_VIDEO}/labelled": (batch.has_audio * batch.has_video * batch.is_labelled).double().sum(),
    }
    if output is not None and isinstance(task, AttributeTask):
        for condition, predicted in predictions(output, batch).items():
            sums = concordance_moments(predicted.logits, predicted.target, predicted.weight)
            moments |= {f"{condition}/ccc/{name}": value for name, value in sums.items()}
    return moments


def objective_parts(
    output: VavlOutput,
    batch: ClipBatch,
    task: Task,
    settings: ObjectiveSettings,
    global_moments: Moments,
    parts: int,
) -> dict[str, Tensor]:
    """Return the unweighted parts of the objective.

    Args:
        output: of this micro-batch.
        batch: this micro-batch.
        task: classes or attributes.
        settings: label smoothing.
        global_moments: ``batch_moments`` added over all micro-batches and ranks.
        parts: number of micro-batches of the global batch over all ranks.

    Returns:
        Scalars by name; each, summed over all micro-batches and ranks, is the part's global value.
    """
    losses: dict[str, Tensor] = {}
    for condition, predicted in predictions(output, batch).items():
        match task:
            case ClassTask():
                smooth = _smoothed(predicted.target, settings.supervised.label_smoothing)
                total = cross_entropy_sum(predicted.logits, smooth, predicted.weight)
                losses[f"supervised/{condition}"] = _mean(total, global_moments[f"{condition}/labelled"])
            case AttributeTask():
                local = concordance_moments(predicted.logits, predicted.target, predicted.weight)
                together = {name: global_moments[f"{condition}/ccc/{name}"] for name in local}
                losses[f"supervised/{condition}"] = _shared_value(concordance_loss(together, local), parts)
    for name, modality, path in ((AUDIO, batch.audio, output.audio), (VIDEO, batch.video, output.video)):
        target = masked_mean(modality.values, modality.is_real)
        total = reconstruction_error_sum(path.reconstruction, target, modality.weight)
        losses[f"reconstruction/{name}"] = _mean(total, global_moments[f"{name}/clips"])
    return losses


def weighted_sum(parts: Mapping[str, Tensor], settings: ObjectiveSettings) -> Tensor:
    """Return the objective to call backward on: every part by its weight."""
    weights = {"supervised": settings.supervised.weight, "reconstruction": settings.reconstruction.weight}
    return torch.stack([weights[name.split("/")[0]] * part for name, part in parts.items()]).sum()


def _of_modality(logits: Tensor, modality: ModalityBatch, batch: ClipBatch) -> Prediction:
    weight = modality.weight * batch.is_labelled[modality.clip]
    return Prediction(logits, batch.target[modality.clip], weight)


def _mean(total: Tensor, count: Tensor) -> Tensor:
    # No clip of the global batch carries the loss: the part is 0 and so is its gradient.
    return total / count.clamp_min(1).to(total.dtype)


def _shared_value(loss: Tensor, parts: int) -> Tensor:
    """Let a value that every part computes whole count once in the sum, with its gradient intact."""
    return loss.detach() / parts + (loss - loss.detach())


def _smoothed(target: Tensor, smoothing: float) -> Tensor:
    return target * (1 - smoothing) + smoothing / target.shape[-1] if smoothing else target

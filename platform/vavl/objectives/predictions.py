"""What each condition predicts of a batch, and which clips count for it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vavl.data.batch import ClipBatch
from vavl.metrics.names import AUDIO, AUDIO_VIDEO, VIDEO
from vavl.models.vavl import VavlOutput


@dataclass(frozen=True)
class Prediction:
    """The predictions of one condition.

    Attributes:
        logits: (rows, outputs).
        clip: (rows,), int64: place of each row among the clips of the batch.
        weight: (rows,), 1 where the clip has the condition's modalities, and a label if it needs one.
    """

    logits: Tensor
    clip: Tensor
    weight: Tensor


def predictions(output: VavlOutput, batch: ClipBatch, *, labelled_only: bool = True) -> dict[str, Prediction]:
    """Gather the predictions of a batch by condition."""
    counts = batch.is_labelled if labelled_only else torch.ones_like(batch.is_labelled)
    everywhere = torch.arange(batch.clips, device=batch.index.device)
    return {
        AUDIO_VIDEO: Prediction(output.fusion_logits, everywhere, batch.has_audio * batch.has_video * counts),
        AUDIO: Prediction(output.audio.logits, batch.audio.clip, batch.audio.weight * counts[batch.audio.clip]),
        VIDEO: Prediction(output.video.logits, batch.video.clip, batch.video.weight * counts[batch.video.clip]),
    }

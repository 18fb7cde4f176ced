"""What each condition predicts of a batch, and which clips count for it: CONDITIONS side by side, in their order."""

from __future__ import annotations

import torch
from torch import Tensor

from vavl.data.batch import ClipBatch
from vavl.models.vavl import VavlOutput, spread


def predictions(output: VavlOutput, batch: ClipBatch) -> Tensor:
    """Return logits (conditions, clips, outputs); they mean something where ``conditions_there`` is 1."""
    sides = ((output.audio.logits, batch.audio.clip), (output.video.logits, batch.video.clip))
    return torch.stack([output.fusion_logits, *(spread(logits, clip, batch.clips) for logits, clip in sides)])


def conditions_there(batch: ClipBatch) -> Tensor:
    """Return (conditions, clips), 1 where the clip has the modalities of the condition, else 0."""
    return torch.stack((batch.has_audio * batch.has_video, batch.has_audio, batch.has_video))

"""The VAVL network (Goncalves et al., arXiv 2305.07216, IEEE TAFFC).

Axes: A clips with audio, V clips with video, N clips of the batch, T frames, C classes or attributes.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from vavl.data.batch import ClipBatch, ModalityBatch
from vavl.models.conformer import ConformerBlock
from vavl.models.dropout import Dropout
from vavl.models.pooling import masked_mean
from vavl.models.settings import NetworkSettings


class ModalityOutput(NamedTuple):
    """What one modality's path gives for its clips."""

    representation: Tensor
    """(clips of the modality, width): masked mean over time."""
    logits: Tensor
    """(clips of the modality, C) of the unimodal head."""
    reconstruction: Tensor
    """(clips of the modality, input channels): estimate of the mean input frame."""


class VavlOutput(NamedTuple):
    """What the network gives for a batch."""

    audio: ModalityOutput
    video: ModalityOutput
    fusion_logits: Tensor
    """(N, C); meaningful where a clip has both modalities, finite elsewhere."""


class Vavl(nn.Module):
    """Predict from audio and video, audio alone or video alone, in one forward per modality.

    Both unimodal heads and reconstructions train their encoder and the shared blocks; the fusion
    head reads detached representations, so its loss trains the fusion head alone.

    Args:
        settings: sizes.
        audio_width: channels of an audio frame.
        video_width: channels of a video frame.
        outputs: numbers predicted per clip (classes or attributes).
    """

    def __init__(self, settings: NetworkSettings, audio_width: int, video_width: int, outputs: int) -> None:
        super().__init__()
        self.audio_path = ModalityPath(settings, audio_width, outputs)
        self.video_path = ModalityPath(settings, video_width, outputs)
        self.shared = SharedBlocks(settings)
        self.fusion_head = feed_forward_head(2 * settings.width, outputs, settings)

    def forward(self, batch: ClipBatch) -> VavlOutput:
        """Run both modality paths and the fusion head; every module runs for every batch."""
        audio = self.audio_path(batch.audio, self.shared)
        video = self.video_path(batch.video, self.shared)
        both = torch.cat(
            (
                _spread(audio.representation.detach(), batch.audio.clip, batch.clips),
                _spread(video.representation.detach(), batch.video.clip, batch.clips),
            ),
            dim=-1,
        )
        return VavlOutput(audio, video, self.fusion_head(both))


class ModalityPath(nn.Module):
    """Projection, Conformer blocks, head and reconstruction of one modality."""

    def __init__(self, settings: NetworkSettings, input_width: int, outputs: int) -> None:
        super().__init__()
        self.projection = nn.Linear(input_width, settings.width)
        self.input_dropout = Dropout(settings.input_dropout)
        self.blocks = nn.ModuleList(ConformerBlock(settings) for _ in range(settings.modality_blocks))
        self.head = feed_forward_head(settings.width, outputs, settings)
        self.reconstruct = feed_forward_head(settings.width, input_width, settings)

    def forward(self, clips: ModalityBatch, shared: SharedBlocks) -> ModalityOutput:
        """Encode the clips of this modality; ``shared`` holds the blocks common to both modalities."""
        dtype = self.projection.weight.dtype
        values = clips.values.masked_fill(~clips.is_real.unsqueeze(-1), 0).to(dtype)
        frames = self.input_dropout(self.projection(values))
        for block in self.blocks:
            frames = block(frames, clips.is_real)
        representation = masked_mean(shared(frames, clips.is_real), clips.is_real)
        return ModalityOutput(representation, self.head(representation), self.reconstruct(representation))


class SharedBlocks(nn.Module):
    """The Conformer blocks that see each modality in turn: h = LayerNorm(S(x) + x)."""

    def __init__(self, settings: NetworkSettings) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(ConformerBlock(settings) for _ in range(settings.shared_blocks))
        self.norm = nn.LayerNorm(settings.width)

    def forward(self, frames: Tensor, is_real: Tensor) -> Tensor:
        """Map (batch, time, channel) to the same shape."""
        mixed = frames
        for block in self.blocks:
            mixed = block(mixed, is_real)
        normalised: Tensor = self.norm(mixed + frames)
        return normalised


def feed_forward_head(input_width: int, outputs: int, settings: NetworkSettings) -> nn.Sequential:
    """Two hidden layers with dropout after the first, as heads and reconstructions share them."""
    first, second = settings.head_widths
    return nn.Sequential(
        nn.Linear(input_width, first),
        nn.ReLU(),
        Dropout(settings.head_dropout),
        nn.Linear(first, second),
        nn.ReLU(),
        nn.Linear(second, outputs),
    )


def parameter_count(network: nn.Module) -> int:
    """Count all parameters of a network."""
    return sum(parameter.numel() for parameter in network.parameters())


def _spread(rows: Tensor, clip: Tensor, clips: int) -> Tensor:
    """Put the row of each clip at its place among all clips; clips without the modality get zeros."""
    return rows.new_zeros(clips, rows.shape[1]).index_copy(0, clip, rows)

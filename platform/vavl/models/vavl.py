"""The VAVL network (Goncalves et al., arXiv 2305.07216, IEEE TAFFC).

Axes: A clips with audio, V clips with video, N clips of the batch, T frames, C classes or attributes,
K correlation size.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from vavl.data.batch import ClipBatch
from vavl.errors import InputError
from vavl.models import gpu
from vavl.models.conformer import (
    ConformerBlocks,
    Frames,
    Pooling,
    Subsampling,
    frames_of,
    mean_and_deviation,
    number_streams,
    with_noise,
    without_padding,
)
from vavl.models.cpu import recomputed
from vavl.models.draws import DrawKey, Dropout, SequentialWithDropout, keys_of_rows
from vavl.models.settings import NetworkSettings

TRAINING_PREFIXES = ("ladder.", "contrast.")
"""Starts of the names of weights that only training needs."""

_AUDIO, _VIDEO, _BOTH = 0, 1, 2
# Adam moves any number by about the learning rate a step: without it, hundreds of steps would leave the shares equal.
_PACE_OF_SHARES = 30.0


class ModalityOutput(NamedTuple):
    """What one modality's path gives for its clips."""

    representation: Tensor
    """(clips of the modality, width): masked mean over time."""
    logits: Tensor
    """(clips of the modality, C) of the unimodal head."""
    reconstruction: Tensor
    """(clips of the modality, input channels): estimate of the mean input frame."""
    correlation: Tensor
    """(clips of the modality, K): the functions f and g of soft-HGR."""


class Encoding(NamedTuple):
    """What one pass of a modality's encoder gives."""

    representation: Tensor
    """(rows, width): the last layer, pooled over time."""
    layers: tuple[Tensor, ...]
    """(rows, T, D) each, padding undefined: the input frames, then, subsampled, the output of every block."""


class LadderTrace(NamedTuple):
    """The layers of one modality: clean, and as the decoder rebuilt them from the noisy pass."""

    clean: tuple[Tensor, ...]
    estimate: tuple[Tensor, ...]


class LadderOutput(NamedTuple):
    """What the ladder rebuilt, by modality."""

    audio: LadderTrace
    video: LadderTrace


class VavlOutput(NamedTuple):
    """What the network gives for a batch."""

    audio: ModalityOutput
    video: ModalityOutput
    fusion_logits: Tensor
    """(N, C); meaningful where a clip has both modalities, finite elsewhere."""
    label_correlation: Tensor
    """(N, K): the function h of soft-HGR; meaningful where a clip has a label."""
    ladder: LadderOutput | None = None
    contrast: tuple[Tensor, Tensor] | None = None
    """(clips of the modality, K) of audio and of video: embeddings that the contrastive objective compares."""
    weak: VavlOutput | None = None
    """Of the batch's weak view, without noise, dropout and gradient, where a ladder's clean pass took it along."""


class Vavl(nn.Module):
    """Predict from audio and video, audio alone or video alone, in one forward per modality.

    Both unimodal heads and reconstructions train their encoder and the shared blocks; the fusion
    head reads detached representations, so its loss trains the fusion head alone.

    Args:
        settings: sizes.
        audio_width: channels of an audio frame.
        video_width: channels of a video frame.
        outputs: numbers predicted per clip (classes or attributes).
        activation_checkpointing: compute the Conformer blocks once more in the backward pass instead of
            keeping what is within them: less memory, more time, the same numbers.
        layers: that lie side by side in an audio and in a video frame, and are weighted; 1 for a plain frame.
    """

    weights_side_by_side = False
    """Set on a GPU by an engine that holds whole weights: fewer operators, a copy more; see ``vavl.models.gpu``."""

    def __init__(
        self,
        settings: NetworkSettings,
        audio_width: int,
        video_width: int,
        outputs: int,
        activation_checkpointing: bool = False,
        layers: tuple[int, int] = (1, 1),
    ) -> None:
        super().__init__()
        self.head_width = settings.width // settings.attention_heads
        self.audio_path, self.video_path = (
            ModalityPath(settings, width, outputs, activation_checkpointing, count)
            for width, count in zip((audio_width, video_width), layers, strict=True)
        )
        self.shared = SharedBlocks(settings, activation_checkpointing)
        self.fusion_head = feed_forward_head(2 * settings.width, outputs, settings)
        self.correlate_label = CorrelationFunction(outputs, settings.correlation_size)
        self.contrast = nn.ModuleDict()
        number_streams(self)

    def add_contrast(self, size: int) -> None:
        """Add the linear projections to ``size`` channels that the contrastive objective compares."""
        width = self.shared.norm.normalized_shape[0]
        self.contrast = nn.ModuleDict({name: CorrelationFunction(width, size) for name in ("audio", "video")})

    def forward(self, batch: ClipBatch, key: DrawKey | None = None) -> VavlOutput:
        """Run both modality paths and the fusion head; every module runs for every batch.

        Args:
            batch: the clips.
            key: of the step, in every training pass. It decides all random draws; without one there are none.

        Raises:
            InputError: a training pass without key.
        """
        if key is None and self.training:
            raise InputError(
                "network", "key", "is missing in training mode, so that nothing could be drawn",
                "pass DrawKey(seed, step), or call eval() for a pass without dropout and noise",
            )  # fmt: skip
        if not self.weights_side_by_side:
            return self.run(batch, key)
        paths = (self.audio_path, self.video_path)
        parts = (part for path in paths for part in (path.projection, *path.blocks, path.head, path.reconstruct))
        with gpu.weights_side_by_side((*parts, self.fusion_head), self.shared.blocks):
            return self.run(batch, key)

    def run(self, batch: ClipBatch, key: DrawKey | None) -> VavlOutput:
        """Do what ``forward`` does, with the weights as they lie."""
        rows = keys_of_batch(batch, key)
        audio = self.encode(self.audio_path, batch.audio.values, batch.audio.mask, rows.audio)
        video = self.encode(self.video_path, batch.video.values, batch.video.mask, rows.video)
        return self.predict(batch, rows, audio, video)

    def encode(
        self,
        path: ModalityPath,
        frames: Tensor,
        mask: Tensor | None,
        rows: Tensor | None,
        noise: Sequence[Tensor] | None = None,
    ) -> Encoding:
        """Encode the clips of a modality: its own blocks, the shared ones, mean over time.

        Args:
            path: of the modality.
            frames: (clips, time, input channel), normalized.
            mask: (clips, time), bool; False where the frame is padding; None where none is.
            rows: (clips,), key of each row for dropout; None without dropout.
            noise: (clips, time, channel) per layer, added to the input and after every block.
        """
        own = 1 + len(path.blocks)
        kept = None if mask is None else mask[:, :: path.stride]
        about = frames_of(frames[:, :: path.stride], self.head_width, kept)
        below: tuple[Tensor, ...] = path(frames, mask, rows, noise and noise[:own], about)
        added = noise[own:] if noise else [None] * len(self.shared.blocks)
        top, above = self.shared(below[-1], kept, rows, added, about)
        pooled = path.pool(top, kept)
        if path.input_statistics is not None:
            frames = path.weigh(without_padding(below[0], mask), mask)
            pooled = pooled + path.input_statistics(mean_and_deviation(frames, mask))
        return Encoding(pooled, (*below, *above))

    def predict(
        self, batch: ClipBatch, rows: RowKeys, audio_encoding: Encoding, video_encoding: Encoding
    ) -> VavlOutput:
        """Apply heads, reconstructions and correlation functions to what ``encode`` gave."""
        audio = self.audio_path.predict(audio_encoding.representation, rows.audio)
        video = self.video_path.predict(video_encoding.representation, rows.video)
        both = torch.cat(
            (
                spread(audio.representation.detach(), batch.audio.clip, batch.clips),
                spread(video.representation.detach(), batch.video.clip, batch.clips),
            ),
            dim=-1,
        )
        fused = gpu.call(self.fusion_head, both, rows.clip)
        found = VavlOutput(audio, video, fused, self.correlate_label(batch.target))
        if not self.contrast:
            return found
        sides = (self.contrast["audio"](audio.representation), self.contrast["video"](video.representation))
        return found._replace(contrast=sides)


class LayerWeights(nn.Module):
    """The mean of the layers that lie side by side in a frame, each with a learned weight (SUPERB, Yang et al. 2021).

    The weights are equal at first. No layer counts more for its size: input channels are normalized.
    """

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.layers = layers
        if layers > 1:
            self.logits = nn.Parameter(torch.zeros(layers))

    def forward(self, frames: Tensor, is_real: Tensor | None) -> Tensor:
        """Map (batch, time, layers * channel) to (batch, time, channel); of a single layer nothing changes."""
        if self.layers == 1:
            return frames
        each = without_padding(frames, is_real).reshape(*frames.shape[:-1], self.layers, -1)
        mean: Tensor = (each * self.shares().to(frames.dtype).unsqueeze(-1)).sum(dim=-2)
        return mean

    def shares(self) -> Tensor:
        """Return how much each layer counts, (layers,), float32, with a sum of 1."""
        return (_PACE_OF_SHARES * self.logits.float()).softmax(dim=0)


class ModalityPath(nn.Module):
    """Projection, Conformer blocks, head, reconstruction and correlation function of one modality."""

    def __init__(
        self,
        settings: NetworkSettings,
        input_width: int,
        outputs: int,
        activation_checkpointing: bool = False,
        layers: int = 1,
    ) -> None:
        super().__init__()
        self.widths = (input_width, *[settings.width] * (settings.ladder_layers - 1))
        self.weigh = LayerWeights(layers)
        self.projection = nn.Linear(input_width // layers, settings.width)
        self.input_dropout = Dropout(settings.input_dropout)
        self.blocks = ConformerBlocks(settings.modality_blocks, settings, activation_checkpointing)
        self.head = feed_forward_head(settings.width, outputs, settings)
        self.reconstruct = feed_forward_head(settings.width, input_width, settings)
        self.correlate = CorrelationFunction(settings.width, settings.correlation_size)
        self.stride = settings.subsampling
        self.subsample = Subsampling(settings.width, settings.subsampling)
        self.pool = Pooling(settings)
        statistics = 2 * input_width // layers
        self.input_statistics = nn.Linear(statistics, settings.width) if settings.input_statistics else None

    def forward(
        self,
        frames: Tensor,
        is_real: Tensor | None,
        rows: Tensor | None,
        noise: Sequence[Tensor] | None = None,
        about: Frames | None = None,
    ) -> tuple[Tensor, ...]:
        """Return the layers of this modality: the input frames, and the output of every block of its own.

        The arguments are those of ``Vavl.encode``, with the noise of these layers.
        """
        bottom = frames
        if noise:
            # A decoder reads this layer, and would multiply what lies in the padding by gradients of zero.
            bottom = with_noise(without_padding(frames, is_real), noise[0])
        projected = recomputed(self.project, self.weigh(bottom, is_real), is_real)
        projected = self.input_dropout(self.subsample(projected, is_real), rows)
        is_real = None if is_real is None else is_real[:, :: self.stride]
        added = noise[1:] if noise else [None] * len(self.blocks)
        layers = self.blocks(projected, is_real, rows, added, about)
        return (bottom, *layers)

    def project(self, frames: Tensor, is_real: Tensor | None) -> Tensor:
        """Map (clips, time, input channel) to (clips, time, width); padding counts as silence."""
        projected: Tensor = gpu.call(self.projection, without_padding(frames, is_real))
        return projected

    def predict(self, representation: Tensor, rows: Tensor | None) -> ModalityOutput:
        """Apply the head, the reconstruction and the correlation function to (clips, width)."""
        return ModalityOutput(
            representation,
            gpu.call(self.head, representation, rows),
            gpu.call(self.reconstruct, representation, rows),
            self.correlate(representation),
        )


class SharedBlocks(nn.Module):
    """The Conformer blocks that see each modality in turn: h = LayerNorm(S(x) + x)."""

    def __init__(self, settings: NetworkSettings, activation_checkpointing: bool = False) -> None:
        super().__init__()
        self.blocks = ConformerBlocks(settings.shared_blocks, settings, activation_checkpointing)
        self.norm = nn.LayerNorm(settings.width)

    def forward(
        self,
        frames: Tensor,
        is_real: Tensor | None,
        rows: Tensor | None,
        noise: Sequence[Tensor | None],
        about: Frames | None = None,
    ) -> tuple[Tensor, list[Tensor]]:
        """Map (batch, time, channel) to the same shape; also return the output of every block."""
        layers: list[Tensor] = self.blocks(frames, is_real, rows, noise, about)
        return self.norm(layers[-1] + frames), layers


def feed_forward_head(input_width: int, outputs: int, settings: NetworkSettings) -> SequentialWithDropout:
    """Two hidden layers with dropout after the first, as heads and reconstructions share them."""
    first, second = settings.head_widths
    return SequentialWithDropout(
        nn.Linear(input_width, first),
        nn.ReLU(),
        Dropout(settings.head_dropout),
        nn.Linear(first, second),
        nn.ReLU(),
        nn.Linear(second, outputs),
    )


class CorrelationFunction(nn.Linear):
    """One of the functions f, g, h of soft-HGR, or a projection for contrast; computes in float32: moments need it.

    It has no bias: soft-HGR centers, so a bias would get rounding errors for a gradient and AdamW would walk it.
    """

    def __init__(self, width: int, size: int) -> None:
        super().__init__(width, size, bias=False)

    def forward(self, values: Tensor) -> Tensor:
        """Map (rows, width) to (rows, size), float32 under autocast and with bf16 weights too."""
        kind = values.device.type
        # The meta device, on which operations are counted, has no autocast.
        with torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext():
            return functional.linear(values.float(), self.weight.float())


def parameter_count(network: nn.Module) -> int:
    """Count all parameters of a network."""
    return sum(parameter.numel() for parameter in network.parameters())


class RowKeys(NamedTuple):
    """Keys of the rows of a batch for dropout; all None without dropout."""

    audio: Tensor | None
    video: Tensor | None
    clip: Tensor | None


def keys_of_batch(batch: ClipBatch, key: DrawKey | None) -> RowKeys:
    """Key the rows; the modalities differ, as the shared blocks see one after the other."""
    if key is None:
        return RowKeys(None, None, None)
    audio, video, both = keys_of_rows(key, batch.place, _AUDIO, _VIDEO, _BOTH)
    return RowKeys(audio[batch.audio.clip], video[batch.video.clip], both)


def spread(rows: Tensor, clip: Tensor, clips: int) -> Tensor:
    """Put the row of each clip at its place among all clips; clips without the modality get zeros."""
    return rows.new_zeros(clips, rows.shape[1]).index_copy(0, clip, rows)

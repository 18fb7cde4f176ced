"""The Conformer block without BatchNorm, with rotary positions, safe against padding.

Axes: B clips, T frames, D channels, H heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from vavl.models.kernels.attention import attend
from vavl.models.kernels.depthwise import DepthwiseConvolution, depthwise
from vavl.models.kernels.dropout import Dropout
from vavl.models.kernels.linear import Linear, linear_of, normalised
from vavl.models.kernels.masking import keep
from vavl.models.settings import NetworkSettings

_FeedForwardLayers = tuple[nn.LayerNorm, nn.Linear, nn.SiLU, Dropout, nn.Linear, Dropout]


class FeedForward(nn.Sequential):
    """LayerNorm, expansion, Swish and projection back.

    The layers give names to the weights; ``forward`` reads them and calls none, so a change of Swish belongs there.
    """

    def __init__(self, settings: NetworkSettings) -> None:
        hidden = settings.width * settings.feed_forward_expansion
        super().__init__(
            nn.LayerNorm(settings.width),
            nn.Linear(settings.width, hidden),
            nn.SiLU(),
            Dropout(settings.dropout),
            nn.Linear(hidden, settings.width),
            Dropout(settings.dropout),
        )

    def forward(self, frames: Tensor, rows: Tensor | None = None, weight: float = 1.0) -> Tensor:
        """Return ``frames`` + ``weight`` * what the layers make of them.

        Args:
            frames: (batch, time, channel).
            rows: (batch,), key of each clip for dropout; None without dropout.
            weight: of what is added.
        """
        norm, expand, _, inner, project, outer = cast("_FeedForwardLayers", tuple(self))
        hidden = linear_of(normalised, frames, expand, parameters=(norm.weight, norm.bias))
        keys = () if rows is None else (rows,)
        mixed = linear_of(partial(_swish, inner), hidden, project, constants=keys, scale=inner.scale(rows))
        return outer.added(frames, mixed, rows, weight)


class RelativeAttention(nn.Module):
    """Multi-head self-attention over the real frames of one clip, with rotary positions."""

    def __init__(self, settings: NetworkSettings) -> None:
        super().__init__()
        self.heads = settings.attention_heads
        self.norm = nn.LayerNorm(settings.width)
        self.query_key_value = nn.Linear(settings.width, 3 * settings.width)
        self.output = Linear(settings.width, settings.width)
        self.dropout = Dropout(settings.dropout)

    def forward(self, frames: Tensor, is_real: Tensor, rows: Tensor | None = None) -> Tensor:
        """Return ``frames`` + what each of them gathers within its clip.

        Args:
            frames: (batch, time, channel).
            is_real: (batch, time), bool; padding is never attended to. Every clip needs a real frame.
            rows: (batch,), key of each clip for dropout; None without dropout.
        """
        trained = (self.norm.weight, self.norm.bias)
        joined = linear_of(normalised, frames, self.query_key_value, parameters=trained)
        # No dropout of the attention weights: it would rule out the fused kernels. The output has it.
        mixed = self.output(attend(joined, self.heads, is_real))
        return self.dropout.added(frames, mixed, rows)


class TimeConvolution(nn.Module):
    """Pointwise, GLU, depthwise over time, LayerNorm, Swish, pointwise.

    LayerNorm stands where the published block has BatchNorm, which mixes clips and modalities.
    """

    def __init__(self, settings: NetworkSettings) -> None:
        super().__init__()
        width, kernel = settings.width, settings.convolution_kernel
        self.norm = nn.LayerNorm(width)
        self.expand = nn.Linear(width, 2 * width)
        self.depthwise = DepthwiseConvolution(width, kernel)
        self.depthwise_norm = nn.LayerNorm(width)
        self.project = nn.Linear(width, width)
        self.dropout = Dropout(settings.dropout)

    def forward(self, frames: Tensor, is_real: Tensor, rows: Tensor | None = None) -> Tensor:
        """Return ``frames`` + their convolution within each clip, where padding counts as silence.

        Args:
            frames: (batch, time, channel).
            is_real: (batch, time), bool; False where the frame is padding.
            rows: (batch,), key of each clip for dropout; None without dropout.
        """
        norm, last = self.norm, self.depthwise_norm
        expanded = linear_of(normalised, frames, self.expand, parameters=(norm.weight, norm.bias))
        trained = (self.depthwise.weight, self.depthwise.bias, last.weight, last.bias)
        mixed = linear_of(
            _gated_convolution, expanded, self.project, parameters=trained, constants=(is_real,)
        )
        return self.dropout.added(frames, mixed, rows)


def _swish(dropout: Dropout, hidden: Tensor, rows: Tensor | None = None) -> Tensor:
    return dropout.kept(functional.silu(hidden), rows)


def _gated_convolution(
    expanded: Tensor, is_real: Tensor, weight: Tensor, bias: Tensor, norm_weight: Tensor, norm_bias: Tensor
) -> Tensor:
    gated = keep(functional.glu(expanded, dim=-1), is_real.unsqueeze(-1))
    # (B, T, D) read as (B, D, 1, T) is conv2d's channels-last layout: no copy, and the fastest form.
    image = depthwise(gated.unsqueeze(1).permute(0, 3, 1, 2), weight, bias)
    convolved = image.permute(0, 2, 3, 1).squeeze(1)
    return functional.silu(normalised(convolved, norm_weight, norm_bias))


class ConformerBlock(nn.Module):
    """Half feed-forward, self-attention, convolution, half feed-forward, LayerNorm (Gulati et al. 2020)."""

    def __init__(self, settings: NetworkSettings) -> None:
        super().__init__()
        self.first_feed_forward = FeedForward(settings)
        self.attention = RelativeAttention(settings)
        self.convolution = TimeConvolution(settings)
        self.second_feed_forward = FeedForward(settings)
        self.norm = nn.LayerNorm(settings.width)

    def forward(self, frames: Tensor, is_real: Tensor, rows: Tensor | None = None) -> Tensor:
        """Map (batch, time, channel) to the same shape; padded frames come out undefined but finite.

        Args:
            frames: (batch, time, channel).
            is_real: (batch, time), bool; False where the frame is padding.
            rows: (batch,), key of each clip for dropout; None without dropout.
        """
        frames = self.first_feed_forward(frames, rows, 0.5)
        frames = self.attention(frames, is_real, rows)
        frames = self.convolution(frames, is_real, rows)
        frames = self.second_feed_forward(frames, rows, 0.5)
        normalised: Tensor = self.norm(frames)
        return normalised


class ConformerBlocks(nn.ModuleList):
    """Conformer blocks one after the other, with noise between them where it is given.

    Args:
        count: of blocks.
        settings: sizes.
        activation_checkpointing: keep the input of every block alone for the backward pass, and compute what is
            within it once more there; dropout draws the same again, as its keys are arguments.
    """

    def __init__(self, count: int, settings: NetworkSettings, activation_checkpointing: bool = False) -> None:
        super().__init__(ConformerBlock(settings) for _ in range(count))
        self.activation_checkpointing = activation_checkpointing

    def forward(
        self, frames: Tensor, is_real: Tensor, rows: Tensor | None, noise: Sequence[Tensor | None]
    ) -> list[Tensor]:
        """Return the output of every block for (batch, time, channel).

        Args:
            frames: (batch, time, channel).
            is_real: (batch, time), bool; False where the frame is padding.
            rows: (batch,), key of each clip for dropout; None without dropout.
            noise: (batch, time, channel) per block, added to its output; None for none.
        """
        layers: list[Tensor] = []
        for block, extra in zip(self, noise, strict=True):
            frames = with_noise(self._run(block, frames, is_real, rows), extra)
            layers.append(frames)
        return layers

    def _run(self, block: nn.Module, frames: Tensor, is_real: Tensor, rows: Tensor | None) -> Tensor:
        if self.activation_checkpointing and torch.is_grad_enabled():
            # Found with 2 ranks, DeepSpeed 0.19, fp32 and bf16: this way every ZeRO stage gives, to the last bit, what
            # it gives without checkpointing. The re-entrant way runs a backward of its own per block, and ZeRO 2
            # and 3 refuse a gradient in two parts, as the shared blocks have one per modality.
            kept: Tensor = checkpoint(
                block, frames, is_real, rows, use_reentrant=False, preserve_rng_state=False
            )
            return kept
        output: Tensor = block(frames, is_real, rows)
        return output


def with_noise(frames: Tensor, noise: Tensor | None) -> Tensor:
    """Add noise in the precision of the frames."""
    return frames if noise is None else frames + noise.to(frames.dtype)

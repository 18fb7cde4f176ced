"""The Conformer block without BatchNorm, with rotary positions, safe against padding.

Every module here is plain torch and calls its children. ``vavl.models.kernels`` holds faster forms of the same modules.

Axes: B clips, H heads, T frames, D channels of a head.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from vavl.models.layers import Dropout, SequentialWithDropout, without_padding
from vavl.models.settings import NetworkSettings

_ROTARY_BASE = 10_000.0


class FeedForward(SequentialWithDropout):
    """LayerNorm, expansion, Swish and projection back, added to the input."""

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
        return frames + weight * super().forward(frames, rows)


class RotaryAttention(nn.Module):
    """Multi-head self-attention over the real frames of one clip, with rotary positions (Su et al. 2021)."""

    def __init__(self, settings: NetworkSettings) -> None:
        super().__init__()
        self.heads = settings.attention_heads
        self.norm = nn.LayerNorm(settings.width)
        self.query_key_value = nn.Linear(settings.width, 3 * settings.width)
        self.output = nn.Linear(settings.width, settings.width)
        self.dropout = Dropout(settings.dropout)

    def forward(self, frames: Tensor, is_real: Tensor, rows: Tensor | None = None) -> Tensor:
        """Return ``frames`` + what each of them gathers within its clip.

        Args:
            frames: (batch, time, channel).
            is_real: (batch, time), bool; padding is never attended to. Every clip needs a real frame.
            rows: (batch,), key of each clip for dropout; None without dropout.
        """
        query, key, value = split_heads(self.query_key_value(self.norm(frames)), self.heads)
        angles = rotary_angles(query.shape[2], query.shape[3], query.device)
        # No dropout of the attention weights: it would rule out the fused kernels. The output has it.
        mixed = functional.scaled_dot_product_attention(
            rotate(query, *angles), rotate(key, *angles), value, attn_mask=is_real[:, None, None, :]
        )
        attended: Tensor = frames + self.dropout(self.output(join_heads(mixed)), rows)
        return attended


class DepthwiseConvolution(nn.Conv2d):
    """One kernel over time per channel; (batch, channel, 1, time) in and out."""

    bias: nn.Parameter

    def __init__(self, width: int, kernel: int) -> None:
        super().__init__(width, width, (1, kernel), padding=(0, kernel // 2), groups=width)


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
        gated = without_padding(functional.glu(self.expand(self.norm(frames)), dim=-1), is_real)
        # (B, T, C) read as (B, C, 1, T) is conv2d's channels-last layout: no copy, and the fastest form.
        image = self.depthwise(gated.unsqueeze(1).permute(0, 3, 1, 2))
        mixed = functional.silu(self.depthwise_norm(image.permute(0, 2, 3, 1).squeeze(1)))
        convolved: Tensor = frames + self.dropout(self.project(mixed), rows)
        return convolved


class ConformerBlock(nn.Module):
    """Half feed-forward, self-attention, convolution, half feed-forward, LayerNorm (Gulati et al. 2020)."""

    def __init__(self, settings: NetworkSettings) -> None:
        super().__init__()
        self.first_feed_forward = FeedForward(settings)
        self.attention = RotaryAttention(settings)
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
        normalized: Tensor = self.norm(frames)
        return normalized


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
            kept: Tensor = checkpoint(block, frames, is_real, rows, use_reentrant=False, preserve_rng_state=False)
            return kept
        output: Tensor = block(frames, is_real, rows)
        return output


def with_noise(frames: Tensor, noise: Tensor | None) -> Tensor:
    """Add noise in the precision of the frames."""
    return frames if noise is None else frames + noise.to(frames.dtype)


def split_heads(qkv: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Split (B, T, 3 * H * D), query, key and value side by side, into three of (B, H, T, D)."""
    clips, frames, width = qkv.shape
    query, key, value = qkv.view(clips, frames, 3, heads, width // (3 * heads)).permute(2, 0, 3, 1, 4)
    return query, key, value


def join_heads(mixed: Tensor) -> Tensor:
    """Turn (B, H, T, D) into (B, T, H * D)."""
    return mixed.transpose(1, 2).flatten(2)


def rotary_angles(frames: int, head_width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return cosine and sine of the rotation of each frame and channel pair (Su et al. 2021, eq. 34).

    A product of two rotated vectors depends on their distance in frames only, hence neither on the
    amount of padding nor on where the clip starts.

    Returns:
        Two tensors (frames, head_width / 2), float32.
    """
    pair = torch.arange(0, head_width, 2, device=device, dtype=torch.float32)
    speed = _ROTARY_BASE ** (-pair / head_width)
    angle = torch.arange(frames, device=device, dtype=torch.float32).unsqueeze(1) * speed
    return angle.cos(), angle.sin()


def rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Turn each channel pair of (B, H, T, D) by its frame's angle."""
    first, second = x.chunk(2, dim=-1)
    cosine, sine = cosine.to(x.dtype), sine.to(x.dtype)
    return torch.cat((first * cosine - second * sine, second * cosine + first * sine), dim=-1)

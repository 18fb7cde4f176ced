"""The Conformer block without BatchNorm, with rotary positions, safe against padding.

Axes: B clips, T frames, D channels, H heads.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from vavl.models.attention import attend
from vavl.models.dropout import Dropout, SequentialWithDropout
from vavl.models.settings import NetworkSettings

_ROTARY_BASE = 10_000.0


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


def rotate(x_BHTD: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Turn each channel pair of (clip, head, time, channel) by its frame's angle."""
    first, second = x_BHTD.chunk(2, dim=-1)
    cosine, sine = cosine.to(x_BHTD.dtype), sine.to(x_BHTD.dtype)
    return torch.cat((first * cosine - second * sine, second * cosine + first * sine), dim=-1)


class FeedForward(SequentialWithDropout):
    """LayerNorm, expansion, Swish and projection back; (batch, time, channel) in and out."""

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


class RelativeAttention(nn.Module):
    """Multi-head self-attention over the real frames of one clip, with rotary positions."""

    def __init__(self, settings: NetworkSettings) -> None:
        super().__init__()
        self.heads = settings.attention_heads
        self.norm = nn.LayerNorm(settings.width)
        self.query_key_value = nn.Linear(settings.width, 3 * settings.width)
        self.output = nn.Linear(settings.width, settings.width)
        self.dropout = Dropout(settings.dropout)

    def forward(self, frames: Tensor, is_real: Tensor, rows: Tensor | None = None) -> Tensor:
        """Attend within each clip.

        Args:
            frames: (batch, time, channel).
            is_real: (batch, time), bool; padding is never attended to. Every clip needs a real frame.
            rows: (batch,), key of each clip for dropout; None without dropout.
        """
        B, T, D = frames.shape
        split = self.query_key_value(self.norm(frames)).view(B, T, 3, self.heads, D // self.heads)
        query, key, value = split.permute(2, 0, 3, 1, 4)
        cosine, sine = rotary_angles(T, D // self.heads, frames.device)
        mixed = attend(
            rotate(query, cosine, sine),
            rotate(key, cosine, sine),
            value,
            # No dropout of the attention weights: it would rule out the fused kernels. The output has it.
            is_real,
        )
        joined = self.output(mixed.transpose(1, 2).reshape(B, T, D))
        dropped: Tensor = self.dropout(joined, rows)
        return dropped


class DepthwiseConvolution(nn.Conv2d):
    """One kernel over time per channel; (batch, channel, 1, time) in and out."""

    def __init__(self, width: int, kernel: int) -> None:
        super().__init__(width, width, (1, kernel), padding=(0, kernel // 2), groups=width)

    def forward(self, image: Tensor) -> Tensor:
        """Convolve; a single frame meets the middle tap alone, and the general way is many times slower.

        The bias is added apart in both ways, so that weight and bias get their gradients in one order: ZeRO 2 adds
        gradients over the ranks in the order in which they come, and one rank alone may have single frames.
        """
        if image.shape[-1] > 1:
            mapped = functional.conv2d(
                image, self.weight, None, self.stride, self.padding, groups=self.groups
            )
        else:
            mapped = image * self.weight[:, 0, 0, self.kernel_size[1] // 2].view(1, -1, 1, 1)
        return mapped if self.bias is None else mapped + self.bias.view(1, -1, 1, 1)


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
        """Convolve within each clip; (batch, time, channel) in and out, padding counts as silence."""
        gated = functional.glu(self.expand(self.norm(frames)), dim=-1)
        gated = gated.masked_fill(~is_real.unsqueeze(-1), 0)
        # (B, T, D) read as (B, D, 1, T) is conv2d's channels-last layout: no copy, and the fastest form.
        image = self.depthwise(gated.unsqueeze(1).permute(0, 3, 1, 2))
        convolved = image.permute(0, 2, 3, 1).squeeze(1)
        mixed = self.project(functional.silu(self.depthwise_norm(convolved)))
        dropped: Tensor = self.dropout(mixed, rows)
        return dropped


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
        frames = torch.add(frames, self.first_feed_forward(frames, rows), alpha=0.5)
        frames = frames + self.attention(frames, is_real, rows)
        frames = frames + self.convolution(frames, is_real, rows)
        frames = torch.add(frames, self.second_feed_forward(frames, rows), alpha=0.5)
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

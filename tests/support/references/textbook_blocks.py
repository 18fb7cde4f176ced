"""The Conformer block as it is written in textbooks and in the package that the published code imports.

Gulati et al. (2020) with the attention of Transformer-XL (Dai et al. 2019, section 3.3), which the paper names:
plain products and softmax, BatchNorm, one-dimensional convolutions, ``nn.Dropout``. Nothing is written to be slow,
nothing is tuned. Where the published code runs attention and convolution across the clips of a batch, this runs
them across time, as the paper says, and padding is masked.

Axes: B clips, T frames, D channels, H heads.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from vavl.models.settings import NetworkSettings


class TextbookFeedForward(nn.Sequential):
    """LayerNorm, expansion, Swish and projection back; (batch, time, channel) in and out."""

    def __init__(self, settings: NetworkSettings) -> None:
        hidden = settings.width * settings.feed_forward_expansion
        super().__init__(
            nn.LayerNorm(settings.width),
            nn.Linear(settings.width, hidden),
            nn.SiLU(),
            nn.Dropout(settings.dropout),
            nn.Linear(hidden, settings.width),
            nn.Dropout(settings.dropout),
        )


class TextbookAttention(nn.Module):
    """Multi-head self-attention with the relative positions of Transformer-XL."""

    def __init__(self, settings: NetworkSettings) -> None:
        super().__init__()
        width, self.heads = settings.width, settings.attention_heads
        self.norm = nn.LayerNorm(width)
        self.query, self.key, self.value, self.output = (nn.Linear(width, width) for _ in range(4))
        self.position = nn.Linear(width, width, bias=False)
        self.content_bias = nn.Parameter(torch.zeros(self.heads, 1, width // self.heads))
        self.position_bias = nn.Parameter(torch.zeros(self.heads, 1, width // self.heads))
        self.attention_dropout = nn.Dropout(settings.dropout)
        self.dropout = nn.Dropout(settings.dropout)

    def forward(self, frames: Tensor, is_real: Tensor) -> Tensor:
        """Attend within each clip; (batch, time, channel) and (batch, time)."""
        B, T, D = frames.shape
        x = self.norm(frames)
        query, key, value = (
            layer(x).view(B, T, self.heads, -1).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        place = self.position(relative_sinusoids(T, D, x.device)).view(2 * T - 1, self.heads, -1).transpose(0, 1)
        by_content = (query + self.content_bias) @ key.transpose(-1, -2)
        by_position = relative_shift((query + self.position_bias) @ place.transpose(-1, -2))
        score = (by_content + by_position) / math.sqrt(D // self.heads)
        score = score.masked_fill(~is_real[:, None, None, :], torch.finfo(score.dtype).min)
        mixed = self.attention_dropout(score.softmax(dim=-1)) @ value
        dropped: Tensor = self.dropout(self.output(mixed.transpose(1, 2).reshape(B, T, D)))
        return dropped


class TextbookConvolution(nn.Module):
    """Pointwise, GLU, depthwise over time, BatchNorm, Swish, pointwise."""

    def __init__(self, settings: NetworkSettings) -> None:
        super().__init__()
        width, kernel = settings.width, settings.convolution_kernel
        self.norm = nn.LayerNorm(width)
        self.expand = nn.Conv1d(width, 2 * width, 1)
        self.depthwise = nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=width)
        self.batch_norm = nn.BatchNorm1d(width)
        self.project = nn.Conv1d(width, width, 1)
        self.dropout = nn.Dropout(settings.dropout)

    def forward(self, frames: Tensor, is_real: Tensor) -> Tensor:
        """Convolve within each clip; (batch, time, channel) in and out."""
        gated = functional.glu(self.expand(self.norm(frames).transpose(1, 2)), dim=1)
        gated = gated.masked_fill(~is_real.unsqueeze(1), 0)
        convolved = functional.silu(self.batch_norm(self.depthwise(gated)))
        mixed: Tensor = self.dropout(self.project(convolved)).transpose(1, 2)
        return mixed


class TextbookBlock(nn.Module):
    """Half feed-forward, self-attention, convolution, half feed-forward, LayerNorm."""

    def __init__(self, settings: NetworkSettings) -> None:
        super().__init__()
        self.first_feed_forward = TextbookFeedForward(settings)
        self.attention = TextbookAttention(settings)
        self.convolution = TextbookConvolution(settings)
        self.second_feed_forward = TextbookFeedForward(settings)
        self.norm = nn.LayerNorm(settings.width)

    def forward(self, frames: Tensor, is_real: Tensor) -> Tensor:
        """Map (batch, time, channel) to the same shape."""
        frames = frames + 0.5 * self.first_feed_forward(frames)
        frames = frames + self.attention(frames, is_real)
        frames = frames + self.convolution(frames, is_real)
        frames = frames + 0.5 * self.second_feed_forward(frames)
        normalised: Tensor = self.norm(frames)
        return normalised


def relative_sinusoids(frames: int, width: int, device: torch.device) -> Tensor:
    """Return (2 T - 1, D): the sinusoids of the distances T - 1, ..., 0, ..., 1 - T."""
    distance = torch.arange(frames - 1, -frames, -1.0, device=device).unsqueeze(1)
    speed = torch.exp(torch.arange(0, width, 2.0, device=device) * (-math.log(10_000.0) / width))
    return torch.stack(((distance * speed).sin(), (distance * speed).cos()), dim=-1).flatten(1)


def relative_shift(score: Tensor) -> Tensor:
    """Turn (batch, head, T, 2 T - 1) by distance into (batch, head, T, T) by frame (Transformer-XL, appendix B)."""
    B, H, T, P = score.shape
    padded = torch.cat((score.new_zeros(B, H, T, 1), score), dim=-1).view(B, H, P + 1, T)
    return padded[:, :, 1:].reshape(B, H, T, P)[..., :T]

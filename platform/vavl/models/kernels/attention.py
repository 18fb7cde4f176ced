"""Attention of the frames of a clip to each other, with rotary positions: torch's fused kernels.

In bf16 on a CPU it is written in plain products: twice as quick, and with less to keep.

Axes: B clips, H heads, T frames, D channels of a head.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

_ROTARY_BASE = 10_000.0
_MOST_FRAMES = 1024
"""Up to here one clip's (H, T, T) matrices may lie in memory; measured up to 600 frames."""
_BYTES_AT_ONCE = 2**22
"""Of a (B, H, T, T) matrix: few enough clips at a time that it stays in the cache."""


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


def attend(joined: Tensor, heads: int, is_real: Tensor) -> Tensor:
    """Return softmax(rotated query rotated key' / sqrt(D)) value within each clip.

    Args:
        joined: (B, T, 3 * H * D): query, key and value side by side, head by head.
        heads: H.
        is_real: (B, T), bool; padding is never attended to.

    Returns:
        (B, T, H * D).
    """
    if joined.device.type == "cpu" and joined.dtype == torch.bfloat16 and joined.shape[1] <= _MOST_FRAMES:
        mixed: Tensor = _ShortAttention.apply(joined, heads, is_real)  # type: ignore[no-untyped-call]
        return mixed
    query, key, value = _rotated(joined, heads)
    return _side_by_side(
        functional.scaled_dot_product_attention(query, key, value, attn_mask=is_real[:, None, None, :])
    )


class _ShortAttention(torch.autograd.Function):
    """Plain products, some clips at a time, as the processor's bf16 units want them.

    torch 2.13's fused kernels multiply blocks that are too small for these units: at 75 to 600 frames they take 1.6
    to 2.7 times as long. Rotation and weights are computed again in the backward pass.
    """

    @staticmethod
    def forward(ctx: Any, joined: Tensor, heads: int, is_real: Tensor) -> Tensor:
        """Attend; the scores are rounded to bf16, their softmax is computed in float32."""
        ctx.save_for_backward(joined, is_real)
        ctx.heads = heads
        query, key, value = _turned(joined, heads)
        hidden = _hidden_scores(is_real)
        mixed = torch.empty_like(value)
        for some in _portions(value):
            weight = _weights(query[some], key[some], hidden[some])
            mixed[some] = weight.to(value.dtype) @ value[some]
        return _side_by_side(mixed)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        """Differentiate (Dao et al. 2022, section B.2)."""
        joined, is_real = ctx.saved_tensors
        query, key, value = _turned(joined, ctx.heads)
        above = grad.view(*grad.shape[:2], ctx.heads, -1).transpose(1, 2)
        gradient = torch.empty_like(joined)
        # Views into the gradient, (B, H, T, D) each.
        of_query, of_key, of_value = _split(gradient, ctx.heads)
        hidden = _hidden_scores(is_real)
        for some in _portions(value):
            asks, keys, upper = query[some], key[some], above[some]
            weight = _weights(asks, keys, hidden[some])
            # Of the softmax w with the gradient g above it: w * (g - sum(w * g)) = w * g - w * sum(w * g).
            weighted = (upper @ value[some].transpose(-1, -2)).float().mul_(weight)
            of_row = weighted.sum(dim=-1, keepdim=True)
            by_score = weighted.addcmul_(weight, of_row, value=-1).to(grad.dtype)
            of_query[some] = by_score @ keys
            of_key[some] = by_score.transpose(-1, -2) @ asks
            of_value[some] = weight.to(grad.dtype).transpose(-1, -2) @ upper
        pair = gradient[..., : 2 * joined.shape[2] // 3]
        pair.copy_(_turn(pair, ctx.heads, forward=False))
        return gradient, None, None


def _weights(query: Tensor, key: Tensor, hidden: Tensor) -> Tensor:
    """Return the softmax of the scores (B, H, T, T), float32; the query is scaled."""
    return (query @ key.transpose(-1, -2)).float().add_(hidden).softmax(dim=-1)


def _hidden_scores(is_real: Tensor) -> Tensor:
    """Return (B, 1, 1, T), to be added to scores: -inf for padding."""
    hidden = torch.zeros(is_real.shape, dtype=torch.float32).masked_fill_(~is_real, -torch.inf)
    return hidden[:, None, None, :]


def _portions(value: Tensor) -> list[slice]:
    clips, heads, frames, _ = value.shape
    at_once = max(1, _BYTES_AT_ONCE // (4 * heads * frames * frames))
    return [slice(first, first + at_once) for first in range(0, clips, at_once)]


def _turned(joined: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return query, turned and scaled by 1 / sqrt(D), key, turned, and value: (B, H, T, D) each."""
    pair = _turn(joined[..., : 2 * joined.shape[2] // 3], heads, forward=True)
    query, key = pair.view(*pair.shape[:2], 2, heads, -1).permute(2, 0, 3, 1, 4)
    return query, key, _split(joined, heads)[2]


def _turn(pair: Tensor, heads: int, *, forward: bool) -> Tensor:
    """Turn query and key (B, T, 2 * H * D) and scale the query, or do so the other way round with gradients."""
    width = pair.shape[2] // (2 * heads)
    cosine, sine = rotary_angles(pair.shape[1], width, pair.device)
    cosine, sine = torch.cat((cosine, cosine), -1), torch.cat((-sine, sine), -1)
    # (T, 2 * H * D): whole rows at a time are quicker than the channels of a head.
    cosine, sine = (
        torch.stack((angle * width**-0.5, angle), dim=1).unsqueeze(2).expand(-1, -1, heads, -1).flatten(1)
        for angle in (cosine, sine if forward else -sine)
    )
    first, second = pair.view(*pair.shape[:2], 2 * heads, 2, -1).unbind(3)
    swapped = torch.stack((second, first), dim=3).flatten(2)
    return (pair * cosine.to(pair.dtype)).addcmul_(swapped, sine.to(pair.dtype))


def _rotated(joined: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return query and key, turned, and value: (B, H, T, D) each."""
    query, key, value = _split(joined, heads)
    cosine, sine = rotary_angles(query.shape[2], query.shape[3], joined.device)
    return rotate(query, cosine, sine), rotate(key, cosine, sine), value


def _split(joined: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    clips, frames, width = joined.shape
    query, key, value = joined.view(clips, frames, 3, heads, width // (3 * heads)).permute(2, 0, 3, 1, 4)
    return query, key, value


def _side_by_side(mixed: Tensor) -> Tensor:
    """Turn (B, H, T, D) into (B, T, H * D)."""
    return mixed.transpose(1, 2).flatten(2)

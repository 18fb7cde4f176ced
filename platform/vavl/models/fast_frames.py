"""What mixes the frames of a clip, quicker on a CPU: in bf16 attention by plain products, and a convolution's gradient.

Axes: B clips, H heads, T frames, D channels (of a head in attention), K frames under the kernel.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from vavl.models.conformer import Frames, attend, join_heads, split_heads

_MOST_FRAMES = 1024
"""Up to here one clip's (H, T, T) matrices may lie in memory; measured up to 600 frames."""
_BYTES_AT_ONCE = 2**22
"""Of a (B, H, T, T) matrix: few enough clips at a time that it stays in the cache."""
_FRAMES_AT_ONCE = 64
"""The products behind the gradient of the kernel grow with the square of these."""


def attend_on_cpu(qkv: Tensor, heads: int, about: Frames) -> Tensor:
    """Do what ``attend`` does."""
    if qkv.dtype != torch.bfloat16 or qkv.shape[1] > _MOST_FRAMES:
        return attend(qkv, heads, about)
    mixed: Tensor = _ShortAttention.apply(qkv, heads, *about)  # type: ignore[no-untyped-call]
    return mixed


class _ShortAttention(torch.autograd.Function):
    """Plain products, some clips at a time, as the processor's bf16 units want them.

    torch 2.13's fused kernels multiply blocks that are too small for these units: at 75 to 600 frames they take 1.6
    to 2.7 times as long. Rotation and weights are computed again in the backward pass.
    """

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, heads: int, cosine: Tensor, sine: Tensor, hidden: Tensor | None) -> Tensor:
        """Attend; the scores are rounded to bf16, their softmax is computed in float32."""
        ctx.save_for_backward(qkv, cosine, sine, hidden)
        ctx.heads = heads
        query, key, value = _turned(qkv, heads, (cosine, sine))
        mixed = torch.empty_like(value)
        for some in _portions(value):
            weight = _weights(query[some], key[some], None if hidden is None else hidden[some])
            mixed[some] = weight.to(value.dtype) @ value[some]
        return join_heads(mixed)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None]:
        """Differentiate (Dao et al. 2022, section B.2)."""
        qkv, *angles, hidden = ctx.saved_tensors
        query, key, value = _turned(qkv, ctx.heads, angles)
        above = grad.view(*grad.shape[:2], ctx.heads, -1).transpose(1, 2)
        gradient = torch.empty_like(qkv)
        # Views into the gradient, (B, H, T, D) each.
        of_query, of_key, of_value = split_heads(gradient, ctx.heads)
        for some in _portions(value):
            asks, keys, upper = query[some], key[some], above[some]
            weight = _weights(asks, keys, None if hidden is None else hidden[some])
            # Of the softmax w with the gradient g above it: w * (g - sum(w * g)) = w * g - w * sum(w * g).
            weighted = (upper @ value[some].transpose(-1, -2)).float().mul_(weight)
            of_row = weighted.sum(dim=-1, keepdim=True)
            by_score = weighted.addcmul_(weight, of_row, value=-1).to(grad.dtype)
            of_query[some] = by_score @ keys
            of_key[some] = by_score.transpose(-1, -2) @ asks
            of_value[some] = weight.to(grad.dtype).transpose(-1, -2) @ upper
        pair = gradient[..., : 2 * qkv.shape[2] // 3]
        pair.copy_(_turn(pair, ctx.heads, angles, forward=False))
        return gradient, None, None, None, None


def _weights(query: Tensor, key: Tensor, hidden: Tensor | None) -> Tensor:
    """Return the softmax of the scores (B, H, T, T), float32; the query is scaled."""
    scores = (query @ key.transpose(-1, -2)).float()
    return (scores if hidden is None else scores.add_(hidden)).softmax(dim=-1)


def _portions(value: Tensor) -> list[slice]:
    clips, heads, frames, _ = value.shape
    at_once = max(1, _BYTES_AT_ONCE // (4 * heads * frames * frames))
    return [slice(first, first + at_once) for first in range(0, clips, at_once)]


def _turned(qkv: Tensor, heads: int, angles: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Return query, turned and scaled by 1 / sqrt(D), key, turned, and value: (B, H, T, D) each."""
    pair = _turn(qkv[..., : 2 * qkv.shape[2] // 3], heads, angles, forward=True)
    query, key = pair.view(*pair.shape[:2], 2, heads, -1).permute(2, 0, 3, 1, 4)
    return query, key, split_heads(qkv, heads)[2]


def _turn(pair: Tensor, heads: int, angles: Sequence[Tensor], *, forward: bool) -> Tensor:
    """Turn query and key (B, T, 2 * H * D) and scale the query, or do so the other way round with gradients."""
    width = pair.shape[2] // (2 * heads)
    cosine, sine = angles
    cosine, sine = torch.cat((cosine, cosine), -1), torch.cat((-sine, sine), -1)
    # (T, 2 * H * D): whole rows at a time are quicker than the channels of a head.
    cosine, sine = (
        torch.stack((angle * width**-0.5, angle), dim=1).unsqueeze(2).expand(-1, -1, heads, -1).flatten(1)
        for angle in (cosine, sine if forward else -sine)
    )
    first, second = pair.view(*pair.shape[:2], 2 * heads, 2, -1).unbind(3)
    swapped = torch.stack((second, first), dim=3).flatten(2)
    return (pair * cosine.to(pair.dtype)).addcmul_(swapped, sine.to(pair.dtype))


def depthwise(image: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Convolve over time, channel by channel, in the type of ``image``.

    A single frame meets the middle tap alone, and the general way is many times slower.

    The bias is added apart in every way, so that weight and bias get their gradients in one order: ZeRO 2 adds
    gradients over the ranks in the order in which they come, and one rank alone may have single frames.

    Args:
        image: (B, D, 1, T).
        weight: (D, 1, 1, K), K odd.
        bias: (D,).

    Returns:
        (B, D, 1, T).
    """
    weight = weight.to(image.dtype)
    if image.shape[-1] == 1:
        mapped = image * weight[:, 0, 0, weight.shape[-1] // 2].view(1, -1, 1, 1)
    elif image.dtype == torch.bfloat16:
        mapped = _Convolve.apply(image, weight)  # type: ignore[no-untyped-call]
    else:
        mapped = _convolve(image, weight)
    biased: Tensor = mapped + bias.to(image.dtype).view(1, -1, 1, 1)
    return biased


def _convolve(image: Tensor, weight: Tensor) -> Tensor:
    middle = weight.shape[-1] // 2
    return functional.conv2d(image, weight, padding=(0, middle), groups=image.shape[1])


class _Convolve(torch.autograd.Function):
    """torch's convolution; its gradient of the kernel takes 3 to 5 times as long as this one in bf16."""

    @staticmethod
    def forward(ctx: Any, image: Tensor, weight: Tensor) -> Tensor:
        """Convolve (B, D, 1, T)."""
        ctx.save_for_backward(image, weight)
        return _convolve(image, weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Convolve with the kernel the other way round; correlate image and gradient."""
        image, weight = ctx.saved_tensors
        needs_image, needs_weight = ctx.needs_input_grad
        of_image = _convolve(grad, weight.flip(-1)) if needs_image else None
        return of_image, _correlate(image, grad, weight.shape[-1]).to(weight.dtype) if needs_weight else None


def _correlate(image: Tensor, grad: Tensor, taps: int) -> Tensor:
    """Return (D, 1, 1, K): for each tap the sum over clips and frames of the gradient times the image under it.

    All frames are multiplied with all frames of a channel, as one product of matrices; of that the K diagonals
    count. It is more to compute, and ten times as quick.
    """
    frames = image.shape[-1]
    image, grad = _channels_first(image, taps // 2), _channels_first(grad, 0)
    total = image.new_zeros((image.shape[0], taps), dtype=torch.float32)
    for first in range(0, frames, _FRAMES_AT_ONCE):
        some = grad[:, :, first : first + _FRAMES_AT_ONCE]
        around = image[:, :, first : first + some.shape[-1] + taps - 1]
        every = some.transpose(1, 2) @ around  # (D, frames, frames + K - 1)
        channels, rows, columns = every.shape
        # Row t, columns t to t + K - 1.
        diagonals = every.as_strided((channels, rows, taps), (rows * columns, columns + 1, 1))
        total += diagonals.sum(dim=1, dtype=torch.float32)
    return total.view(-1, 1, 1, taps)


def _channels_first(image: Tensor, padding: int) -> Tensor:
    """Turn (B, D, 1, T) into (D, B, T), with frames of zeros on both modalities."""
    frames = functional.pad(image.squeeze(2).transpose(1, 2), (0, 0, padding, padding))
    clips, count, channels = frames.shape
    # As a matrix: torch transposes those four times as quickly as three axes.
    return frames.reshape(-1, channels).t().contiguous().view(channels, clips, count)

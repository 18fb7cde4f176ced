"""Convolution over time, channel by channel; in bf16 on a CPU with a quicker gradient of its kernel.

Axes: B clips, D channels, T frames, K frames under the kernel.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

_FRAMES_AT_ONCE = 64
"""The products behind the gradient of the kernel grow with the square of these."""


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

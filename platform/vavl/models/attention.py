"""Attention of the frames of a clip to each other: the fused kernels of torch, and a quicker backward in bf16 on a CPU.

Axes: B clips, H heads, T frames, D channels of a head.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

_MOST_FRAMES = 256
"""Up to here the quicker backward is quicker."""
_BYTES_AT_ONCE = 2**21
"""Of a (B, H, T, T) matrix: few enough clips at a time that it stays in the cache."""


def attend(query: Tensor, key: Tensor, value: Tensor, is_real: Tensor) -> Tensor:
    """Return softmax(query key' / sqrt(D)) value within each clip.

    Args:
        query: (B, H, T, D).
        key: the same shape.
        value: the same shape.
        is_real: (B, T), bool; padding is never attended to.

    Returns:
        (B, H, T, D).
    """
    mask = is_real[:, None, None, :]
    if query.device.type == "cpu" and query.dtype == torch.bfloat16 and query.shape[2] <= _MOST_FRAMES:
        mixed: Tensor = _ShortAttention.apply(query, key, value, mask)  # type: ignore[no-untyped-call]
        return mixed
    return functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)


class _ShortAttention(torch.autograd.Function):
    """The fused forward, to the last bit, with a backward of plain products.

    torch 2.13's fused backward takes three times as long in bf16 at 75 to 125 frames: it multiplies blocks that are
    too small for the processor's bf16 units.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
        """Run the fused kernel; it also returns the logarithm of each frame's sum of exponentials (B, H, T)."""
        additive = torch.zeros_like(mask, dtype=query.dtype).masked_fill_(~mask, -torch.inf)
        mixed, log_sum = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            query, key, value, attn_mask=additive
        )
        ctx.save_for_backward(query, key, value, mixed, log_sum, mask)
        result: Tensor = mixed
        return result

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Differentiate (Dao et al. 2022, section B.2), with the weights P computed once more."""
        query, key, value, mixed, log_sum, mask = ctx.saved_tensors
        clips, heads, frames, width = query.shape
        mean = (grad.float() * mixed.float()).sum(dim=-1, keepdim=True)
        gradients = tuple(torch.empty_like(one) for one in (query, key, value))
        at_once = max(1, _BYTES_AT_ONCE // (4 * heads * frames * frames))
        for first in range(0, clips, at_once):
            some = slice(first, first + at_once)
            asks, keys, upper = query[some], key[some], grad[some]
            weight = (asks @ keys.transpose(-1, -2)).float().mul_(width**-0.5).sub_(log_sum[some, ..., None])
            weight = weight.exp_().masked_fill_(~mask[some], 0)
            by_weight = (upper @ value[some].transpose(-1, -2)).float().sub_(mean[some])
            by_score = by_weight.mul_(weight).mul_(width**-0.5).to(grad.dtype)
            gradients[0][some] = by_score @ keys
            gradients[1][some] = by_score.transpose(-1, -2) @ asks
            gradients[2][some] = weight.to(grad.dtype).transpose(-1, -2) @ upper
        return (*gradients, None)

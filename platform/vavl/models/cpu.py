"""What a CPU does otherwise: it keeps less for the backward pass, and takes the quicker form of three operators.

The modules are the plain ones, and call their children as ever. Elsewhere, and under a compiler, nothing here is done.

Axes: B clips, H heads, T frames, D channels (of a head in attention), K frames under the kernel.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from vavl.models import gpu

_MOST_FRAMES = 1024
"""Up to here one clip's (H, T, T) matrices may lie in memory; measured up to 600 frames."""
_BYTES_AT_ONCE = 2**22
"""Of a (B, H, T, T) matrix: few enough clips at a time that it stays in the cache."""
_FRAMES_AT_ONCE = 64
"""The products behind the gradient of the kernel grow with the square of these."""
_LEAST_PRODUCTS = 2**20
"""Smaller matrices cost oneDNN more to prepare than to multiply."""
_FEW_CHANNELS = 16
"""With so few in bf16, channels last, under 15 taps or more, oneDNN 3.12 never ends making its code (seen on Zen 4)."""


def is_usable(values: Tensor) -> bool:
    """Tell whether a tensor is for the ways of a CPU."""
    return values.device.type == "cpu" and not torch.compiler.is_compiling() and not gpu.is_usable(values)


def recomputed(function: Callable[..., Tensor], values: Tensor, *others: Any) -> Tensor:
    """Return ``function(values, *others)``; on a CPU autograd keeps the arguments and computes the rest once more.

    For a layer whose input follows from something smaller by a quick function, such as an activation and dropout. The
    second computation stops before the product that ``function`` ends with, as nobody needs its result.
    """
    if not (torch.is_grad_enabled() and is_usable(values)):
        return function(values, *others)
    result: Tensor = checkpoint(function, values, *others, use_reentrant=False, preserve_rng_state=False)
    return result


def clips_at_once(qkv: Tensor, heads: int) -> int:
    """Return how many clips ``attend_by_products`` is to see at a time; 0 where torch's attention is quicker.

    torch 2.13's fused kernels multiply blocks that are too small for a processor's bf16 units: at 75 to 600 frames
    they take 1.6 to 2.7 times as long.
    """
    frames = qkv.shape[1]
    if qkv.dtype != torch.bfloat16 or frames > _MOST_FRAMES or not is_usable(qkv):
        return 0
    return max(1, _BYTES_AT_ONCE // (4 * heads * frames * frames))


def attend_by_products(query: Tensor, key: Tensor, value: Tensor, hidden: Tensor | None) -> Tensor:
    """Do what ``scaled_dot_product_attention`` does with (B, H, T, D), by plain products, the softmax in float32."""
    scores = (query * query.shape[-1] ** -0.5 @ key.transpose(-1, -2)).float()
    weights = (scores if hidden is None else scores + hidden).softmax(dim=-1).to(value.dtype)
    mixed: Tensor = weights @ value
    return mixed


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
    if image.dtype == torch.bfloat16 and image.shape[1] <= _FEW_CHANNELS:
        image = image.contiguous()
    return functional.conv2d(image, weight, padding=(0, weight.shape[-1] // 2), groups=image.shape[1])


class _Convolve(torch.autograd.Function):
    """torch's convolution; its gradient of the kernel takes 2 to 6 times as long as this one in bf16."""

    @staticmethod
    def forward(ctx: Any, image: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(image, weight)
        return _convolve(image, weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
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
    """Turn (B, D, 1, T) into (D, B, T), with frames of zeros at both ends."""
    frames = functional.pad(image.squeeze(2).transpose(1, 2), (0, 0, padding, padding))
    clips, count, channels = frames.shape
    # As a matrix: torch transposes those four times as quickly as three axes.
    return frames.reshape(-1, channels).t().contiguous().view(channels, clips, count)


def use_onednn(network: nn.Module, *, on: bool = True) -> None:
    """Let linear layers of ``network`` multiply by oneDNN in float32 where that is the quicker library, or not.

    The class of a layer is exchanged, as ``torch.distributed.fsdp.fully_shard`` does; weights and names stay.
    """
    old, new = (nn.Linear, Linear) if on and onednn_is_quicker() else (Linear, nn.Linear)
    for module in network.modules():
        if type(module) is old:
            module.__class__ = new


class Linear(nn.Linear):
    """``nn.Linear`` whose products in float32 are oneDNN's."""

    def forward(self, values: Tensor) -> Tensor:
        """Map (..., in_features) to (..., out_features)."""
        is_low = gpu.autocast_dtype("cpu") is not None or self.weight.dtype != torch.float32
        if is_low or not is_usable(values):
            return super().forward(values)
        kept: list[Any] = []
        alias = _Keep.apply(values, self.weight, kept)  # type: ignore[no-untyped-call]
        needs = values.requires_grad, self.weight.requires_grad
        product: Tensor = _Multiply.apply(alias, self.weight, self.bias, kept, needs)  # type: ignore[no-untyped-call]
        return product


class _Keep(torch.autograd.Function):
    """Keep the factors for ``_Multiply``, before it multiplies: that is where ``recomputed`` stops."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, weight: Tensor, kept: list[Any]) -> Tensor:
        ctx.save_for_backward(values, weight)
        kept.append(ctx)
        return values.view_as(values)

    @staticmethod
    def backward(_ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return grad, None, None


class _Multiply(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, values: Tensor, weight: Tensor, bias: Tensor | None, kept: list[Any], needs: tuple[bool, bool]
    ) -> Tensor:
        ctx.kept, ctx.needs = kept, needs
        return _product(values, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        needs_values, needs_weight = ctx.needs
        rows, of_values, of_weight = grad.flatten(0, -2), None, None
        if any(ctx.needs):
            values, weight = ctx.kept[0].saved_tensors
            of_values = _product(rows, weight.t(), None).view(values.shape) if needs_values else None
            of_weight = _product(rows.t(), values.flatten(0, -2).t(), None) if needs_weight else None
        return of_values, of_weight, rows.sum(0) if ctx.needs_input_grad[2] else None, None, None


def _product(left: Tensor, right: Tensor, bias: Tensor | None) -> Tensor:
    """Return ``left @ right.T + bias``; (..., K) and (N, K) to (..., N). Nothing here is differentiated."""
    if left.numel() * right.shape[0] < _LEAST_PRODUCTS:
        return functional.linear(left, right, bias)
    found: Tensor = torch.ops.mkldnn._linear_pointwise(left, right, bias, "none", [], "")
    return found


@cache
def onednn_is_quicker() -> bool:
    """Tell whether oneDNN multiplies float32 matrices quicker than MKL does.

    MKL leaves the 512-bit units of AMD's processors alone: 108 against 240 GFLOP/s on a core of Zen 5.
    """
    if not (torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()):  # type: ignore[no-untyped-call]
        return False
    try:
        _ = torch.ops.mkldnn._linear_pointwise
    except AttributeError:  # a private name, and this build of torch lacks it
        return False
    processor = Path("/proc/cpuinfo")
    is_amd = processor.exists() and "AuthenticAMD" in processor.read_text()
    return is_amd and torch.backends.cpu.get_cpu_capability() == "AVX512"

"""Linear layers that keep little for the backward pass, with the quickest matrix products of the machine.

A linear layer needs its input twice: now, and for the gradient of its weight. Where that input follows from something
smaller by a quick function, such as an activation and dropout, only the smaller thing is kept and the function is
called again in the backward pass.

Axes: B clips, ... anything, F features of the layer's input.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from vavl.models.gpu import autocast_dtype

InputFunction = Callable[..., Tensor]
"""Maps values (B, ..., any), constants (B, ...) and parameters to a layer's input (B, ..., F), some clips at a time."""

_BYTES_AT_ONCE = 2**22
"""Of the layer's input, on a CPU: what that function needs next to it stays small and in the cache."""

_LEAST_PRODUCTS = 2**20
"""Smaller matrices cost oneDNN more to prepare than to multiply."""


class Linear(nn.Linear):
    """``nn.Linear`` with the products of ``linear_of``."""

    def forward(self, values: Tensor) -> Tensor:
        """Map (..., in_features) to (..., out_features)."""
        is_plain = values.device.type != "cpu" or torch.compiler.is_compiling()
        return super().forward(values) if is_plain else linear_of(None, values, self)


def linear_of(
    input_fn: InputFunction | None,
    values: Tensor,
    layer: nn.Linear,
    *,
    parameters: Sequence[Tensor] = (),
    constants: Sequence[Tensor] = (),
    scale: float = 1.0,
) -> Tensor:
    """Return ``layer(scale * input_fn(values, *constants, *parameters))``; autograd keeps ``values`` only.

    Under autocast the product is computed in autocast's type, and ``input_fn`` in that of ``values``.

    Args:
        input_fn: gives the input of the layer; None for ``values`` themselves.
        values: (B, ..., any).
        layer: its weight and bias are read, it is not called.
        parameters: trained by way of ``input_fn``.
        constants: (B, ...) each; ``input_fn`` gets those of the clips that it is called for. Without gradient.
        scale: folded into the weight.

    Returns:
        (B, ..., features of the layer's output).
    """
    kind, weight, bias = values.device.type, layer.weight, layer.bias
    dtype = autocast_dtype(kind) or weight.dtype
    work = _Work(input_fn, tuple(constants), dtype, scale)
    if not torch.is_grad_enabled():
        return _computed(work, values, weight, bias, parameters)
    product: Tensor = _LinearOf.apply(work, values, weight, bias, *parameters)  # type: ignore[no-untyped-call]
    return product


def normalized(values: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    """Apply LayerNorm over the channels."""
    return functional.layer_norm(values, values.shape[-1:], weight, bias, eps)


class _Work(NamedTuple):
    """What ``_LinearOf`` does: the arguments of ``linear_of`` that have no gradient."""

    input_fn: InputFunction | None
    constants: tuple[Tensor, ...]
    dtype: torch.dtype
    scale: float

    def weight(self, weight: Tensor) -> Tensor:
        """Return the weight as it is multiplied."""
        return (weight if self.scale == 1 else weight * self.scale).to(self.dtype)

    def make(self, given: Sequence[Tensor], some: slice) -> Tensor:
        """Do that function for some clips: their values come first, then the parameters."""
        values, *parameters = given
        if self.input_fn is None:
            return values
        return self.input_fn(values, *(constant[some] for constant in self.constants), *parameters)

    def rows(self, made: Tensor) -> Tensor:
        """Return what was made as the product takes it, (rows, F)."""
        return made.detach().to(self.dtype).flatten(0, -2)

    def portions(self, values: Tensor, features: int) -> list[slice]:
        """Return which clips to work on at a time."""
        clips = max(1, values.shape[0])
        if self.input_fn is None:
            return [slice(clips)]
        of_a_clip = max(1, math.prod(values.shape[1:-1]) * features * self.dtype.itemsize)
        at_once = max(1, _BYTES_AT_ONCE // of_a_clip)
        return [slice(first, first + at_once) for first in range(0, clips, at_once)]


class _LinearOf(torch.autograd.Function):
    """The linear layer of ``linear_of``: once differentiable, in every argument that is a tensor.

    A weight is cast to the type of the product here, and once more in the backward pass: no copy of it is kept.
    """

    @staticmethod
    def forward(
        ctx: Any, work: _Work, values: Tensor, weight: Tensor, bias: Tensor | None, *parameters: Tensor
    ) -> Tensor:
        """Compute the layer."""
        ctx.work = work
        ctx.save_for_backward(values, weight, *parameters)
        return _computed(work, values, weight, bias, parameters)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Do that function again and differentiate."""
        values, weight, *parameters = ctx.saved_tensors
        work, (_, needs_values, needs_weight, needs_bias, *needs_more) = ctx.work, ctx.needs_input_grad
        needs = (needs_values, *needs_more)
        portions = work.portions(values, weight.shape[1])
        of_values = torch.empty_like(values) if needs_values and len(portions) > 1 else None
        of_weight: Tensor | None = None
        of_parameters: list[Tensor | None] = [None] * len(parameters)
        with _without_autocast(values):
            factor = work.weight(weight)
            for some in portions:
                rows = grad[some].flatten(0, -2)
                given = [
                    one.detach().requires_grad_(needed)
                    for one, needed in zip((values[some], *parameters), needs, strict=True)
                ]
                with torch.enable_grad():
                    made = work.make(given, some)
                if needs_weight:
                    of_weight = _added(of_weight, _product(rows.t(), work.rows(made).t()))
                if not any(needs):
                    continue
                above = _product(rows, factor.t()).view(made.shape).to(made.dtype)
                wanted = [one for one in given if one.requires_grad]
                gradients = iter(torch.autograd.grad(made, wanted, above))
                if of_values is not None:
                    of_values[some] = next(gradients)
                elif needs_values:
                    of_values = next(gradients)
                for place in (place for place, needed in enumerate(needs_more) if needed):
                    of_parameters[place] = _added(of_parameters[place], next(gradients))
        of_bias = grad.flatten(0, -2).sum(0).to(weight.dtype) if needs_bias else None
        if of_weight is not None:
            of_weight = of_weight.to(weight.dtype) * work.scale if work.scale != 1 else of_weight.to(weight.dtype)
        # autograd casts a gradient to the type of what it is for.
        return (None, of_values, of_weight, of_bias, *of_parameters)


def _computed(work: _Work, values: Tensor, weight: Tensor, bias: Tensor | None, parameters: Sequence[Tensor]) -> Tensor:
    """Compute the layer."""
    with _without_autocast(values):
        factor, added = work.weight(weight), None if bias is None else bias.to(work.dtype)
        portions = work.portions(values, weight.shape[1])
        if len(portions) == 1:
            made = work.make((values, *parameters), portions[0])
            return _product(made.to(work.dtype), factor, added)
        result = values.new_empty((*values.shape[:-1], weight.shape[0]), dtype=work.dtype)
        for some in portions:
            made = work.make((values[some], *parameters), some)
            result[some] = _product(made.to(work.dtype), factor, added)
    return result


def _without_autocast(values: Tensor) -> AbstractContextManager[object]:
    kind = values.device.type
    return torch.autocast(kind, enabled=False) if autocast_dtype(kind) else nullcontext()


def _added(total: Tensor | None, part: Tensor) -> Tensor:
    """Add up a gradient that comes in parts, in float32 at least; ``total`` is overwritten."""
    return part if total is None else total.to(torch.promote_types(part.dtype, torch.float32)).add_(part)


def _product(left: Tensor, right: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return ``left @ right.T + bias``; (..., K) and (N, K) to (..., N). Nothing here is differentiated."""
    is_large = left.numel() * right.shape[0] >= _LEAST_PRODUCTS
    if is_large and left.dtype == torch.float32 and _onednn_is_quicker():
        found: Tensor = torch.ops.mkldnn._linear_pointwise(left, right, bias, "none", [], "")
        return found
    return functional.linear(left, right, bias)


@cache
def _onednn_is_quicker() -> bool:
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

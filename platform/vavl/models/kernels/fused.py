"""The choice between the plain network and its fast paths, and the modules that take the fast ones.

``use_kernels(network)`` is the one place that chooses: it turns the modules of a plain network into the ones here,
whose weights, names and results are the same (up to rounding). ``use_kernels(network, on=False)`` turns them back.
``build_network`` calls it for training, evaluation, serving and prediction.

A fast module reads the weights of its children and calls none of them. So it takes the plain way, by itself, as soon as
somebody needs the children to be called: where one was replaced (LoRA, quantization), where one has a hook, and under
``torch.compile`` and ``torch.export``.
"""

from __future__ import annotations

from functools import partial
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from vavl.models.conformer import DepthwiseConvolution, FeedForward, RotaryAttention, TimeConvolution
from vavl.models.kernels.attention import attend
from vavl.models.kernels.depthwise import depthwise
from vavl.models.kernels.linear import Linear, linear_of, normalized
from vavl.models.kernels.masking import add_dropped, keep, unscaled
from vavl.models.layers import Dropout
from vavl.models.vavl import ModalityPath

_KNOWN = (nn.LayerNorm, nn.Linear, Linear, nn.SiLU, Dropout, DepthwiseConvolution)
_ENGINE = "deepspeed."
"""Owner of hooks that gather a sharded weight; ZeRO-3 gathers one as well when it is read without a call."""


def use_kernels(network: nn.Module, *, on: bool = True) -> None:
    """Let every module of ``network`` take its fast path, or the plain one; weights and their names stay.

    The class of a module is exchanged, as ``torch.distributed.fsdp.fully_shard`` does.
    """
    exchanged = _FAST if on else {fast: plain for plain, fast in _FAST.items()}
    for module in network.modules():
        module.__class__ = exchanged.get(type(module), type(module))


class FastFeedForward(FeedForward):
    """Norm and Swish are computed again in the backward pass; the scale of the dropout lies in the weight."""

    def forward(self, frames: Tensor, rows: Tensor | None = None, weight: float = 1.0) -> Tensor:
        """See ``FeedForward``."""
        if not _may_skip(*self):
            return super().forward(frames, rows, weight)
        norm, expand, _, inner, project, outer = cast(
            "tuple[nn.LayerNorm, nn.Linear, nn.SiLU, Dropout, nn.Linear, Dropout]", tuple(self)
        )
        hidden = _linear_of_norm(frames, norm, expand)
        keys = () if rows is None else (rows,)
        mixed = linear_of(partial(_swish, inner), hidden, project, constants=keys, scale=inner.scale(rows))
        return add_dropped(outer, frames, mixed, rows, weight)


class FastAttention(RotaryAttention):
    """The norm is computed again in the backward pass; in bf16 on a CPU attention by plain products."""

    def forward(self, frames: Tensor, is_real: Tensor, rows: Tensor | None = None) -> Tensor:
        """See ``RotaryAttention``."""
        if not _may_skip(*self.children()):
            return super().forward(frames, is_real, rows)
        qkv = _linear_of_norm(frames, self.norm, self.query_key_value)
        mixed = self.output(attend(qkv, self.heads, is_real))
        return add_dropped(self.dropout, frames, mixed, rows)


class FastConvolution(TimeConvolution):
    """All but the two linear layers is computed again in the backward pass."""

    def forward(self, frames: Tensor, is_real: Tensor, rows: Tensor | None = None) -> Tensor:
        """See ``TimeConvolution``."""
        if not _may_skip(*self.children()):
            return super().forward(frames, is_real, rows)
        last = self.depthwise_norm
        expanded = _linear_of_norm(frames, self.norm, self.expand)
        trained = (self.depthwise.weight, self.depthwise.bias, last.weight, last.bias)
        gated_convolution = partial(_gated_convolution, last.eps)
        mixed = linear_of(gated_convolution, expanded, self.project, parameters=trained, constants=(is_real,))
        return add_dropped(self.dropout, frames, mixed, rows)


class FastPath(ModalityPath):
    """Padding is filled again in the backward pass: no copy of the input frames is kept."""

    def project(self, frames: Tensor, is_real: Tensor) -> Tensor:
        """See ``ModalityPath``."""
        if not _may_skip(self.projection):
            return super().project(frames, is_real)
        return linear_of(_without_padding, frames, self.projection, constants=(is_real,))


_FAST: dict[type[nn.Module], type[nn.Module]] = {
    FeedForward: FastFeedForward,
    RotaryAttention: FastAttention,
    TimeConvolution: FastConvolution,
    ModalityPath: FastPath,
    nn.Linear: Linear,
}


def _may_skip(*children: nn.Module) -> bool:
    """Tell whether nobody notices that the children are not called."""
    return not torch.compiler.is_compiling() and all(
        type(child) in _KNOWN and getattr(child, "bias", child) is not None and not _has_hooks(child)
        for child in children
    )


def _has_hooks(child: nn.Module) -> bool:
    forward = (*child._forward_pre_hooks.values(), *child._forward_hooks.values())
    return bool(child._backward_hooks) or any(not str(hook.__module__).startswith(_ENGINE) for hook in forward)


def _linear_of_norm(values: Tensor, norm: nn.LayerNorm, layer: nn.Linear) -> Tensor:
    return linear_of(partial(normalized, eps=norm.eps), values, layer, parameters=(norm.weight, norm.bias))


def _swish(dropout: Dropout, hidden: Tensor, rows: Tensor | None = None) -> Tensor:
    return unscaled(dropout, functional.silu(hidden), rows)


def _gated_convolution(eps: float, expanded: Tensor, is_real: Tensor, *trained: Tensor) -> Tensor:
    weight, bias, norm_weight, norm_bias = trained
    gated = keep(functional.glu(expanded, dim=-1), is_real.unsqueeze(-1))
    image = depthwise(gated.unsqueeze(1).permute(0, 3, 1, 2), weight, bias)
    convolved = image.permute(0, 2, 3, 1).squeeze(1)
    return functional.silu(normalized(convolved, norm_weight, norm_bias, eps))


def _without_padding(frames: Tensor, is_real: Tensor) -> Tensor:
    return keep(frames, is_real.unsqueeze(-1))

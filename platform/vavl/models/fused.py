"""The choice between the plain network and its fast paths, and the modules that take the fast ones.

``use_kernels(network)`` is the one place that chooses: it turns the modules of a plain network into the ones here,
whose weights, names and results are the same (up to rounding). ``use_kernels(network, on=False)`` turns them back.

They are for a CPU; on a GPU a fast module takes the plain way. It calls none of its children, so it does that as well
where one was replaced (LoRA, quantization) or has a hook, and under ``torch.compile`` and ``torch.export``.
"""

from __future__ import annotations

from functools import partial
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from vavl.models.conformer import DepthwiseConvolution, FeedForward, Frames, RotaryAttention, TimeConvolution
from vavl.models.draws import Dropout, SwishDropout, keep, kept_elements
from vavl.models.fast_frames import attend_on_cpu, depthwise
from vavl.models.fast_linear import Linear, linear_of, normalized
from vavl.models.vavl import ModalityPath

_KNOWN = (nn.LayerNorm, nn.Linear, Linear, Dropout, SwishDropout, DepthwiseConvolution)
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
        if not _may_skip(frames, *self):
            return super().forward(frames, rows, weight)
        norm, expand, inner, project, outer = cast(
            "tuple[nn.LayerNorm, nn.Linear, SwishDropout, nn.Linear, Dropout]", tuple(self)
        )
        hidden = _linear_of_norm(frames, norm, expand)
        mixed = linear_of(partial(_swish, inner), hidden, project, constants=_known(rows), scale=inner.scale(rows))
        total: Tensor = outer(mixed, rows, frames, weight)
        return total


class FastAttention(RotaryAttention):
    """The norm is computed again in the backward pass; in bf16 on a CPU attention by plain products."""

    def forward(
        self, frames: Tensor, is_real: Tensor | None, rows: Tensor | None = None, about: Frames | None = None
    ) -> Tensor:
        """See ``RotaryAttention``."""
        if not _may_skip(frames, *self.children()):
            return super().forward(frames, is_real, rows, about)
        qkv = _linear_of_norm(frames, self.norm, self.query_key_value)
        mixed = self.output(attend_on_cpu(qkv, self.heads, about or self.about(frames, is_real)))
        total: Tensor = self.dropout(mixed, rows, frames)
        return total


class FastConvolution(TimeConvolution):
    """All but the two linear layers is computed again in the backward pass."""

    def forward(self, frames: Tensor, is_real: Tensor | None, rows: Tensor | None = None) -> Tensor:
        """See ``TimeConvolution``."""
        if not _may_skip(frames, *self.children()):
            return super().forward(frames, is_real, rows)
        last = self.depthwise_norm
        expanded = _linear_of_norm(frames, self.norm, self.expand)
        trained = (self.depthwise.weight, self.depthwise.bias, last.weight, last.bias)
        gated_convolution = partial(_gated_convolution, last.eps)
        mixed = linear_of(gated_convolution, expanded, self.project, parameters=trained, constants=_known(is_real))
        total: Tensor = self.dropout(mixed, rows, frames)
        return total


class FastPath(ModalityPath):
    """Padding is filled again in the backward pass: no copy of the input frames is kept."""

    def project(self, frames: Tensor, is_real: Tensor | None) -> Tensor:
        """See ``ModalityPath``."""
        if not _may_skip(frames, self.projection):
            return super().project(frames, is_real)
        # Without padding, too: under ZeRO-3 every batch has to read the weights in one order.
        return linear_of(_without_padding, frames, self.projection, constants=_known(is_real))


_FAST: dict[type[nn.Module], type[nn.Module]] = {
    FeedForward: FastFeedForward,
    RotaryAttention: FastAttention,
    TimeConvolution: FastConvolution,
    ModalityPath: FastPath,
    nn.Linear: Linear,
}


def _may_skip(frames: Tensor, *children: nn.Module) -> bool:
    """Tell whether it is quicker not to call the children, and nobody notices."""
    return (
        frames.device.type == "cpu"
        and not torch.compiler.is_compiling()
        and all(
            type(child) in _KNOWN and getattr(child, "bias", child) is not None and not _has_hooks(child)
            for child in children
        )
    )


def _has_hooks(child: nn.Module) -> bool:
    forward = (*child._forward_pre_hooks.values(), *child._forward_hooks.values())
    return bool(child._backward_hooks) or any(not str(hook.__module__).startswith(_ENGINE) for hook in forward)


def _linear_of_norm(values: Tensor, norm: nn.LayerNorm, layer: nn.Linear) -> Tensor:
    return linear_of(partial(normalized, eps=norm.eps), values, layer, parameters=(norm.weight, norm.bias))


def _swish(dropout: Dropout, hidden: Tensor, rows: Tensor | None = None) -> Tensor:
    # Dropout without its scale, which the weight of the next layer takes: it is smaller.
    made = functional.silu(hidden)
    if rows is None or not dropout.is_on(rows):
        return made
    return keep(made, kept_elements(made, rows, dropout.draw(rows)))


def _known(constant: Tensor | None) -> tuple[Tensor, ...]:
    return () if constant is None else (constant,)


def _gated_convolution(eps: float, expanded: Tensor, *others: Tensor) -> Tensor:
    """Compute the middle of a ``TimeConvolution``; ``others`` are the real frames, if some are padding, and weights."""
    *is_real, weight, bias, norm_weight, norm_bias = others
    gated = functional.glu(expanded, dim=-1)
    if is_real:
        gated = keep(gated, is_real[0].unsqueeze(-1))
    image = depthwise(gated.unsqueeze(1).permute(0, 3, 1, 2), weight, bias)
    convolved = image.permute(0, 2, 3, 1).squeeze(1)
    return functional.silu(normalized(convolved, norm_weight, norm_bias, eps))


def _without_padding(frames: Tensor, is_real: Tensor | None = None) -> Tensor:
    return frames if is_real is None else keep(frames, is_real.unsqueeze(-1))

"""What a GPU does in one kernel where tensor operations take many: draws, rotary positions, casts.

The kernels are Triton's and stand in ``triton_kernels.py``; without Triton, on a CPU and under a compiler, which makes
kernels of its own, callers take the plain way.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call


def is_usable(values: Tensor) -> bool:
    """Tell whether the kernels take a tensor."""
    return values.is_cuda and not torch.compiler.is_compiling() and kernels() is not None


@cache
def kernels() -> Any:
    """Return the module of the kernels; None without Triton, which comes with torch for CUDA alone."""
    try:
        from vavl.models import triton_kernels
    except ImportError:
        return None
    return triton_kernels


def rotated_heads(qkv: Tensor, heads: int, cosine: Tensor, sine: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return rotated query, rotated key and value (B, H, T, D) of (B, T, 3 * H * D), with gradient."""
    found: tuple[Tensor, Tensor, Tensor] = _Rotate.apply(qkv, heads, cosine, sine)  # type: ignore[no-untyped-call]
    return found


def autocast_dtype(kind: str) -> torch.dtype | None:
    """Return the type of products under autocast on a kind of device; None where there is no autocast."""
    # The meta device, on which operations are counted, has none.
    is_on = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    return torch.get_autocast_dtype(kind) if is_on else None


@contextmanager
def weights_side_by_side(once: Iterable[nn.Module], repeatedly: Iterable[nn.Module]) -> Iterator[None]:
    """Cast the weights of each module in one piece, and add up the gradients of repeated calls in one piece.

    For modules that are called by ``call``. A weight by itself costs an operator to cast, one for the gradient to be
    cast back, and one to add the gradients of every further call.

    Args:
        once: modules that are called once within; nothing is done for them where no autocast casts their weights.
        repeatedly: modules that are called several times.
    """
    again = list(repeatedly)
    kind = next(again[0].parameters()).device.type
    dtype, made = autocast_dtype(kind), []
    for module in again if dtype is None else (*again, *once):
        weights = {
            f"{name}.{own}" if name else own: weight
            for name, part in module.named_modules()
            # Under autocast norms compute in float32.
            if dtype is None or isinstance(part, nn.Linear | nn.Conv2d)
            for own, weight in part.named_parameters(recurse=False)
        }
        flat = torch.cat([weight.flatten() for weight in weights.values()])
        shapes = {name: weight.shape for name, weight in weights.items()}
        vars(module)[_FLAT] = _Flat(shapes, flat if dtype is None else flat.to(dtype))
        made.append(module)
    try:
        yield
    finally:
        for module in made:
            del vars(module)[_FLAT]


_FLAT = "weights_side_by_side"
"""Where a module keeps its weights meanwhile."""


def call(module: nn.Module, *arguments: Any) -> Any:
    """Call a module, with its weights side by side where they are; see ``weights_side_by_side``."""
    flat: _Flat | None = vars(module).get(_FLAT)
    if flat is None:
        return module(*arguments)
    parts = torch.split(flat.values, [shape.numel() for shape in flat.shapes.values()])
    weights = {name: part.view(shape) for part, (name, shape) in zip(parts, flat.shapes.items(), strict=True)}
    return functional_call(module, weights, arguments)


class _Flat(NamedTuple):
    shapes: dict[str, torch.Size]
    values: Tensor


class _Rotate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, qkv: Tensor, heads: int, cosine: Tensor, sine: Tensor) -> tuple[Tensor, ...]:
        ctx.save_for_backward(cosine, sine)
        clips, frames, width = qkv.shape
        turned: Tensor = kernels().rotate(qkv.view(clips, frames, 3, heads, width // (3 * heads)), cosine, sine, 1)
        return turned.permute(2, 0, 3, 1, 4).unbind(0)

    @staticmethod
    def backward(ctx: Any, *above: Tensor) -> tuple[Tensor, None, None, None]:
        # (B, H, T, D) each, to (B, T, 3, H, D).
        together = torch.stack([one.transpose(1, 2) for one in above], dim=2)
        cosine, sine = ctx.saved_tensors
        return kernels().rotate(together, cosine, sine, -1).flatten(2), None, None, None

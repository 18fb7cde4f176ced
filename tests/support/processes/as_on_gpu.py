"""What a GPU would run, on a CPU: each kernel by tensor operations, and operators counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from vavl.models import gpu
from vavl.models.conformer import rotate as rotate_pairs
from vavl.models.draws import Draw, kept_elements, where_kept
from vavl.models.ladder import Combinator, normal_numbers

_NO_WORK = ("empty", "detach")


class Operators(TorchDispatchMode):
    """Counts operators that compute something, by name: neither views nor allocations.

    Those of the backward pass count, as those of a CPU run in the thread that calls it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.by_name: Counter[str] = Counter()
        self._is_within_kernel = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if not (self._is_within_kernel or func.is_view or name.startswith(_NO_WORK)):
            self.by_name[name] += 1
        return func(*args, **(kwargs or {}))

    @contextmanager
    def kernel(self, name: str) -> Iterator[None]:
        """Count what is done within as one."""
        self.by_name[name] += 1
        self._is_within_kernel = True
        try:
            yield
        finally:
            self._is_within_kernel = False


@contextmanager
def as_on_gpu() -> Iterator[Operators]:
    """Count operators, and take the branches of a GPU."""
    operators = Operators()

    def counted(kernel: Any) -> Any:
        def run(*arguments: Any, **options: Any) -> Any:
            with operators.kernel("swish_drop" if options.get("swish") else kernel.__name__):
                return kernel(*arguments, **options)

        return run

    kernels = SimpleNamespace(**{one.__name__: counted(one) for one in (drop, rotate, noise, combine)})
    with patch.multiple(gpu, is_usable=lambda _: True, kernels=lambda: kernels), operators:
        yield operators


def drop(
    values: Tensor,
    rows: Tensor,
    draw: Draw,
    *,
    residual: Tensor | None = None,
    grad: Tensor | None = None,
    swish: bool = False,
) -> Tensor:
    """Do what ``triton_kernels.drop`` does."""
    given = grad if grad is not None else torch.nn.functional.silu(values) if swish else values
    dropped = where_kept(given, kept_elements(given, rows, draw)) * draw.scale
    if grad is not None:
        return torch.ops.aten.silu_backward(dropped, values)
    return dropped if residual is None else residual + dropped


def rotate(qkv: Tensor, cosine: Tensor, sine: Tensor, sign: int) -> Tensor:
    """Do what ``triton_kernels.rotate`` does."""
    query, key, value = qkv.permute(2, 0, 3, 1, 4)
    turned = [rotate_pairs(one, cosine, sign * sine) for one in (query, key)]
    return torch.stack([*turned, value]).permute(1, 3, 0, 2, 4).contiguous()


def noise(rows: Tensor, is_real: Tensor, channels: int, stream: int) -> Tensor:
    """Do what ``triton_kernels.noise`` does."""
    return normal_numbers(rows, is_real, channels, stream)


def combine(
    lateral: Tensor, vertical: Tensor, weights: Sequence[Tensor], above: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Do what ``triton_kernels.combine`` does, by the gradients of the plain way."""
    given = [one.detach().requires_grad_() for one in (lateral, vertical.expand_as(lateral), *weights)]
    parts = dict(zip(("linear", "gate", "gate_scale"), given[2:], strict=True))
    with patch.object(gpu, "is_usable", lambda _: False), torch.enable_grad():
        estimate = torch.func.functional_call(Combinator(lateral.shape[-1]), parts, (given[0], given[1]))
    if above is None:
        return estimate.detach(), vertical, lateral
    of_lateral, of_vertical, linear, gate, scale = torch.autograd.grad(estimate, given, above)
    return of_lateral, of_vertical, torch.cat((linear, gate, scale.unsqueeze(0))).unsqueeze(0)

"""Sums over the global batch with gradients for the local part: exact over ranks and micro-batches.

A loss such as 1 - CCC is a function of moments of the whole global batch. Each rank and each
micro-batch holds a part of every moment. With G the sum of a moment over all parts and L the part at
hand, ``linked(G, L)`` has the value of G and the gradient of L; since dLoss/dG is the same
everywhere, the gradients of all parts add up to the gradient of the loss of the pooled batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

Moments = Mapping[str, Tensor]
"""Named sums over clips; what several ranks and micro-batches add up."""


def linked(global_sum: Tensor, local_sum: Tensor) -> Tensor:
    """Return ``global_sum`` in value, with the gradient of ``local_sum``."""
    joined: Tensor = _Linked.apply(global_sum, local_sum)  # type: ignore[no-untyped-call]
    return joined


class _Linked(torch.autograd.Function):
    """Computes nothing: a sum of differences would take three operators per moment and pass."""

    @staticmethod
    def forward(ctx: Any, global_sum: Tensor, local_sum: Tensor) -> Tensor:  # noqa: ARG004
        """Return the global sum."""
        return global_sum.detach()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor]:  # noqa: ARG004
        """Hand the gradient to the local sum."""
        return None, grad


def linked_moments(global_moments: Moments, local_moments: Moments) -> dict[str, Tensor]:
    """Return every moment of the global batch, with the gradient of the local part."""
    return {name: linked(global_moments[name], local_moments[name]) for name in local_moments}


def add_moments(first: Moments, second: Moments) -> dict[str, Tensor]:
    """Add two sets of moments name by name; both must hold the same names."""
    return {name: first[name] + second[name] for name in first}


def named_moments(prefix: str, moments: Moments) -> dict[str, Tensor]:
    """Put ``<prefix>/`` before every name."""
    return {f"{prefix}/{name}": value for name, value in moments.items()}


def moments_under(prefix: str, moments: Moments) -> dict[str, Tensor]:
    """Return what ``named_moments`` put under a prefix."""
    start = f"{prefix}/"
    return {name.removeprefix(start): value for name, value in moments.items() if name.startswith(start)}

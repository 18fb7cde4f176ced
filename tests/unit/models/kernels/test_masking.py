"""Masks by bits are masks by choice."""

from __future__ import annotations

import pytest
import torch

from vavl.models.kernels.masking import keep

DTYPES = [torch.bfloat16, torch.float16, torch.float32, torch.float64]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", [torch.bool, torch.int8])
def test_it_is_where_in_value_and_gradient(dtype, kind):
    values = torch.randn(4, 3, 5).to(dtype).requires_grad_()
    chosen = torch.rand(4, 3, 1) > 0.4
    found = keep(values, chosen if kind is torch.bool else -chosen.to(torch.int8))
    assert torch.equal(found, torch.where(chosen, values, 0))
    above = torch.randn(4, 3, 5).to(dtype)
    found.backward(above)
    assert torch.equal(values.grad, torch.where(chosen, above, 0))


@pytest.mark.parametrize("dtype", DTYPES)
def test_nothing_survives_where_nothing_is_kept(dtype):
    values = torch.tensor([torch.nan, torch.inf, -torch.inf, -1.0], dtype=dtype)
    assert keep(values, torch.zeros(4, dtype=torch.bool)).tolist() == [0, 0, 0, 0]


def test_gradients_that_are_expanded_are_taken():
    values = torch.ones(2, 3, requires_grad=True)
    keep(values, torch.tensor([[True], [False]])).sum().backward()
    assert values.grad.tolist() == [[1, 1, 1], [0, 0, 0]]

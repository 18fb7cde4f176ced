"""Dropout with bytes of randomness."""

from __future__ import annotations

import pytest
import torch

from vavl.models.dropout import Dropout


def test_share_and_mean_are_right_and_neighbours_are_independent() -> None:
    torch.manual_seed(0)
    dropped = Dropout(0.25)(torch.ones(1000, 1003))
    is_zero = (dropped == 0).float()
    assert is_zero.mean().item() == pytest.approx(0.25, abs=0.002)
    assert dropped.mean().item() == pytest.approx(1, abs=0.003)
    # Eight neighbours share one 64-bit draw: none of its bytes may follow another, nor be biased.
    flat = is_zero.flatten()[: 1000 * 1000].view(-1, 8)
    assert flat.mean(dim=0).sub(0.25).abs().max().item() < 0.005
    assert torch.corrcoef(flat.T).sub(torch.eye(8)).abs().max().item() < 0.02


def test_nothing_is_dropped_in_evaluation_or_at_probability_zero() -> None:
    values = torch.randn(7, 5)
    assert Dropout(0.5).eval()(values) is values
    assert Dropout(0.0)(values) is values


def test_gradient_is_zero_where_a_value_was_dropped_and_the_seed_decides() -> None:
    values = torch.randn(64, 33, requires_grad=True)
    torch.manual_seed(3)
    first = Dropout(0.5)(values)
    first.sum().backward()
    assert values.grad is not None
    assert torch.equal(values.grad == 0, first == 0)
    torch.manual_seed(3)
    assert torch.equal(Dropout(0.5)(values), first)

"""Reconstruction of the mean input frame: value, gradient, fillers."""

from __future__ import annotations

import math

import torch

from vavl.objectives.reconstruction import reconstruction_error_sum


def test_it_is_the_squared_error_averaged_over_channels():
    estimate, target = torch.tensor([[1.0, 2.0], [0.0, 0.0]]), torch.tensor([[0.0, 4.0], [3.0, 0.0]])
    assert reconstruction_error_sum(estimate, target, torch.ones(2)) == (1 + 4) / 2 + 9 / 2


def test_gradient_goes_to_the_estimate_and_not_to_the_target():
    estimate, target = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    estimate.requires_grad_()
    target.requires_grad_()
    reconstruction_error_sum(estimate, target, torch.ones(3)).backward()
    torch.testing.assert_close(estimate.grad, (estimate - target).detach() * 2 / 4)
    assert target.grad is None


def test_filler_rows_have_no_influence_whatever_they_hold():
    estimate, target = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    expected = reconstruction_error_sum(estimate[:2], target[:2], torch.ones(2))
    estimate[2] = math.inf
    estimate.requires_grad_()
    loss = reconstruction_error_sum(estimate, target, torch.tensor([1.0, 1.0, 0.0]))
    loss.backward()
    torch.testing.assert_close(loss, expected)
    assert torch.isfinite(estimate.grad[:2]).all()


def test_nothing_but_fillers_gives_0_with_gradient_0():
    estimate = torch.randn(2, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    loss = reconstruction_error_sum(estimate, torch.zeros(2, 4), torch.zeros(2))
    loss.backward()
    assert loss == 0
    assert not estimate.grad.any()

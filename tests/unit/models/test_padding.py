"""The mean over the real frames of a clip."""

from __future__ import annotations

import math

import pytest
import torch

from vavl.models.padding import masked_mean


@pytest.fixture
def frames():
    return torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0))


IS_REAL = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 0, 0, 0, 0]], dtype=torch.bool)


def test_it_is_the_mean_of_the_real_frames(frames):
    expected = torch.stack([frames[0].mean(0), frames[1, :2].mean(0), frames[2, 0]])
    torch.testing.assert_close(masked_mean(frames, IS_REAL), expected)


@pytest.mark.parametrize("garbage", [1e30, math.inf, math.nan])
def test_the_content_of_padding_leaves_no_trace(frames, garbage):
    filled = frames.masked_fill(~IS_REAL.unsqueeze(-1), garbage)
    assert torch.equal(masked_mean(filled, IS_REAL), masked_mean(frames, IS_REAL))


def test_padding_gets_no_gradient(frames):
    filled = frames.masked_fill(~IS_REAL.unsqueeze(-1), math.nan).requires_grad_()
    masked_mean(filled, IS_REAL).sum().backward()
    expected = IS_REAL / IS_REAL.sum(1, keepdim=True)
    torch.testing.assert_close(filled.grad, expected.unsqueeze(-1).expand(-1, -1, 4))


def test_a_clip_of_padding_alone_is_zero(frames):
    assert torch.equal(masked_mean(frames, torch.zeros(3, 5, dtype=torch.bool)), torch.zeros(3, 4))


def test_gradient_is_that_of_finite_differences(frames):
    double = frames.double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: masked_mean(x, IS_REAL), double)

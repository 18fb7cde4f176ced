"""Attention and convolution over time on a CPU: the quick forms are as exact as the general ones."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from vavl.models import fast_frames as frames_module
from vavl.models.conformer import DepthwiseConvolution, frames_of, join_heads, rotate, split_heads
from vavl.models.fast_frames import attend_on_cpu, depthwise

CLIPS, HEADS, WIDTH = 5, 3, 16


def inputs(frames: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return query, key and value as one tensor, a mask, and a gradient from above."""
    generator = torch.Generator().manual_seed(frames)
    qkv = torch.randn(CLIPS, frames, 3 * HEADS * WIDTH, generator=generator).bfloat16().to(dtype)
    lengths = torch.tensor([frames, 1, 2, frames // 2 + 1, frames])
    above = torch.randn(CLIPS, frames, HEADS * WIDTH, generator=generator).bfloat16().to(dtype)
    return qkv.requires_grad_(), torch.arange(frames) < lengths.unsqueeze(1), above


def run(way, frames: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    qkv, is_real, above = inputs(frames, dtype)
    mixed = way(qkv, HEADS, frames_of(qkv, WIDTH, is_real))
    mixed.backward(above)
    # Query, key, value.
    return mixed.detach(), qkv.grad.double().view(CLIPS, frames, 3, -1).permute(2, 0, 1, 3)


def fused(qkv, heads, about):
    query, key, value = split_heads(qkv, heads)
    query, key = (rotate(turned, about.cosine, about.sine) for turned in (query, key))
    mask = about.hidden
    return join_heads(functional.scaled_dot_product_attention(query, key, value, attn_mask=mask))


@pytest.mark.parametrize("frames", [2, 7, 75, 125])
@pytest.mark.parametrize("at_once", [1, 10**9])
def test_in_bf16_plain_products_are_as_near_to_float64_as_the_fused_kernel(frames, at_once, monkeypatch):
    """Within 0.4 % forward and 1 % of the gradients (norm over norm); the fused kernel has 0.2 and 0.3 to 0.65 %."""
    monkeypatch.setattr(frames_module, "_BYTES_AT_ONCE", at_once)
    exact, found = run(fused, frames, torch.float64), run(attend_on_cpu, frames, torch.bfloat16)
    assert (found[0] - exact[0]).norm() / exact[0].norm() < 0.004
    for part in range(3):
        error = (found[1][part] - exact[1][part]).norm() / exact[1][part].norm()
        assert error < 0.01, part


def test_plain_products_are_used_in_bf16_for_clips_that_are_not_too_long(monkeypatch):
    def is_quick(frames: int, dtype: torch.dtype) -> bool:
        qkv, is_real, _ = inputs(frames, dtype)
        return "ShortAttention" in attend_on_cpu(qkv, HEADS, frames_of(qkv, WIDTH, is_real)).grad_fn.name()

    monkeypatch.setattr(frames_module, "_MOST_FRAMES", 8)
    assert is_quick(8, torch.bfloat16)
    assert not is_quick(9, torch.bfloat16)
    assert not is_quick(8, torch.float32)


def test_in_bf16_padding_gets_no_gradient_and_gives_none():
    qkv, is_real, above = inputs(9, torch.bfloat16)
    attend_on_cpu(qkv, HEADS, frames_of(qkv, WIDTH, is_real)).backward(above * is_real[..., None])
    assert qkv.grad.isfinite().all()
    assert not qkv.grad[~is_real].any()
    assert qkv.grad[is_real].abs().sum() > 1


def test_a_frame_of_padding_with_large_values_changes_nothing_in_bf16():
    for change in (1.0, 1e4):
        qkv, is_real, above = inputs(9, torch.bfloat16)
        filled = torch.where(is_real[..., None], qkv, qkv * change)
        mixed = attend_on_cpu(filled, HEADS, frames_of(filled, WIDTH, is_real))
        mixed.backward(above * is_real[..., None])
        found = (mixed.detach() * is_real[..., None], qkv.grad)
        if change == 1.0:
            first = found
    assert all(torch.equal(*pair) for pair in zip(first, found, strict=True))


def gradients_of(convolve, layer, image: torch.Tensor) -> list[torch.Tensor]:
    """Return the result, and the gradients of the image and of kernel and bias."""
    layer.zero_grad()
    image = image.clone().requires_grad_()
    result = convolve(image)
    result.square().sum().backward()
    return [result.detach(), image.grad, *(parameter.grad.clone() for parameter in layer.parameters())]


def quick(layer):
    return lambda image: depthwise(image, layer.weight, layer.bias)


def test_a_single_frame_is_convolved_as_by_the_general_way():
    """In value and in the gradient of the kernel, the bias and the input."""
    torch.manual_seed(0)
    layer, image = DepthwiseConvolution(6, 5), torch.randn(4, 6, 1, 1)
    for found, expected in zip(
        gradients_of(quick(layer), layer, image), gradients_of(layer, layer, image), strict=True
    ):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("frames", [2, 3, 40, 130])
@pytest.mark.parametrize("at_once", [1, 7, 64])
def test_in_bf16_it_is_as_near_to_float64_as_the_general_way(frames, at_once, monkeypatch):
    """Result and every gradient within 1 % (norm over norm); the general way has 0.2 to 0.7 %."""
    monkeypatch.setattr(frames_module, "_FRAMES_AT_ONCE", at_once)
    torch.manual_seed(0)
    layer = DepthwiseConvolution(6, 5).bfloat16()
    # Channels last, as the Conformer hands it over.
    image = torch.randn(3, frames, 6).bfloat16().unsqueeze(1).permute(0, 3, 1, 2)
    found = gradients_of(quick(layer), layer, image)
    exact = layer.double()
    for one, expected in zip(found, gradients_of(exact, exact, image.double()), strict=True):
        assert one.shape == expected.shape
        assert (one.double() - expected).norm() / expected.norm() < 0.01


def test_the_quick_gradient_is_used_in_bf16_alone():
    layer, image = DepthwiseConvolution(4, 3), torch.randn(2, 4, 1, 8)

    def convolved_by(dtype: torch.dtype) -> str:
        added = quick(layer.to(dtype))(image.to(dtype)).grad_fn  # the bias comes last
        return added.next_functions[0][0].name()

    assert "_Convolve" not in convolved_by(torch.float32)
    assert "_Convolve" in convolved_by(torch.bfloat16)

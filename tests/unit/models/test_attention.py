"""Attention: the quick backward in bf16 is that of the fused kernels."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from vavl.models import attention as attention_module
from vavl.models.attention import attend

CLIPS, HEADS, WIDTH = 5, 3, 16


def inputs(frames: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return query, key and value as one tensor, a mask, and a gradient from above."""
    generator = torch.Generator().manual_seed(frames)
    joined = torch.randn(3, CLIPS, HEADS, frames, WIDTH, generator=generator).bfloat16().to(dtype)
    lengths = torch.tensor([frames, 1, 2, frames // 2 + 1, frames])
    above = torch.randn(CLIPS, HEADS, frames, WIDTH, generator=generator).bfloat16().to(dtype)
    return joined.requires_grad_(), torch.arange(frames) < lengths.unsqueeze(1), above


def run(way, frames: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    joined, is_real, above = inputs(frames, dtype)
    mixed = way(*joined, is_real)
    mixed.backward(above)
    return mixed.detach(), joined.grad.double()


def fused(query, key, value, is_real):
    return functional.scaled_dot_product_attention(query, key, value, attn_mask=is_real[:, None, None, :])


@pytest.mark.parametrize("frames", [2, 7, 75, 125])
@pytest.mark.parametrize("at_once", [1, 10**9])
def test_in_bf16_the_forward_is_the_fused_one_and_the_backward_as_near_to_float64(
    frames, at_once, monkeypatch
):
    """Gradients: within 1 % of those in float64 (norm over norm), where the fused kernel has 0.3 to 0.5 %."""
    monkeypatch.setattr(attention_module, "_BYTES_AT_ONCE", at_once)
    exact = run(fused, frames, torch.float64)
    quick, plain = (run(way, frames, torch.bfloat16) for way in (attend, fused))
    assert torch.equal(quick[0], plain[0])
    for part in range(3):
        error = (quick[1][part] - exact[1][part]).norm() / exact[1][part].norm()
        assert error < 0.01, part


def test_the_quick_backward_is_used_in_bf16_for_short_clips_alone():
    def is_quick(frames: int, dtype: torch.dtype) -> bool:
        joined, is_real, _ = inputs(frames, dtype)
        return "ShortAttention" in attend(*joined, is_real).grad_fn.name()

    assert is_quick(256, torch.bfloat16)
    assert not is_quick(257, torch.bfloat16)
    assert not is_quick(9, torch.float32)


def test_in_bf16_padding_gets_no_gradient_and_gives_none():
    joined, is_real, above = inputs(9, torch.bfloat16)
    attend(*joined, is_real).backward(above * is_real[:, None, :, None])
    assert joined.grad.isfinite().all()
    hidden = ~is_real[:, None, :, None].expand(3, -1, HEADS, -1, WIDTH)
    assert not joined.grad[hidden].any()
    assert joined.grad[~hidden].abs().sum() > 1


def test_a_frame_of_padding_with_large_values_changes_nothing_in_bf16():
    for change in (1.0, 1e4):
        joined, is_real, above = inputs(9, torch.bfloat16)
        filled = torch.where(is_real[:, None, :, None], joined, joined * change)
        mixed = attend(*filled, is_real)
        mixed.backward(above * is_real[:, None, :, None])
        found = (mixed.detach() * is_real[:, None, :, None], joined.grad)
        if change == 1.0:
            first = found
    assert all(torch.equal(*pair) for pair in zip(first, found, strict=True))

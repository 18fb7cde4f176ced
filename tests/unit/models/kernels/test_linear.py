"""Linear layers that keep little: values and gradients are those of the plain way."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from plain_blocks import plain_block
from torch import nn
from torch.nn import functional

from vavl.models.conformer import ConformerBlock
from vavl.models.kernels import linear as linear_module
from vavl.models.kernels.draws import DrawKey, keys_of_rows
from vavl.models.kernels.dropout import number_streams
from vavl.models.kernels.linear import Linear, linear_of, normalised

CLIPS, FRAMES, WIDTH = 5, 9, 16
LENGTHS = (9, 4, 1, 7, 9)


@pytest.fixture(params=[1, 2**21], ids=["clip by clip", "at once"])
def _portions(request, monkeypatch):
    monkeypatch.setattr(linear_module, "_BYTES_AT_ONCE", request.param)


@pytest.fixture(params=[True, False], ids=["oneDNN", "MKL"])
def _products(request, monkeypatch):
    if request.param and not torch.backends.mkldnn.is_available():
        pytest.skip("this torch has no oneDNN")
    monkeypatch.setattr(linear_module, "_onednn_is_quicker", lambda: request.param)
    monkeypatch.setattr(linear_module, "_LEAST_PRODUCTS", 1)


def gradients_of(way, block, dtype: torch.dtype, *, dropped: bool) -> list[torch.Tensor]:
    """Return what a way of computing a block gives, and the gradients of its input and of every weight."""
    generator = torch.Generator().manual_seed(2)
    frames, above = (torch.randn(CLIPS, FRAMES, WIDTH, generator=generator).to(dtype) for _ in range(2))
    frames.requires_grad_()
    is_real = torch.arange(FRAMES) < torch.tensor(LENGTHS).unsqueeze(1)
    rows = keys_of_rows(DrawKey(1, 2), torch.arange(CLIPS), 0) if dropped else None
    block.zero_grad()
    low = torch.autocast("cpu", torch.bfloat16) if dtype == torch.bfloat16 else nullcontext()
    with low:
        result = way(block, frames, is_real, rows)
    # What lies in the padding is undefined.
    result.backward(above * is_real.unsqueeze(-1))
    found = [result * is_real.unsqueeze(-1), frames.grad, *(weight.grad for weight in block.parameters())]
    return [one.detach().double() for one in found]


@pytest.fixture
def block(tiny_settings):
    torch.manual_seed(0)
    block = ConformerBlock(tiny_settings(dropout=0.3, convolution_kernel=5)).train()
    number_streams(block)
    return block


def quick(block, *arguments):
    return block(*arguments)


@pytest.mark.usefixtures("_portions", "_products")
@pytest.mark.parametrize("dropped", [False, True])
def test_a_block_is_the_plain_one_in_fp32(block, dropped):
    found, plain = (gradients_of(way, block, torch.float32, dropped=dropped) for way in (quick, plain_block))
    assert len(found) == 2 + len(list(block.parameters()))
    for one, expected in zip(found, plain, strict=True):
        torch.testing.assert_close(one, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.usefixtures("_portions")
@pytest.mark.parametrize("dropped", [False, True])
def test_a_block_in_bf16_is_as_near_to_float64_as_the_plain_one(block, dropped):
    """Norm over norm: each gradient at most 1.5 times as far as the plain way's, or within 1 %."""
    plain, found = (gradients_of(way, block, torch.bfloat16, dropped=dropped) for way in (plain_block, quick))
    exact = gradients_of(plain_block, block.double(), torch.float64, dropped=dropped)
    for expected, one, other in zip(exact, found, plain, strict=True):
        far, farther = ((way - expected).norm() / expected.norm() for way in (one, other))
        assert far < max(1.5 * farther, 0.01)


def saved_bytes(work) -> int:
    """Return the bytes of the storages that autograd keeps."""
    kept: dict[int, int] = {}

    def pack(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = work()
    assert result.requires_grad
    return sum(kept.values())


def test_a_block_keeps_little_more_than_half_of_what_the_plain_one_keeps(tiny_settings):
    block = ConformerBlock(tiny_settings(dropout=0.3)).train()
    frames = torch.randn(64, FRAMES, WIDTH)
    is_real, rows = torch.ones(64, FRAMES, dtype=torch.bool), keys_of_rows(DrawKey(0, 0), torch.arange(64), 0)
    quickly = saved_bytes(lambda: block(frames, is_real, rows))
    assert quickly < 0.6 * saved_bytes(lambda: plain_block(block, frames, is_real, rows))


def test_constants_are_those_of_the_clips_at_work(monkeypatch):
    monkeypatch.setattr(linear_module, "_BYTES_AT_ONCE", 1)
    layer, values, factor = Linear(3, 2), torch.randn(4, 5, 3), torch.arange(4.0).view(4, 1, 1)
    seen = []

    def scaled(some, by):
        seen.append(len(some))
        return some * by

    found = linear_of(scaled, values, layer, constants=(factor,), scale=2.0)
    torch.testing.assert_close(found, functional.linear(2 * values * factor, layer.weight, layer.bias))
    assert seen == [1, 1, 1, 1]


@pytest.mark.parametrize("frozen", ["values", "weight", "bias", "norm"])
def test_what_is_frozen_gets_no_gradient_and_changes_no_other(frozen):
    torch.manual_seed(0)
    layer, norm = nn.Linear(6, 4), nn.LayerNorm(6)
    values = torch.randn(3, 2, 6, requires_grad=True)
    tensors = {"values": values, "weight": layer.weight, "bias": layer.bias, "norm": norm.weight}

    def gradients() -> dict[str, torch.Tensor | None]:
        for one in tensors.values():
            one.grad = None
        linear_of(normalised, values, layer, parameters=(norm.weight, norm.bias)).square().sum().backward()
        return {name: None if one.grad is None else one.grad.clone() for name, one in tensors.items()}

    whole = gradients()
    tensors[frozen].requires_grad_(requires_grad=False)
    for name, gradient in gradients().items():
        if name == frozen:
            assert gradient is None
        else:
            assert torch.equal(gradient, whole[name])


def test_a_layer_takes_rows_without_time_and_batches_without_clips_or_frames():
    layer = Linear(6, 4)
    for shape in ((3, 6), (0, 6), (2, 0, 6)):
        values = torch.randn(shape, requires_grad=True)
        found = layer(values)
        torch.testing.assert_close(found, functional.linear(values, layer.weight, layer.bias))
        found.sum().backward()
        assert values.grad.shape == shape

"""Linear layers that keep little: values and gradients are those of the plain way."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from vavl.models import fast_linear as linear_module
from vavl.models.fast_linear import Linear, linear_of, normalized


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
        linear_of(normalized, values, layer, parameters=(norm.weight, norm.bias)).square().sum().backward()
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


def test_without_the_private_operator_the_public_one_multiplies(monkeypatch):
    class Nothing:
        """The operators of a build of torch that lacks it."""

    for name in ("mkl", "mkldnn"):
        monkeypatch.setattr(getattr(torch.backends, name), "is_available", lambda: True)
    monkeypatch.setattr(torch.ops, "mkldnn", Nothing())
    linear_module._onednn_is_quicker.cache_clear()
    try:
        assert not linear_module._onednn_is_quicker()
        values, layer = torch.randn(2000, 40), Linear(40, 30)
        assert torch.equal(layer(values), torch.nn.functional.linear(values, layer.weight, layer.bias))
    finally:
        linear_module._onednn_is_quicker.cache_clear()

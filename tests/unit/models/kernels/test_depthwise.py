"""The convolution over time: its quick forms are the general one."""

from __future__ import annotations

import pytest
import torch

from vavl.models.conformer import DepthwiseConvolution
from vavl.models.kernels import depthwise as depthwise_module
from vavl.models.kernels.depthwise import depthwise


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
    monkeypatch.setattr(depthwise_module, "_FRAMES_AT_ONCE", at_once)
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

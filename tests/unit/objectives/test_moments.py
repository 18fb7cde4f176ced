"""Losses of the global batch from sums over its parts: values and gradients, over ranks and micro-batches."""

from __future__ import annotations

from functools import reduce

import pytest
import torch

from vavl.objectives.moments import add_moments, linked
from vavl.objectives.supervised import concordance_loss, concordance_moments


def test_linked_has_the_global_value_and_the_local_gradient():
    whole, part = torch.tensor(7.0, requires_grad=True), torch.tensor(2.0, requires_grad=True)
    joined = linked(whole, 3 * part)
    joined.square().backward()
    assert joined == 7
    assert part.grad == 2 * 7 * 3
    assert whole.grad is None


def test_moments_add_up_name_by_name():
    first, second = ({"a": torch.tensor(1.0), "b": torch.ones(2)} for _ in range(2))
    total = add_moments(first, second)
    assert total["a"] == 2
    assert total["b"].tolist() == [2, 2]
    with pytest.raises(KeyError, match="b"):
        add_moments(first, {"a": torch.tensor(1.0)})


@pytest.mark.parametrize("parts", [(24,), (12, 12), (10, 1, 0, 13), (3,) * 8])
def test_concordance_over_parts_is_that_of_the_pooled_batch(parts):
    """Every part (a rank or a micro-batch) sees its own clips and the sums of all of them."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 24, 3, generator=generator, dtype=torch.float64)
    weight = (torch.rand(24, generator=generator) > 0.2).double()
    slope = torch.randn(3, generator=generator, dtype=torch.float64)

    def loss_and_gradient(sizes: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
        places = torch.split(torch.arange(24), list(sizes))
        known = [concordance_moments(slope * x[place], y[place], weight[place]) for place in places]
        everything = reduce(add_moments, known)
        knob = slope.clone().requires_grad_()
        values = []
        for place in places:
            local = concordance_moments(knob * x[place], y[place], weight[place])
            loss = concordance_loss(everything, local)
            loss.backward()  # gradients of the parts add up, as an engine adds them
            values.append(loss.detach())
        assert all(torch.equal(value, values[0]) for value in values)
        return values[0], knob.grad

    pooled_loss, pooled_gradient = loss_and_gradient((24,))
    loss, gradient = loss_and_gradient(parts)
    torch.testing.assert_close(loss, pooled_loss)
    torch.testing.assert_close(gradient, pooled_gradient, atol=1e-12, rtol=1e-9)


def test_a_mean_of_the_parts_would_be_another_loss():
    """The canary of the test above: what an unsynchronised version gives differs by far."""
    generator = torch.Generator().manual_seed(0)
    p, y = torch.randn(2, 24, 1, generator=generator, dtype=torch.float64)

    def loss(place: slice) -> torch.Tensor:
        moments = concordance_moments(p[place], y[place], torch.ones(24)[place])
        return concordance_loss(moments, moments)

    mean_of_parts = torch.stack([loss(slice(start, start + 3)) for start in range(0, 24, 3)]).mean()
    assert abs(mean_of_parts - loss(slice(None))) > 0.01

"""Cross-entropy and concordance: values, where gradient goes, and what has no influence."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vavl.metrics.scores import concordance_of
from vavl.objectives.supervised import concordance, concordance_loss, concordance_moments, cross_entropy_sum


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def pooled_concordance(p: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Lin's formula, written out once more."""
    covariance = ((p - p.mean(0)) * (y - y.mean(0))).mean(0)
    return 2 * covariance / (p.var(0, correction=0) + y.var(0, correction=0) + (p.mean(0) - y.mean(0)) ** 2)


class TestCrossEntropy:
    def test_hard_labels(self):
        logits, truth = draw(5, 3).float(), torch.tensor([0, 2, 1, 1, 0])
        found = cross_entropy_sum(logits, torch.eye(3)[truth], torch.ones(5))
        torch.testing.assert_close(found, torch.nn.functional.cross_entropy(logits, truth, reduction="sum"))

    def test_soft_labels(self):
        logits, votes = draw(5, 3).float(), torch.softmax(draw(5, 3, seed=1).float(), -1)
        expected = -(votes * torch.log_softmax(logits, -1)).sum()
        torch.testing.assert_close(cross_entropy_sum(logits, votes, torch.ones(5)), expected)

    def test_the_best_answer_to_votes_is_the_votes(self):
        votes = torch.tensor([[0.7, 0.2, 0.1]])
        logits = votes.log().requires_grad_()
        cross_entropy_sum(logits, votes, torch.ones(1)).backward()
        torch.testing.assert_close(logits.grad, torch.zeros(1, 3), atol=1e-6, rtol=0)

    def test_clips_without_weight_have_no_influence_whatever_they_hold(self):
        logits = draw(4, 3).float()
        logits[1], logits[3] = 1e30, math.inf
        logits.requires_grad_()
        weight = torch.tensor([1.0, 0.0, 1.0, 0.0])
        loss = cross_entropy_sum(logits, torch.eye(3)[[0, 1, 2, 0]], weight)
        loss.backward()
        kept = logits.detach()[[0, 2]].requires_grad_()
        expected = cross_entropy_sum(kept, torch.eye(3)[[0, 2]], torch.ones(2))
        expected.backward()
        torch.testing.assert_close(loss, expected)
        torch.testing.assert_close(logits.grad[[0, 2]], kept.grad)
        assert not logits.grad[1].any()

    def test_no_label_gives_0_with_gradient_0(self):
        logits = draw(4, 3).float().requires_grad_()
        loss = cross_entropy_sum(logits, torch.zeros(4, 3), torch.zeros(4))
        loss.backward()
        assert loss == 0
        assert torch.equal(logits.grad, torch.zeros(4, 3))

    def test_gradient_is_that_of_finite_differences(self):
        target, weight = torch.softmax(draw(4, 3, seed=1), -1).float(), torch.tensor([1.0, 0.0, 1.0, 1.0])
        logits = draw(4, 3).float()
        logits.requires_grad_()
        cross_entropy_sum(logits, target, weight).backward()
        step = 1e-2
        for place in ((0, 1), (1, 0), (3, 2)):
            moved = torch.zeros(4, 3)
            moved[place] = step
            with torch.no_grad():
                rise = cross_entropy_sum(logits + moved, target, weight) - cross_entropy_sum(
                    logits - moved, target, weight
                )
            assert float(logits.grad[place]) == pytest.approx(float(rise) / (2 * step), abs=1e-3)

    def test_low_precision_logits_are_summed_in_float32(self):
        assert (
            cross_entropy_sum(draw(4, 3).bfloat16(), torch.eye(3)[[0, 1, 2, 0]], torch.ones(4)).dtype == torch.float32
        )


def ccc(p: torch.Tensor, y: torch.Tensor, weight: torch.Tensor | None = None) -> torch.Tensor:
    return concordance(concordance_moments(p, y, torch.ones(len(p)) if weight is None else weight))


pairs = st.lists(st.tuples(st.floats(-5, 5), st.floats(-5, 5)), min_size=2, max_size=20)


class TestConcordance:
    def test_it_is_lins_formula_and_that_of_the_report(self):
        p, y = draw(30, 2), draw(30, 2, seed=1)
        torch.testing.assert_close(ccc(p, y), pooled_concordance(p, y), atol=1e-7, rtol=0)
        np.testing.assert_allclose(ccc(p, y).numpy(), concordance_of(p.numpy(), y.numpy()), atol=1e-7)

    @settings(derandomize=True, max_examples=60, deadline=None)
    @given(pairs)
    def test_it_is_at_most_the_correlation(self, drawn):
        p, y = torch.tensor(drawn, dtype=torch.float64).T.unsqueeze(-1)
        found = float(ccc(p, y))
        assert math.isfinite(found)
        if p.std() > 1e-3 and y.std() > 1e-3:
            r = float(torch.corrcoef(torch.stack((p[:, 0], y[:, 0])))[0, 1])
            assert abs(found) <= abs(r) + 1e-9

    def test_it_is_1_for_equal_values_only(self):
        y = draw(20, 3)
        torch.testing.assert_close(ccc(y, y), torch.ones(3).double(), atol=1e-7, rtol=0)
        for other in (y + 0.1, 1.1 * y, 0.9 * y, y.flip(0)):
            assert (ccc(other, y) < 1 - 1e-4).all()

    @pytest.mark.parametrize("shift", [-2.0, 0.3, 5.0])
    def test_a_shift_has_its_closed_form(self, shift):
        y = 1.7 * draw(50, 1)
        expected = 1 / (1 + shift**2 / (2 * y.var(correction=0)))
        assert float(ccc(y + shift, y)) == pytest.approx(float(expected), abs=1e-7)

    @pytest.mark.parametrize("constant", [0.0, 3.0, 1e4])
    def test_a_constant_prediction_gives_0_and_finite_gradients(self, constant):
        p, y = torch.full((20, 2), constant, dtype=torch.float32).requires_grad_(), draw(20, 2).float()
        found = ccc(p, y)
        torch.testing.assert_close(found, torch.zeros(2).double(), atol=1e-6, rtol=0)
        found.sum().backward()
        assert torch.isfinite(p.grad).all()
        # It must also be able to leave the constant: gradient points along the target.
        assert (p.grad * (y - y.mean(0))).sum() > 0

    def test_a_constant_target_or_both_constant_gives_0_and_finite_gradients(self):
        constant = torch.ones(9, 1).double()
        for p in (draw(9, 1).requires_grad_(), constant.clone().requires_grad_()):
            found = ccc(p, constant)
            found.backward()
            assert float(found.detach()) == pytest.approx(0, abs=1e-6)
            assert torch.isfinite(p.grad).all()

    @pytest.mark.parametrize("clips", [0, 1])
    def test_fewer_than_two_clips_give_a_loss_of_0_with_gradient_0(self, clips):
        p, weight = draw(3, 2).requires_grad_(), (torch.arange(3) < clips).float()
        moments = concordance_moments(p, draw(3, 2, seed=1), weight)
        loss = concordance_loss({name: value.detach() for name, value in moments.items()}, moments)
        loss.backward()
        assert loss == 0
        assert torch.equal(p.grad, torch.zeros(3, 2).double())

    def test_clips_without_weight_have_no_influence_whatever_they_hold(self):
        p, y = draw(5, 2), draw(5, 2, seed=1)
        weight = torch.tensor([1.0, 1.0, 0.0, 1.0, 0.0])
        expected = ccc(p[[0, 1, 3]], y[[0, 1, 3]])
        p[2], p[4], y[2] = math.nan, 1e30, math.inf
        p.requires_grad_()
        found = ccc(p, y, weight)
        found.sum().backward()
        torch.testing.assert_close(found, expected)
        assert not p.grad[[2, 4]].any()
        assert torch.isfinite(p.grad).all()

    def test_gradient_goes_to_the_prediction_alone(self):
        p, y = draw(6, 2).requires_grad_(), draw(6, 2, seed=1)
        weight = torch.tensor([1.0, 1.0, 0.0, 1.0, 1.0, 1.0], dtype=torch.float64)
        assert torch.autograd.gradcheck(lambda x: ccc(x, y, weight), p)

    def test_large_values_do_not_cancel(self):
        p, y = draw(50, 1) + 1e3, draw(50, 1, seed=1) + 1e3
        torch.testing.assert_close(ccc(p, y), pooled_concordance(p, y), atol=1e-6, rtol=0)

"""The learning rate of a step."""

from __future__ import annotations

import math

import pytest

from vavl.training.settings import OptimizerSettings
from vavl.training.step import learning_rate


def curve(total: int = 100, **settings) -> list[float]:
    chosen = OptimizerSettings(learning_rate=2.0, **settings)
    return [learning_rate(step, total, chosen) for step in range(total)]


def test_by_default_the_rate_is_constant():
    assert set(curve()) == {2.0}


def test_warm_up_rises_in_equal_steps_from_the_first_to_the_peak():
    rates = curve(warmup_steps=4)
    assert rates[:6] == pytest.approx([0.5, 1.0, 1.5, 2.0, 2.0, 2.0])


def test_the_rate_falls_as_a_cosine_to_the_final_share():
    rates = curve(final_share=0.1)
    assert rates[0] == 2.0
    assert rates[50] == pytest.approx(2.0 * (0.1 + 0.9 / 2))
    assert rates[-1] == pytest.approx(0.2, rel=0.02)
    assert rates == sorted(rates, reverse=True)
    expected = 2.0 * (0.1 + 0.9 * (1 + math.cos(math.pi * 0.25)) / 2)
    assert rates[25] == pytest.approx(expected)


def test_warm_up_and_decay_join_at_the_peak():
    rates = curve(warmup_steps=10, final_share=0.0)
    assert max(rates) == rates[9] == rates[10] == 2.0
    assert min(rates) > 0


@pytest.mark.parametrize("total", [1, 3, 10])
def test_a_run_shorter_than_its_warm_up_never_leaves_it(total):
    rates = curve(total, warmup_steps=20, final_share=0.1)
    assert rates == pytest.approx([2.0 * (step + 1) / 20 for step in range(total)])


def test_the_rate_of_a_step_beyond_the_end_is_the_last():
    chosen = OptimizerSettings(learning_rate=2.0, final_share=0.1)
    assert learning_rate(500, 100, chosen) == pytest.approx(0.2)

"""Concordance of attribute predictions, as evaluations report it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vavl.metrics.attributes import attribute_scores, concordance_of

values = st.lists(st.tuples(st.floats(-5, 5), st.floats(-5, 5)), min_size=3, max_size=20)


@settings(derandomize=True, max_examples=50, deadline=None)
@given(values)
def test_it_is_at_most_the_correlation(pairs):
    p, y = (column[:, None] for column in np.array(pairs).T)
    ccc = concordance_of(p, y)[0]
    assert np.isfinite(ccc)
    if p.std() > 1e-3 and y.std() > 1e-3:
        assert abs(ccc) <= abs(np.corrcoef(p[:, 0], y[:, 0])[0, 1]) + 1e-9


def test_it_is_1_for_equal_values_and_below_1_for_others():
    y = np.random.default_rng(0).normal(size=(20, 3))
    np.testing.assert_allclose(concordance_of(y, y), 1)
    np.testing.assert_allclose(concordance_of(-y + 2 * y.mean(0), y), -1)
    for other in (y + 0.1, y * 1.1, y * 0.9):
        assert (concordance_of(other, y) < 1 - 1e-4).all()


@pytest.mark.parametrize("shift", [-2.0, 0.3, 5.0])
def test_a_shift_has_its_closed_form(shift):
    y = np.random.default_rng(0).normal(scale=1.7, size=(50, 1))
    expected = 1 / (1 + shift**2 / (2 * y.var()))
    assert concordance_of(y + shift, y)[0] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("constant", [0.0, 3.0])
def test_a_constant_prediction_scores_0(constant):
    y = np.random.default_rng(0).normal(size=(20, 1))
    assert concordance_of(np.full_like(y, constant), y)[0] == pytest.approx(0, abs=1e-12)
    assert concordance_of(np.full_like(y, constant), np.full_like(y, constant))[0] == 0


def test_scores_by_name():
    generator = np.random.default_rng(0)
    y, p = generator.normal(size=(2, 30, 2))
    scores = attribute_scores(p, y, ["arousal", "valence"])
    ccc = concordance_of(p, y)
    assert scores["ccc_arousal"] == ccc[0]
    assert scores["ccc_valence"] == ccc[1]
    assert scores["ccc_mean"] == pytest.approx(ccc.mean())
    assert scores["loss"] == pytest.approx((1 - ccc).sum())
    assert scores["rmse_valence"] == pytest.approx(np.sqrt(np.mean((p[:, 1] - y[:, 1]) ** 2)))


def test_no_clips_have_no_scores():
    assert attribute_scores(np.zeros((0, 2)), np.zeros((0, 2)), ["arousal", "valence"]) == {}

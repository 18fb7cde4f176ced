"""Weights and schedules of the objectives."""

from __future__ import annotations

import pytest

from vavl.objectives.settings import HgrSettings, ObjectiveSettings, ScheduledSettings


@pytest.mark.parametrize(
    ("settings", "weights"),
    [
        ({"weight": 2}, [2, 2, 2, 2, 2, 2]),
        ({"weight": 2, "start_step": 3}, [0, 0, 0, 2, 2, 2]),
        ({"weight": 2, "ramp_steps": 3}, [0.5, 1, 1.5, 2, 2, 2]),
        ({"weight": 2, "start_step": 2, "ramp_steps": 1}, [0, 0, 1, 2, 2, 2]),
        ({"weight": 0, "ramp_steps": 2}, [0, 0, 0, 0, 0, 0]),
    ],
)
def test_a_weight_starts_and_ramps(settings, weights):
    schedule = ScheduledSettings.model_validate(settings)
    assert [schedule.weight_at(step) for step in range(6)] == weights


def test_only_configured_objectives_have_a_weight():
    assert ObjectiveSettings().weights_at(0) == {"supervised": 1.0, "reconstruction": 2.0}
    assert ObjectiveSettings(hgr=HgrSettings(weight=0.5)).weights_at(7)["hgr"] == 0.5


def test_objectives_describe_themselves():
    settings = ObjectiveSettings(hgr=HgrSettings(weight=0.5, start_step=100, ramp_steps=50))
    assert settings.in_words() == [
        "supervised x 1", "reconstruction x 2", "hgr x 0.5 (from step 100 over 50 steps)",
    ]  # fmt: skip

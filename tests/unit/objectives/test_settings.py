"""Weights and schedules of the objectives."""

from __future__ import annotations

import pytest

from vavl.config.load import validate
from vavl.errors import ConfigError
from vavl.objectives.settings import HgrSettings, LadderSettings, ObjectiveSettings, ScheduledSettings


@pytest.mark.parametrize(
    ("settings", "weights"),
    [
        ({"weight": 2}, [2, 2, 2, 2, 2, 2]),
        ({"weight": 2, "start_step": 3}, [0, 0, 0, 2, 2, 2]),
        ({"weight": 2, "ramp_steps": 3}, [0.5, 1, 1.5, 2, 2, 2]),
        ({"weight": 2, "start_step": 2, "ramp_steps": 1}, [0, 0, 1, 2, 2, 2]),
        ({"weight": 0, "ramp_steps": 2}, [0, 0, 0, 0, 0, 0]),
        ({"weight": 2, "end_step": 4}, [2, 2, 2, 2, 0, 0]),
        ({"weight": 2, "start_step": 1, "ramp_steps": 9, "end_step": 3}, [0, 0.2, 0.4, 0, 0, 0]),
    ],
)
def test_a_weight_starts_ramps_and_ends(settings, weights):
    schedule = ScheduledSettings.model_validate(settings)
    assert [schedule.weight_at(step) for step in range(6)] == weights


def test_only_configured_objectives_have_a_weight():
    assert ObjectiveSettings().weights_at(0) == {"supervised": 1.0, "reconstruction": 2.0}
    assert ObjectiveSettings(hgr=HgrSettings(weight=0.5)).weights_at(7)["hgr"] == 0.5


def test_objectives_describe_themselves():
    settings = ObjectiveSettings(
        hgr=HgrSettings(weight=0.5, start_step=100, ramp_steps=50, end_step=300), ladder=LadderSettings(end_step=150)
    )
    assert settings.in_words() == [
        "supervised x 1",
        "reconstruction x 2",
        "hgr x 0.5 (from step 100 over 50 steps, up to step 300)",
        "ladder x 1 (up to step 150)",
    ]


def test_an_end_before_the_start_is_refused():
    with pytest.raises(ConfigError, match=r"hgr: .*end_step=150 must come after start_step=150"):
        validate(ObjectiveSettings, {"hgr": {"start_step": 150, "end_step": 150}}, "here")


def test_what_an_earlier_version_did_not_know_counts_where_it_is_used():
    plain, ending = ObjectiveSettings(hgr=HgrSettings()).hashed, ObjectiveSettings(hgr=HgrSettings(end_step=9)).hashed
    assert "end_step" not in plain["hgr"]
    assert "end_step" not in plain["supervised"]
    assert ending["hgr"]["end_step"] == 9

"""Metrics that choose the epoch, against what is trained and measured."""

from __future__ import annotations

import pytest

from vavl.errors import ConfigError
from vavl.training.run_data import check_plan


def test_a_modality_that_only_validation_has_is_refused_for_choosing_the_epoch(plan):
    data = {**plan(corpus={}).data.model_dump(), "partitions": {"audio_only_share": 1.0}}
    problem = "validation/audio_video/accuracy: no labeled training clip has audio and video"
    with pytest.raises(ConfigError, match=problem) as caught:
        check_plan(plan(data=data))
    assert "(audio)" in caught.value.fix


def test_scores_that_mean_nothing_are_announced(plan):
    data = {**plan(corpus={}).data.model_dump(), "partitions": {"audio_only_share": 1.0}}
    chosen = ["validation/audio/accuracy", "validation/video/accuracy"]
    warnings = check_plan(plan(data=data, evaluation={"select_by": chosen})).warnings
    assert len(warnings) == 2
    assert warnings[0].startswith("no labeled training clip has audio and video, but validation clips have")
    assert not warnings[0].endswith("select_by")
    assert warnings[1].startswith("no labeled training clip has video")
    assert warnings[1].endswith("also in evaluation.select_by")


def test_trained_conditions_need_no_warning(plan):
    assert not check_plan(plan()).warnings


def test_a_metric_of_another_task_is_refused(plan):
    with pytest.raises(ConfigError, match="validation/audio/ccc_mean is no metric of which more is better"):
        check_plan(plan(evaluation={"select_by": ["validation/audio/ccc_mean"]}))

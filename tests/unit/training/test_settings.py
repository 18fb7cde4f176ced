"""Settings of a run that contradict each other are refused before anything starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from vavl.config.load import validate
from vavl.errors import ConfigError
from vavl.training.settings import EvaluationSettings, OptimizerSettings, TrainingPlan, TrainingSettings


def test_the_optimizer_defaults_are_those_of_the_paper():
    chosen = OptimizerSettings()
    assert (chosen.learning_rate, chosen.betas, chosen.weight_decay) == (5e-5, (0.95, 0.999), 5e-7)
    assert chosen.final_share == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"workers": 2, "launcher": "in_process"}, "workers=2 needs launcher: ray and engine: deepspeed"),
        ({"workers": 2, "engine": "torch"}, "workers=2 needs launcher: ray and engine: deepspeed"),
        ({"engine": "torch", "zero_stage": 1}, "zero_stage=1 needs engine: deepspeed"),
        ({"zero_stage": 4}, "zero_stage: .*less than or equal to 3"),
        ({"workers": 0}, "workers: .*greater than or equal to 1"),
        ({"precision": "fp16"}, "precision: .*'fp32' or 'bf16'"),
        (
            {"optimizer": {"lr": 1}},
            "optimizer.lr: unknown key; did you mean|optimizer.lr: unknown key; known here",
        ),
    ],
)
def test_contradictions_are_refused(content, message):
    with pytest.raises(ConfigError, match=message):
        validate(TrainingSettings, content, "here")


@pytest.mark.parametrize(
    "name", ["test/audio/accuracy", "accuracy", "validation/face/uar", "validation/audio/", ""]
)
def test_the_best_epoch_is_chosen_on_validation_metrics_only(name):
    with pytest.raises(
        ConfigError, match="is not validation/<condition>/<metric>; conditions: audio_video, audio"
    ):
        validate(EvaluationSettings, {"select_by": ["validation/audio_video/accuracy", name]}, "here")


def test_at_least_one_metric_chooses():
    with pytest.raises(ConfigError, match="select_by"):
        validate(EvaluationSettings, {"select_by": []}, "here")


def test_test_is_not_measured_unless_asked():
    assert EvaluationSettings().test is False


def test_paths_become_absolute_for_workers_in_other_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan = validate(TrainingPlan, {"output_dir": "runs/a", "data": {"store": "stores/a"}}, "here")
    moved = plan.with_absolute_paths()
    assert moved.output_dir == tmp_path / "runs/a"
    assert moved.data.store == tmp_path / "stores/a"
    assert plan.output_dir == Path("runs/a")

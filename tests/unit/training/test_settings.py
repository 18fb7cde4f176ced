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
        ({"workers": 2, "launcher": "in_process"}, "workers=2 needs launcher: ray"),
        ({"micro_batches": 2}, "micro_batches is now clips_per_forward"),
        ({"keep_best_checkpoints": 1}, "keep_best_checkpoints is gone"),
        ({"accelerator_type": "A100"}, 'accelerator_type is now resources_per_worker: {"accelerator_type:'),
        ({"memory_per_worker_gb": 3}, "memory_per_worker_gb is now resources_per_worker: {memory:"),
        ({"threads_per_worker": 2}, "threads_per_worker is gone: a worker has cpus_per_worker threads"),
        ({"gpus_per_worker": 2}, "gpus_per_worker: .*less than or equal to 1"),
        ({"gradient_norms_every_steps": 5, "zero_stage": 3}, "gradient_norms_every_steps needs zero_stage 0, 1 or 2"),
        ({"deepspeed": {"zero_optimization": {"overlap": True}}}, "did you mean overlap_comm"),
        ({"engine": "torch", "zero_stage": 1}, "zero_stage=1 needs engine: deepspeed"),
        ({"zero_stage": 4}, "zero_stage: .*less than or equal to 3"),
        ({"workers": 0}, r"workers: .*write a number from 1 up, or \[least, most\]"),
        ({"workers": [2]}, "workers: .*write a number from 1 up"),
        ({"workers": [0, 2]}, "workers: .*write a number from 1 up"),
        ({"workers": [3, 2]}, r"workers=\[3, 2\]: write \[least, most\]"),
        ({"workers": 2, "gpus_per_worker": 0.5}, "several workers cannot share a GPU"),
        ({"resources_per_worker": {"studio": 0}}, "resources_per_worker.studio: .*greater than 0"),
        ({"offload": "optimizer"}, "offload=optimizer needs zero_stage 1, 2 or 3"),
        ({"offload": "optimizer_and_weights", "zero_stage": 2}, "offload=optimizer_and_weights needs zero_stage 3"),
        ({"offload": "optimizer", "engine": "torch"}, "offload=optimizer needs engine: deepspeed"),
        ({"compile": True, "zero_stage": 3}, "compile: true needs zero_stage 0, 1 or 2"),
        ({"faults": {"skipped_steps": -1}}, "faults.skipped_steps: .*greater than or equal to 0"),
        ({"precision": "fp16"}, "precision: .*'fp32' or 'bf16'"),
        ({"optimizer": {"lr": 1}}, "optimizer.lr: unknown key; did you mean|optimizer.lr: unknown key; known here"),
    ],
)
def test_contradictions_are_refused(content, message):
    with pytest.raises(ConfigError, match=message):
        validate(TrainingSettings, content, "here")


@pytest.mark.parametrize("name", ["test/audio/accuracy", "accuracy", "validation/face/uar", "validation/audio/", ""])
def test_the_best_epoch_is_chosen_on_validation_metrics_only(name):
    with pytest.raises(ConfigError, match="is not validation/<condition>/<metric>; conditions: audio_video, audio"):
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


HOW = [
    {"workers": 4}, {"workers": [1, 4]}, {"zero_stage": 3}, {"clips_per_forward": 4}, {"checkpoint_every_steps": 5},
    {"deepspeed": {"zero_optimization": {"overlap_comm": False}}},
    {"keep_checkpoints": 9}, {"report_every_steps": 1}, {"compile": True}, {"offload": "optimizer", "zero_stage": 1},
    {"activation_checkpointing": True}, {"faults": {"skipped_steps": 3}}, {"placement": "spread"},
]  # fmt: skip
WHAT = [
    {"seed": 1}, {"precision": "bf16"}, {"max_epochs": 7}, {"average_decay": 0.9}, {"early_stopping_epochs": 2},
    {"optimizer": {"learning_rate": 1}},
    {"engine": "deepspeed", "zero_stage": 1, "deepspeed": {"fp16": {"enabled": True}}},
]  # fmt: skip


@pytest.mark.parametrize(
    ("most", "workers", "micro_batches"), [(None, 1, 1), (None, 3, 1), (8, 1, 2), (8, 2, 1), (4, 1, 4), (3, 2, 3)]
)
def test_micro_batches_follow_from_the_workers_and_bound_a_forward_pass(most, workers, micro_batches):
    settings = TrainingSettings(clips_per_forward=most)
    assert settings.micro_batches(16, workers) == micro_batches
    share = -(-16 // workers)
    assert most is None or -(-share // micro_batches) <= most


@pytest.mark.parametrize(("cpus", "threads"), [(0.25, 1), (1, 1), (1.5, 2), (4, 4)])
def test_a_worker_has_as_many_threads_as_cpus_rounded_up(cpus, threads):
    assert TrainingSettings(cpus_per_worker=cpus).threads == threads


@pytest.mark.parametrize("training", HOW, ids=str)
def test_a_run_may_go_on_when_only_the_way_it_is_computed_changes(plan, training):
    deepspeed = {"launcher": "ray", "engine": "deepspeed", "zero_stage": 0}
    assert plan(training={**deepspeed, **training}).config_hash == plan().config_hash


@pytest.mark.parametrize("training", WHAT, ids=str)
def test_what_decides_the_result_makes_another_run(plan, training):
    assert plan(training=training).config_hash != plan().config_hash


def test_the_hash_of_earlier_configurations_stays_and_what_is_new_counts_where_it_is_used(plan):
    def hash_of(**features):
        return plan(features=features).config_hash

    assert hash_of(speaker_normalisation=False) == hash_of(speaker_normalisation="none") == hash_of()
    assert hash_of(speaker_order="file") == hash_of()
    assert hash_of(speaker_normalisation=True) == hash_of(speaker_normalisation="full")
    hashes = [hash_of(speaker_normalisation=kind) for kind in ("none", "mean", "causal_mean", "full")]
    hashes.append(hash_of(speaker_normalisation="causal_mean", speaker_order="file"))
    assert len(set(hashes)) == 5

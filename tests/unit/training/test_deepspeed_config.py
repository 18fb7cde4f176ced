"""DeepSpeed's dictionary says what the settings say, and leaves nothing to be guessed."""

from __future__ import annotations

import json

import pytest

from vavl.training.deepspeed_config import deepspeed_config, is_plain
from vavl.training.settings import TrainingSettings

STAGES = (0, 1, 2, 3)
HOST = {"device": "cpu", "pin_memory": False}
PINNED = {"device": "cpu", "pin_memory": True}


def config_of(world_size=1, **changes) -> dict:
    return deepspeed_config(TrainingSettings.model_validate(changes), rows_per_slot=5, world_size=world_size)


def test_batch_sizes_agree():
    config = config_of(micro_batches=3, workers=2, world_size=2)
    assert config["train_micro_batch_size_per_gpu"] == 5
    assert config["gradient_accumulation_steps"] == 3
    assert config["train_batch_size"] == 30


@pytest.mark.parametrize("limit", [0.0, 1.0, 0.25])
@pytest.mark.parametrize(
    ("stage", "precision"),
    [(0, "bf16"), *((stage, precision) for stage in (1, 2, 3) for precision in ("fp32", "bf16"))],
)
def test_deepspeed_clips_wherever_it_shards_or_keeps_masters(limit, stage, precision):
    # Absent, the key means 1.0.
    config = config_of(optimizer={"gradient_clipping": limit}, zero_stage=stage, precision=precision)
    assert config["gradient_clipping"] == limit


def test_plain_stage_0_is_clipped_by_the_engine_alone():
    """Twice clipped would be the same, but DeepSpeed's norm would be that after the first time."""
    assert config_of(optimizer={"gradient_clipping": 0.25})["gradient_clipping"] == 0
    plain = [
        (stage, precision)
        for stage in STAGES
        for precision in ("fp32", "bf16")
        if is_plain(TrainingSettings(zero_stage=stage, precision=precision))
    ]
    assert plain == [(0, "fp32")]


@pytest.mark.parametrize("stage", STAGES)
def test_stage_and_precision_are_those_of_the_settings(stage):
    config = config_of(zero_stage=stage, precision="bf16")
    assert config["zero_optimization"]["stage"] == stage
    # With the check an update that is not finite is left out.
    assert config["bf16"] == {"enabled": True, "check_grad_overflow": True}
    assert config["fp16"] == {"enabled": False}
    assert not config_of(zero_stage=stage)["bf16"]["enabled"]


@pytest.mark.parametrize(
    ("changes", "optimizer", "weights"),
    [
        ({"zero_stage": 3}, None, None),
        ({"zero_stage": 1, "offload": "optimizer"}, HOST, None),
        ({"zero_stage": 2, "offload": "optimizer"}, HOST, None),
        ({"zero_stage": 3, "offload": "optimizer"}, HOST, None),
        ({"zero_stage": 3, "offload": "optimizer_and_weights"}, HOST, HOST),
        ({"zero_stage": 2, "offload": "optimizer", "gpus_per_worker": 1}, PINNED, None),
        ({"zero_stage": 3, "offload": "optimizer_and_weights", "gpus_per_worker": 1}, PINNED, PINNED),
    ],
)
def test_offload_is_what_the_settings_ask_for(changes, optimizer, weights):
    zero = config_of(**changes)["zero_optimization"]
    assert zero.get("offload_optimizer") == optimizer
    assert zero.get("offload_param") == weights


def test_the_optimizer_stays_torchs_own():
    """DeepSpeed's version for offload compiles, and needs a compiler on every machine."""
    config = config_of(zero_stage=2, offload="optimizer")
    assert config["zero_allow_untested_optimizer"]
    assert not config["zero_force_ds_cpu_optimizer"]
    assert "optimizer" not in config


@pytest.mark.parametrize("stage", STAGES)
def test_nothing_is_left_to_be_guessed(stage):
    config = config_of(zero_stage=stage)
    assert "auto" not in str(config)
    assert json.loads(json.dumps(config)) == config

"""DeepSpeed's dictionary says what the settings say, and leaves nothing to be guessed."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from vavl.training.deepspeed_engine import bucket_elements, deepspeed_config
from vavl.training.settings import TrainingSettings

STAGES = (0, 1, 2, 3)
HOST = {"device": "cpu", "pin_memory": False}
PINNED = {"device": "cpu", "pin_memory": True}
PARAMETERS = 52_600_000


def config_of(world_size=1, micro_batches=1, **changes) -> dict:
    settings = TrainingSettings.model_validate(changes)
    return deepspeed_config(settings, 5, world_size, parameters=PARAMETERS, micro_batches=micro_batches)


def test_batch_sizes_agree():
    config = config_of(micro_batches=3, workers=2, world_size=2)
    assert config["train_micro_batch_size_per_gpu"] == 5
    assert config["gradient_accumulation_steps"] == 3
    assert config["train_batch_size"] == 30


@pytest.mark.parametrize("limit", [0.0, 1.0, 0.25])
@pytest.mark.parametrize(
    ("stage", "precision"), [(stage, precision) for stage in (1, 2, 3) for precision in ("fp32", "bf16")]
)
def test_deepspeed_clips_wherever_it_shards_or_keeps_masters(limit, stage, precision):
    # Absent, the key means 1.0.
    config = config_of(optimizer={"gradient_clipping": limit}, zero_stage=stage, precision=precision)
    assert config["gradient_clipping"] == limit


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_plain_stage_0_is_clipped_by_the_engine_alone(precision):
    """Twice clipped would be the same, but DeepSpeed's norm would be that after the first time."""
    config = config_of(optimizer={"gradient_clipping": 0.25}, precision=precision)
    assert config["gradient_clipping"] == 0


@pytest.mark.parametrize("stage", STAGES)
def test_stage_and_precision_are_those_of_the_settings(stage):
    config = config_of(zero_stage=stage, precision="bf16")
    assert config["zero_optimization"]["stage"] == stage
    # Weights, gradients and communication stay float32, as in the other engine.
    expected = {"enabled": True, "dtype": "bfloat16", "lower_precision_safe_modules": []}
    assert config["torch_autocast"] == expected
    assert not {"bf16", "fp16"} & config.keys()
    assert "torch_autocast" not in config_of(zero_stage=stage)


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_buckets_follow_the_network_and_communication_overlaps(stage):
    """DeepSpeed's default allocates 2 GB for any network."""
    zero = config_of(zero_stage=stage)["zero_optimization"]
    assert zero["overlap_comm"]
    assert zero["reduce_bucket_size"] == zero["allgather_bucket_size"] == PARAMETERS / 8
    assert bucket_elements(10) == 2**16
    assert bucket_elements(8 * 69559) == 69560
    assert bucket_elements(10**11) == 5 * 10**8


def test_the_users_keys_are_merged_over_the_generated_ones():
    mine = {
        "zero_optimization": {"overlap_comm": False, "zero_quantized_weights": True},
        "flops_profiler": {"enabled": True},
    }
    config = config_of(zero_stage=3, deepspeed=mine)
    zero = config["zero_optimization"]
    assert (zero["stage"], zero["overlap_comm"], zero["zero_quantized_weights"]) == (3, False, True)
    assert zero["reduce_bucket_size"] == PARAMETERS / 8
    assert config["flops_profiler"] == {"enabled": True}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"gradient_clipping": 2}, "gradient_clipping cannot be set: is training.optimizer.gradient_clipping"),
        ({"train_batch_size": 8}, "train_batch_size cannot be set: follows from data.composition.batch_size"),
        ({"zero_optimisation": {}}, "did you mean zero_optimization"),
        ({"zero_optimization": {"overlap_com": True}}, "did you mean overlap_comm"),
        ({"zero_optimization": {"stage": 2}}, "zero_optimization.stage cannot be set: is training.zero_stage"),
        ({"zero_optimization": 3}, "write a section"),
        ({"fp16": {"enabled": True}}, "fp16 needs zero_stage 1, 2 or 3"),
    ],
)
def test_keys_that_deepspeed_would_ignore_or_that_break_the_sums_are_refused(content, message):
    with pytest.raises(ValidationError, match=message):
        TrainingSettings(deepspeed=content)


def test_deepspeeds_own_precision_excludes_the_other():
    assert TrainingSettings(zero_stage=1, deepspeed={"fp16": {"enabled": True}})
    with pytest.raises(ValidationError, match="set precision: fp32 with it"):
        TrainingSettings(zero_stage=1, precision="bf16", deepspeed={"fp16": {"enabled": True}})
    with pytest.raises(ValidationError, match="needs engine: deepspeed"):
        TrainingSettings(engine="torch", deepspeed={"aio": {}})


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

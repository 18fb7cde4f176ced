"""DeepSpeed: what the settings become, which keys pass through, and that what is set arrives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch.utils._python_dispatch import TorchDispatchMode

from vavl.config.load import read_yaml_mapping
from vavl.errors import TrainingError
from vavl.training.collectives import start_single_process_group
from vavl.training.deepspeed_engine import DeepSpeedEngine, bucket_elements, deepspeed_config
from vavl.training.deepspeed_passthrough import ALLOWED, REFUSED, REFUSED_ZERO, ZERO_KEYS, check_passthrough
from vavl.training.loop import train
from vavl.training.run import prepare_run
from vavl.training.settings import TrainingSettings
from vavl.training.worker import train_on_worker

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


CPU = torch.device("cpu")
NOT_IN_CONFIG = {"autotuning", "aio", "compile"}
"""Read by other parts of DeepSpeed than its configuration class."""
WIDTH = 700
"""Of the layer whose buckets are measured: 490,000 weights, an eighth of which is less than the least bucket."""


class NotingDict(dict):
    """A configuration that notes which keys are asked for, there or not; its copies note to the same set."""

    asked: set[str]

    def __contains__(self, key: object) -> bool:
        self.asked.add(str(key))
        return super().__contains__(key)

    def __getitem__(self, key: str) -> Any:
        self.asked.add(key)
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        self.asked.add(key)
        return super().get(key, default)

    def keys(self) -> Any:
        return self

    def __copy__(self) -> NotingDict:
        copied = NotingDict(self.items())
        copied.asked = self.asked
        return copied


def settings(**changes: Any) -> TrainingSettings:
    return TrainingSettings.model_validate({"launcher": "in_process", **changes})


def engine_of(network: torch.nn.Module, **changes: Any) -> DeepSpeedEngine:
    return DeepSpeedEngine(network, settings(**changes), CPU, rows_per_slot=1)


def test_every_key_that_deepspeed_reads_is_allowed_or_refused_and_no_other():
    """A new version that knows a new key shows up here."""
    from deepspeed.runtime.config import DeepSpeedConfig

    engine_of(torch.nn.Linear(1, 1))  # without a process group DeepSpeed asks for less
    content = NotingDict(deepspeed_config(settings(), 4, 1, 100))
    content.asked = set()
    DeepSpeedConfig(content)
    assert content.asked - NOT_IN_CONFIG == (ALLOWED | REFUSED.keys()) - NOT_IN_CONFIG
    assert not ALLOWED & REFUSED.keys()


def test_every_key_of_zero_that_deepspeed_knows_is_allowed_or_refused_and_no_other():
    from deepspeed.runtime.config import _REMOVED_ZERO_CONFIG_KEYS
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

    fields = DeepSpeedZeroConfig.model_fields
    known = {*fields, *(field.alias for field in fields.values() if field.alias), *_REMOVED_ZERO_CONFIG_KEYS}
    assert known == ZERO_KEYS | REFUSED_ZERO.keys()
    assert not ZERO_KEYS & REFUSED_ZERO.keys()


@pytest.mark.parametrize("key", sorted(REFUSED))
def test_a_refused_key_comes_with_its_reason(key):
    with pytest.raises(ValueError, match=f"deepspeed.{key} cannot be set: .{{12}}"):
        check_passthrough({key: 1}, 1, "fp32")


@pytest.mark.parametrize("key", sorted(REFUSED_ZERO))
def test_a_refused_key_of_zero_comes_with_its_reason(key):
    with pytest.raises(ValueError, match=f"deepspeed.zero_optimization.{key} cannot be set: .{{12}}"):
        check_passthrough({"zero_optimization": {key: 1}}, 1, "fp32")


@pytest.mark.parametrize(
    ("wrong", "right"),
    [("flop_profiler", "flops_profiler"), ("fp-16", "fp16"), ("zero_optimizations", "zero_optimization")],
)
def test_an_unknown_key_comes_with_the_nearest_name(wrong, right):
    with pytest.raises(ValueError, match=rf"{wrong} is not a key that DeepSpeed knows: did you mean {right}\?"):
        check_passthrough({wrong: {}}, 1, "fp32")


def test_a_key_that_is_like_none_comes_with_all():
    with pytest.raises(ValueError, match=r"known: .*flops_profiler.*zero_optimization"):
        check_passthrough({"qqqq": 1}, 1, "fp32")


ARRIVES = [
    ({"zero_optimization": {"overlap_comm": False}}, 2, lambda engine: engine.zero_overlap_comm(), False),
    ({"zero_optimization": {"reduce_bucket_size": 777}}, 2, lambda engine: engine.zero_reduce_bucket_size(), 777),
    (
        {"zero_optimization": {"allgather_bucket_size": 778}}, 2,
        lambda engine: engine.zero_allgather_bucket_size(), 778,
    ),
    (
        {"zero_optimization": {"offload_optimizer": {"device": "cpu", "pin_memory": False}}}, 3,
        lambda engine: getattr(engine.zero_offload_optimizer(), "device", None), "cpu",
    ),
    ({"flops_profiler": {"enabled": True, "profile_step": 10**6}}, 1,
     lambda engine: engine.flops_profiler_profile_step(), 10**6),
]  # fmt: skip


def test_the_example_of_the_readme_arrives_in_a_run(plan):
    example = read_yaml_mapping(Path(__file__).parents[2] / "examples/deepspeed_option.yaml")
    made = plan(training={**example["training"], "max_steps": 1})
    train_on_worker(made, lambda records: None)
    used = json.loads((made.directory / "deepspeed.json").read_text())
    assert used["steps_per_print"] == 100
    assert used["zero_optimization"]["stage3_prefetch_bucket_size"] == 20_000_000
    assert used["zero_optimization"]["stage"] == 3


@pytest.mark.parametrize(
    ("content", "stage", "read", "expected"), ARRIVES, ids=lambda one: "read" if callable(one) else str(one)[:60]
)
def test_what_is_passed_on_arrives_in_deepspeed(content, stage, read, expected):
    engine = engine_of(torch.nn.Linear(4, 3), zero_stage=stage, deepspeed=content)
    assert read(engine._engine) == expected
    assert read(engine_of(torch.nn.Linear(4, 3), zero_stage=stage)._engine) != expected


def test_offload_to_nvme_arrives_in_deepspeeds_configuration(tmp_path):
    """As far as a machine without libaio can tell."""
    from deepspeed.runtime.config import DeepSpeedConfig

    disk = {"device": "nvme", "nvme_path": str(tmp_path), "pin_memory": True}
    content = {"zero_optimization": {"offload_optimizer": disk}, "aio": {"block_size": 2**18}}
    merged = deepspeed_config(settings(zero_stage=3, deepspeed=content), 4, 1, 100)
    found = DeepSpeedConfig(merged)
    assert found.zero_config.offload_optimizer.device == "nvme"
    assert found.zero_config.offload_optimizer.nvme_path == tmp_path
    assert found.aio_config["block_size"] == 2**18


def test_fp16_arrives_in_deepspeeds_configuration():
    from deepspeed.runtime.config import DeepSpeedConfig

    content = {"fp16": {"enabled": True, "initial_scale_power": 9}}
    found = DeepSpeedConfig(deepspeed_config(settings(zero_stage=1, deepspeed=content), 4, 1, 100))
    assert (found.float16_config.enabled, found.float16_config.initial_scale_power) == (True, 9)
    assert not found.bfloat16_config.enabled


@pytest.mark.parametrize(
    "content",
    [
        {"zero_optimization": {"overlap_comm": "perhaps"}},
        {"zero_optimization": {"reduce_bucket_size": -1}},
        {"data_types": {"keep_in_fp32_modules": 3}},
        {"data_types": {"grad_accum_dtype": "fp7"}},
    ],
)
def test_a_value_that_deepspeed_refuses_is_a_message_with_the_configuration(content):
    with pytest.raises(TrainingError, match="DeepSpeed refuses its configuration") as error:
        engine_of(torch.nn.Linear(4, 3), zero_stage=2, deepspeed=content)
    assert error.value.field == "deepspeed"
    assert "reduce_bucket_size" in error.value.fix


def test_torchs_linear_stays_its_own():
    """DeepSpeed would replace it in the whole process at ZeRO-3, for good, with other rounding in bf16."""
    own = torch.nn.functional.linear
    try:
        engine_of(torch.nn.Linear(4, 3), zero_stage=3)
        assert torch.nn.functional.linear is own
        asked = {"zero_optimization": {"memory_efficient_linear": True}}
        engine_of(torch.nn.Linear(4, 3), zero_stage=3, deepspeed=asked)
        assert torch.nn.functional.linear is not own
    finally:
        torch.nn.functional.linear = own


class Allocations(TorchDispatchMode):
    """Notes the elements of the largest tensor that is allocated."""

    largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if func.overloadpacket.__name__.startswith(("empty", "zeros", "new_empty", "new_zeros")):
            self.largest = max(self.largest, made.numel())
        return made


def largest_allocation(stage: int, **changes: Any) -> int:
    network = torch.nn.Sequential(*(torch.nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(3)))
    start_single_process_group(CPU)
    with Allocations() as seen:
        engine = engine_of(network, zero_stage=stage, **changes)
        for _ in range(2):
            engine.backward(engine._engine(torch.ones(1, WIDTH)).sum())
            engine.step(1e-3)
    return seen.largest


@pytest.mark.parametrize("stage", [1, 2])
def test_the_buckets_of_a_small_network_are_small(stage):
    """Left alone DeepSpeed allocates 5e8 elements; a bucket that is set shows that they are seen here."""
    whole = 3 * WIDTH * WIDTH  # the flat copy of the weights
    assert bucket_elements(whole) < whole
    assert largest_allocation(stage) <= whole + 64  # padding
    large = {"deepspeed": {"zero_optimization": {"reduce_bucket_size": 10**7}}}
    assert largest_allocation(stage, **large) == 10**7


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_communication_overlaps_the_backward_pass(stage):
    assert engine_of(torch.nn.Linear(4, 3), zero_stage=stage)._engine.zero_overlap_comm()


TEACHING = {"objectives": {"pseudo_label": {}}}
IN_PIECES = {"objectives": {"hgr": {"weight": 0.1}}, "pieces": {"clips_per_forward": 4}}


@pytest.mark.parametrize(
    ("case", "without"), [pytest.param(TEACHING, 10, id="pseudo-labels"), pytest.param(IN_PIECES, 1, id="accumulation")]
)
def test_the_order_of_modules_that_zero_3_prefetches_by_holds(case, without, plan, records, monkeypatch, capsys):
    """It is thrown away, at every step or once, where the first forward pass of an attempt has no gradient."""
    told = {"zero_optimization": {"log_trace_cache_warnings": True}}
    training = {
        "engine": "deepspeed", "zero_stage": 3, "max_steps": 10, "max_epochs": 10, "deepspeed": told,
        **case.get("pieces", {}),
    }  # fmt: skip

    def invalidations(name: str) -> int:
        run = prepare_run(plan(name, objectives=case["objectives"], training=training))
        assert run.steps_per_epoch < run.total_steps  # evaluations lie between the steps
        capsys.readouterr()
        train(run, run.start, records())
        return capsys.readouterr().out.count("Invalidate trace cache")

    warm = invalidations("warm")
    monkeypatch.setattr(DeepSpeedEngine, "prepare", lambda engine, passes: None)
    assert (warm, invalidations("cold")) == (0, without)

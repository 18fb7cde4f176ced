"""DeepSpeed's configuration as a pure function of the settings."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from vavl.training.deepspeed_passthrough import is_enabled
from vavl.training.settings import TrainingSettings

_LARGEST_BUCKET = 5 * 10**8
_BUCKETS_PER_NETWORK = 8
_LEAST_BUCKET = 2**16


def deepspeed_config(
    settings: TrainingSettings, rows_per_slot: int, world_size: int, parameters: int, micro_batches: int = 1
) -> dict[str, Any]:
    """Translate the settings into DeepSpeed's configuration; ``training.deepspeed`` is merged over it.

    Args:
        settings: stage, precision, offload and clipping.
        rows_per_slot: clips of a micro-batch of one rank.
        world_size: number of ranks.
        parameters: trained elements of the network; they size the buckets of communication.
        micro_batches: of a rank per optimizer step.
    """
    generated = {
        "train_batch_size": rows_per_slot * micro_batches * world_size,
        "train_micro_batch_size_per_gpu": rows_per_slot,
        "gradient_accumulation_steps": micro_batches,
        # Absent, this key means 1.0. Plain stage 0 is clipped by the engine, which needs the norm itself.
        "gradient_clipping": 0.0 if is_plain(settings) else settings.optimizer.gradient_clipping,
        "zero_optimization": _zero(settings, parameters),
        "zero_allow_untested_optimizer": True,
        # With offload DeepSpeed would insist on its own Adam, which needs a compiler.
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 2**31 - 1,
        "wall_clock_breakdown": False,
    }
    if settings.precision == "bf16":
        # Weights, gradients and communication stay float32: DeepSpeed would send the gradients of the modules
        # listed here in bfloat16.
        generated["torch_autocast"] = {
            "enabled": True, "dtype": "bfloat16", "lower_precision_safe_modules": [],
        }  # fmt: skip
    return _merged(generated, settings.deepspeed)


def is_plain(settings: TrainingSettings) -> bool:
    """Return whether DeepSpeed keeps torch's own optimizer: no sharding, no weights of lower precision."""
    return settings.zero_stage == 0


def holds_low_precision(settings: TrainingSettings) -> bool:
    """Return whether DeepSpeed's own fp16 or bf16 mode is on: it trains copies of lower precision."""
    return any(is_enabled(settings.deepspeed, name) for name in ("fp16", "bf16"))


def bucket_elements(parameters: int) -> int:
    """Return the elements of a bucket: an eighth of the network, so that communication overlaps the backward pass.

    DeepSpeed's own default is 5e8 elements whatever the network's size, and it allocates them.
    """
    return min(_LARGEST_BUCKET, max(_LEAST_BUCKET, -(-parameters // _BUCKETS_PER_NETWORK)))


def _zero(settings: TrainingSettings, parameters: int) -> dict[str, Any]:
    bucket = bucket_elements(parameters)
    content: dict[str, Any] = {
        "stage": settings.zero_stage,
        "overlap_comm": settings.zero_stage > 0,
        "reduce_bucket_size": bucket,
        "allgather_bucket_size": bucket,
    }
    if settings.zero_stage == 3:
        content["stage3_prefetch_bucket_size"] = bucket
        # On, it replaces torch.nn.functional.linear in the whole process by one that rounds product and bias each by
        # itself in bf16. ``models.kernels.linear`` keeps no gathered weight either.
        content["memory_efficient_linear"] = False
    # Pinned memory serves copies to a GPU; a CPU run has none to make.
    offload = {"device": "cpu", "pin_memory": settings.gpus_per_worker > 0}
    if settings.offload != "none":
        content["offload_optimizer"] = dict(offload)
    if settings.offload == "optimizer_and_weights":
        content["offload_param"] = dict(offload)
    return content


def _merged(generated: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(generated)
    for key, value in over.items():
        below = merged.get(key)
        if isinstance(value, Mapping) and isinstance(below, Mapping):
            merged[key] = _merged(below, value)
        else:
            merged[key] = copy.deepcopy(value)
    return merged

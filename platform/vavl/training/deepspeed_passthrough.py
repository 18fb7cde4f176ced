"""Which keys of DeepSpeed's own configuration a run may set; checked without importing DeepSpeed."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from typing import Any

NUMERIC_SECTIONS = ("fp16", "bf16", "torch_autocast", "data_types", "communication_data_type")
"""Allowed keys that change the numbers that a step computes; they count for ``config_hash``."""

ALLOWED = frozenset({
    *NUMERIC_SECTIONS, "zero_optimization", "aio", "flops_profiler", "comms_logger", "wall_clock_breakdown",
    "memory_breakdown", "dump_state", "steps_per_print", "tensorboard", "csv_monitor", "wandb", "comet",
    "seq_parallel_communication_data_type", "disable_allgather", "zero_force_ds_cpu_optimizer",
})  # fmt: skip

_BATCHES = "follows from data.composition.batch_size, training.workers and training.clips_per_forward"
_SUM = "gradients are summed over ranks, so that the loss of the global batch is exact"
REFUSED = {
    "train_batch_size": _BATCHES,
    "train_micro_batch_size_per_gpu": _BATCHES,
    "gradient_accumulation_steps": _BATCHES,
    "gradient_clipping": "is training.optimizer.gradient_clipping",
    "optimizer": "is training.optimizer: checkpoints name its state",
    "scheduler": "is training.optimizer: the learning rate is a function of the step",
    "prescale_gradients": _SUM,
    "gradient_predivide_factor": _SUM,
    "sparse_gradients": _SUM,
    "activation_checkpointing": "is training.activation_checkpointing",
    "elasticity": "is training.workers: [least, most]",
    "checkpoint": "checkpoints are written by the platform, for every stage and worker count",
    "load_universal_checkpoint": "checkpoints are written by the platform, for every stage and worker count",
    "compression_training": "would train another network than the one that is saved",
    "pipeline": "every rank runs the whole graph",
    "tensor_parallel": "every rank runs the whole graph",
    "sequence_parallel_size": "every rank runs the whole graph",
    "data_efficiency": "batches are a function of seed and step",
    "curriculum_learning": "batches are a function of seed and step",
    "autotuning": "use jobs/tune_model.py",
    "compile": "hooks of the compiled graph are not tested with this network",
    "amp": "was removed from DeepSpeed; use training.precision: bf16, or fp16",
}
"""Keys that would break the mathematics or a promise of the platform, with the reason."""

ZERO_KEYS = frozenset({
    "contiguous_gradients", "reduce_scatter", "reduce_bucket_size", "use_multi_rank_bucket_allreduce",
    "allgather_partitions", "allgather_bucket_size", "overlap_comm", "load_from_fp32_weights",
    "offload_param", "offload_optimizer", "sub_group_size", "cpu_offload_param", "cpu_offload_use_pin_memory",
    "cpu_offload", "stage3_prefetch_bucket_size", "prefetch_bucket_size", "stage3_param_persistence_threshold",
    "param_persistence_threshold", "stage3_model_persistence_threshold", "model_persistence_threshold",
    "stage3_max_live_parameters", "max_live_parameters", "stage3_max_reuse_distance", "max_reuse_distance",
    "stage3_use_all_reduce_for_fetch_params", "stage3_module_granularity_threshold",
    "module_granularity_threshold", "ignore_unused_parameters", "round_robin_gradients",
    "zero_hpz_partition_size", "zero_quantized_weights", "zero_quantized_nontrainable_weights",
    "zero_quantized_gradients", "memory_efficient_linear", "log_trace_cache_warnings",
    "stage3_allgather_sequential", "allgather_sequential",
})  # fmt: skip
"""Keys of ``zero_optimization`` that may be set."""

_REFUSED_ZERO = {
    "stage": "is training.zero_stage",
    "elastic_checkpoint": "checkpoints are written by the platform, for every stage and worker count",
    "legacy_stage1": "is not tested with this network",
    "mics_shard_size": "is not tested with this network",
    "stage3_gather_16bit_weights_on_model_save": "the platform saves float32 weights",
    "gather_16bit_weights_on_model_save": "the platform saves float32 weights",
}


def check_passthrough(content: Mapping[str, Any], stage: int, precision: str) -> None:
    """Refuse keys that DeepSpeed would ignore, or that would break what the platform promises.

    Args:
        content: ``training.deepspeed``.
        stage: ``training.zero_stage``.
        precision: ``training.precision``.

    Raises:
        ValueError: names the key, the reason, and the nearest known name of an unknown one.
    """
    _check_keys("deepspeed", content, ALLOWED, REFUSED)
    zero = content.get("zero_optimization", {})
    if not isinstance(zero, Mapping):
        raise ValueError("deepspeed.zero_optimization: write a section of keys")
    _check_keys("deepspeed.zero_optimization", zero, ZERO_KEYS, _REFUSED_ZERO)
    for name in ("fp16", "bf16"):
        if not is_enabled(content, name):
            continue
        if stage == 0:
            raise ValueError(
                f"deepspeed.{name} needs zero_stage 1, 2 or 3: stage 0 hides its float32 weights"
            )
        if precision != "fp32" or is_enabled(content, "torch_autocast"):
            raise ValueError(f"deepspeed.{name} is a precision of its own: set precision: fp32 with it")


def is_enabled(content: Mapping[str, Any], section: str) -> bool:
    """Return whether a section of DeepSpeed's configuration is switched on."""
    found = content.get(section)
    return bool(found.get("enabled", False)) if isinstance(found, Mapping) else False


def _check_keys(
    where: str, content: Mapping[str, Any], allowed: Collection[str], refused: Mapping[str, str]
) -> None:
    for key in content:
        if key in refused:
            raise ValueError(f"{where}.{key} cannot be set: {refused[key]}")
        if key not in allowed:
            near = difflib.get_close_matches(key, [*allowed, *refused], n=1)
            hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(sorted(allowed))}"
            raise ValueError(f"{where}.{key} is not a key that DeepSpeed knows: {hint}")

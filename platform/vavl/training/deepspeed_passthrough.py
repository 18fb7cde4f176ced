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
    "seq_parallel_communication_data_type", "disable_allgather", "zero_force_ds_cpu_optimizer", "log_level", "timers",
    "disable_python_gc",
})  # fmt: skip

_BATCHES = "follows from data.composition.batch_size, training.workers and training.clips_per_forward"
_DATA = "batches are a function of seed and step"
_SUM = "gradients are summed over ranks, so that the loss of the global batch is exact"
_CHECKPOINTS = "checkpoints are written by the platform, for every stage and worker count"
_GRAPH = "every rank runs the whole graph"
_REMOVED = "was removed from DeepSpeed"
REFUSED = {
    "train_batch_size": _BATCHES,
    "train_micro_batch_size_per_gpu": _BATCHES,
    "gradient_accumulation_steps": _BATCHES,
    "managed_gradient_accumulation": "the loop runs the micro-batches",
    "gradient_clipping": "is training.optimizer.gradient_clipping",
    "optimizer": "is training.optimizer: checkpoints name its state",
    "zero_allow_untested_optimizer": "is set, as the optimizer is torch's AdamW",
    "scheduler": "is training.optimizer: the learning rate is a function of the step",
    "prescale_gradients": _SUM,
    "gradient_predivide_factor": _SUM,
    "gradient_allreduce_op": _SUM,
    "activation_checkpointing": "is training.activation_checkpointing",
    "elasticity": "is training.workers: [least, most]",
    "checkpoint": _CHECKPOINTS,
    "datastates_ckpt": _CHECKPOINTS,
    "pipeline": _GRAPH,
    "tensor_parallel": _GRAPH,
    "expert_parallel": _GRAPH,
    "use_data_before_expert_parallelism": _GRAPH,
    "sequence_parallel_size": _GRAPH,
    "data_efficiency": _DATA,
    "dataloader_drop_last": _DATA,
    "vocabulary_size": "the network has no vocabulary",
    "hybrid_engine": "is for the generation of text",
    "weight_quantization": "would train another network than the one that is saved",
    "autotuning": "use jobs/tune_model.py",
    "compile": "hooks of the compiled graph are not tested with this network",
    "bfloat16": "is the old name of bf16",
    "amp": f"{_REMOVED}; use training.precision: bf16, or fp16",
    **dict.fromkeys(
        (
            "nebula", "compression_training", "quantize_training", "sparse_gradients", "eigenvalue",
            "sparse_attention", "graph_harvesting", "curriculum_learning", "progressive_layer_drop",
        ),
        _REMOVED,
    ),
}  # fmt: skip
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
    "stage3_allgather_sequential", "allgather_sequential", "use_all_reduce_for_fetch_params", "parameter_alignment",
    "override_module_apply", "enable_sanity_checks", "leaf_module",
})  # fmt: skip
"""Keys of ``zero_optimization`` that may be set."""

_FLOAT32 = "the platform saves float32 weights"
REFUSED_ZERO = {
    "stage": "is training.zero_stage",
    "elastic_checkpoint": _CHECKPOINTS,
    "pipeline_loading_checkpoint": _CHECKPOINTS,
    "stage3_gather_16bit_weights_on_model_save": _FLOAT32,
    "gather_16bit_weights_on_model_save": _FLOAT32,
    "stage3_gather_fp16_weights_on_model_save": _FLOAT32,
    "compute_grad_norm": "gradients are clipped by their norm, and it is recorded",
    "legacy_stage1": "is not tested with this network",
    "zenflow": "would apply gradients of earlier steps",
    "save_muon_momentum_buffer_in_memory": "the optimizer is AdamW",
    **dict.fromkeys(("mics_shard_size", "mics_hierarchical_params_gather", "zeropp_loco_param"), _REMOVED),
}
"""Keys of ``zero_optimization`` that may not, with the reason."""


def check_passthrough(content: Mapping[str, Any], stage: int, precision: str) -> None:
    """Refuse keys that DeepSpeed would ignore, or that would break what the platform promises.

    Raises:
        ValueError: names the key, the reason, and the nearest known name of an unknown one.
    """
    _check_keys("deepspeed", content, ALLOWED, REFUSED)
    zero = content.get("zero_optimization", {})
    if not isinstance(zero, Mapping):
        raise ValueError("deepspeed.zero_optimization: write a section of keys")
    _check_keys("deepspeed.zero_optimization", zero, ZERO_KEYS, REFUSED_ZERO)
    for name in ("fp16", "bf16"):
        if not is_enabled(content, name):
            continue
        if stage == 0:
            raise ValueError(f"deepspeed.{name} needs zero_stage 1, 2 or 3: stage 0 hides its float32 weights")
        if precision != "fp32" or is_enabled(content, "torch_autocast"):
            raise ValueError(f"deepspeed.{name} is a precision of its own: set precision: fp32 with it")


def is_enabled(content: Mapping[str, Any], section: str) -> bool:
    """Return whether a section of DeepSpeed's configuration is switched on."""
    found = content.get(section)
    return bool(found.get("enabled", False)) if isinstance(found, Mapping) else False


def _check_keys(where: str, content: Mapping[str, Any], allowed: Collection[str], refused: Mapping[str, str]) -> None:
    for key in content:
        if key in refused:
            raise ValueError(f"{where}.{key} cannot be set: {refused[key]}")
        if key not in allowed:
            near = difflib.get_close_matches(key, [*allowed, *refused], n=1)
            hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(sorted(allowed))}"
            raise ValueError(f"{where}.{key} is not a key that DeepSpeed knows: {hint}")

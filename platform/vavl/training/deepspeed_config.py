"""DeepSpeed's dictionary as a pure function of the settings."""

from __future__ import annotations

from typing import Any

from vavl.training.settings import TrainingSettings


def deepspeed_config(settings: TrainingSettings, rows_per_slot: int, world_size: int) -> dict[str, Any]:
    """Translate the settings into DeepSpeed's dictionary; every key that matters is written out.

    Args:
        settings: stage, precision, offload, accumulation and clipping.
        rows_per_slot: clips of a micro-batch of one rank.
        world_size: number of ranks.
    """
    return {
        "train_batch_size": rows_per_slot * settings.micro_batches * world_size,
        "train_micro_batch_size_per_gpu": rows_per_slot,
        "gradient_accumulation_steps": settings.micro_batches,
        # Absent, this key means 1.0. Plain stage 0 is clipped by the engine, which needs the norm itself.
        "gradient_clipping": 0.0 if is_plain(settings) else settings.optimizer.gradient_clipping,
        "zero_optimization": _zero(settings),
        "bf16": {"enabled": settings.precision == "bf16", "check_grad_overflow": True},
        "fp16": {"enabled": False},
        "zero_allow_untested_optimizer": True,
        # With offload DeepSpeed would insist on its own Adam, which needs a compiler.
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 2**31 - 1,
        "wall_clock_breakdown": False,
    }


def is_plain(settings: TrainingSettings) -> bool:
    """Tell whether DeepSpeed neither shards nor keeps masters: its optimizer is torch's own."""
    return settings.zero_stage == 0 and settings.precision == "fp32"


def _zero(settings: TrainingSettings) -> dict[str, Any]:
    content: dict[str, Any] = {
        "stage": settings.zero_stage,
        "stage3_gather_16bit_weights_on_model_save": True,
    }
    if settings.offload != "none":
        # Pinned memory serves copies to a GPU; a CPU run has none to make.
        content["offload_optimizer"] = {"device": "cpu", "pin_memory": settings.gpus_per_worker > 0}
    if settings.offload == "optimizer_and_weights":
        content["offload_param"] = {"device": "cpu", "pin_memory": settings.gpus_per_worker > 0}
    return content

"""The choice of an engine."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from vavl.training.engine import Engine, TorchEngine, check_precision
from vavl.training.settings import TrainingSettings


@dataclass(frozen=True)
class EngineShape:
    """What an engine has to know of its attempt.

    Attributes:
        device: that it trains on.
        rows_per_slot: clips of a micro-batch of one rank.
        micro_batches: of a rank per optimizer step.
    """

    device: torch.device
    rows_per_slot: int
    micro_batches: int = 1


def make_engine(network: nn.Module, settings: TrainingSettings, shape: EngineShape) -> Engine:
    """Build the engine that the settings name.

    Args:
        network: on the CPU, float32; parts that must not train have ``requires_grad`` False.
        settings: engine, stage and precision.
        shape: of the attempt.

    Raises:
        TrainingError: the card lacks the precision, or DeepSpeed refuses its configuration.
    """
    check_precision(settings, shape.device)
    match settings.engine:
        case "deepspeed":
            from vavl.training.deepspeed_engine import DeepSpeedEngine

            return DeepSpeedEngine(network, settings, shape.device, shape.rows_per_slot, shape.micro_batches)
        case "torch":
            return TorchEngine(network, settings, shape.device, shape.micro_batches)

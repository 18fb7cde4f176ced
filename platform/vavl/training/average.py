"""A running average of the weights: evaluated and saved in their place, and a teacher."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from vavl.training.engine import Engine


class WeightAverage:
    """Exponential moving average of the weights (Polyak & Juditsky 1992; Tarvainen & Valpola 2017).

    Every rank keeps a whole copy in float32, under every ZeRO stage.

    Args:
        network: a copy of the network before its first step; nothing else may train it.
        decay: share of the old average at a step; less in the first steps, where it is
            (1 + step) / (10 + step).
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network = network.eval().requires_grad_(requires_grad=False)
        self._decay = decay

    @torch.no_grad()
    def update(self, engine: Engine, step: int) -> None:
        """Move towards the weights after optimizer step ``step``, from 0. Every rank must call."""
        share = 1 - min(self._decay, (1 + step) / (10 + step))
        mine = dict(self.network.named_parameters())
        with engine.gathered():
            for name, parameter in engine.network.named_parameters():
                mine[name].lerp_(parameter.to(mine[name].dtype), share)

    def weights(self) -> dict[str, Tensor]:
        """Return the averaged weights in float32 on the CPU."""
        return {name: value.detach().float().cpu().clone() for name, value in self.network.named_parameters()}

    def load(self, file: Path) -> None:
        """Read averaged weights from a checkpoint; frozen parts keep their first values."""
        self.network.load_state_dict(load_file(file))

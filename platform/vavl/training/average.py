"""A running average of the weights: evaluated and saved in their place, and a teacher."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from vavl.training.engine import Engine, whole_weights


class WeightAverage:
    """Exponential moving average of the weights (Polyak & Juditsky 1992; Tarvainen & Valpola 2017).

    A rank averages in float32 what it holds of the weights: all of them, or its shards under ZeRO-3.

    Args:
        engine: before its first step.
        decay: share of the old average at a step; less in the first steps, where it is
            (1 + step) / (10 + step).
        build: builds the network on the CPU, float32; its frozen parts keep their values.
        is_teacher: the averaged network runs at every step.
    """

    def __init__(
        self, engine: Engine, decay: float, build: Callable[[], nn.Module], *, is_teacher: bool = False
    ) -> None:
        self._engine, self._decay, self._build, self._is_teacher = engine, decay, build, is_teacher
        self._held = {name: value.float().clone() for name, value in engine.held_weights().items()}
        self._network: nn.Module | None = None

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move towards the weights after optimizer step ``step``, from 0. Every rank must call."""
        share = 1 - min(self._decay, (1 + step) / (10 + step))
        for name, value in self._engine.held_weights().items():
            self._held[name].lerp_(value.float(), share)
        if self._engine.is_sharded and self._network is not None and self._is_teacher:
            self._fill(self._network)

    @torch.no_grad()
    def network(self) -> nn.Module:
        """Return the averaged network on the engine's device, in evaluation mode. Every rank must call."""
        if self._network is not None:
            return self._network
        network = self._build().to(self._engine.device).eval().requires_grad_(requires_grad=False)
        if not self._engine.is_sharded:
            # The network and the average share their memory, so it is always up to date.
            named = dict(network.named_parameters())
            for name, value in self._held.items():
                named[name].data = value
        else:
            self._fill(network)
        if self._is_teacher or not self._engine.is_sharded:
            self._network = network
        return network

    @torch.no_grad()
    def weights(self, *, kept: bool = True) -> dict[str, Tensor]:
        """Return the averaged weights that are trained, in float32 on the CPU, where ``kept``. Every rank must call."""
        return whole_weights(self._engine, self._held.items(), kept=kept)

    @torch.no_grad()
    def load(self, file: Path) -> None:
        """Read averaged weights from a checkpoint; a rank under ZeRO-3 keeps its shards."""
        stored = load_file(file)
        for name, held in self._held.items():
            held.copy_(self._engine.shard_of(stored[name]))

    def _fill(self, network: nn.Module) -> None:
        named: Mapping[str, nn.Parameter] = dict(network.named_parameters())
        for name, held in self._held.items():
            named[name].copy_(self._engine.whole_weight(name, held))

"""The engines that turn losses into optimizer steps; the only file with deepspeed.

Both obey one contract: gradients are *added up* over ranks and micro-batches, so that a loss whose
parts sum to the global loss gives the gradient of the global loss.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from vavl.data.batch import ClipBatch
from vavl.models.draws import DrawKey
from vavl.models.vavl import VavlOutput
from vavl.training.collectives import (
    average_over_ranks,
    backend_of,
    rank_and_world_size,
    start_single_process_group,
)
from vavl.training.deepspeed_config import deepspeed_config, is_plain
from vavl.training.settings import TrainingSettings
from vavl.training.shards import (
    Piece,
    WholeValues,
    load_pieces,
    optimizer_steps,
    pieces_of,
    unsharded_masters,
)

_log = logging.getLogger(__name__)


class Engine(Protocol):
    """What the loop asks of an engine. All but ``backward`` are collective under ZeRO-3."""

    network: nn.Module
    device: torch.device

    def forward(self, batch: ClipBatch, key: DrawKey | None = None) -> VavlOutput:
        """Run the network on a micro-batch; training needs the ``key`` of its draws."""

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of one micro-batch; once per micro-batch."""

    def step(self, learning_rate: float) -> Tensor:
        """Clip, update the weights, clear the gradients; return the norm of the whole gradient.

        A norm that is not finite means that nothing was updated. It is a scalar on the device, so that the
        caller decides when to wait for it.
        """

    def full_weights(self) -> dict[str, Tensor]:
        """Return all weights in float32 on the CPU."""

    def gathered(self) -> AbstractContextManager[None]:
        """Make every parameter of ``network`` whole for reading, while the context lasts."""

    def pieces(self) -> list[Piece]:
        """Return this rank's part of the float32 weights and of the optimizer's state; not collective."""

    @property
    def optimizer_steps(self) -> int:
        """Updates done; steps that were skipped do not count."""

    def load(self, source: WholeValues) -> None:
        """Continue from whole values; ``network`` was built with these weights. Not collective."""


def make_engine(network: nn.Module, settings: TrainingSettings, rows_per_slot: int) -> Engine:
    """Build the engine that the settings name.

    Args:
        network: on the CPU, float32; parts that must not train have ``requires_grad`` False.
        settings: engine, stage and precision.
        rows_per_slot: clips of a micro-batch of one rank.
    """
    match settings.engine:
        case "deepspeed":
            return DeepSpeedEngine(network, settings, rows_per_slot)
        case "torch":
            return TorchEngine(network, settings)


class TorchEngine:
    """One process with torch alone: the plain reference, and enough for one GPU."""

    def __init__(self, network: nn.Module, settings: TrainingSettings) -> None:
        self.device = _device(settings)
        self.network = network.to(self.device)
        self._clipping = settings.optimizer.gradient_clipping
        self._bf16 = settings.precision == "bf16"
        self._optimizer = make_optimizer(self.network, settings)

    def forward(self, batch: ClipBatch, key: DrawKey | None = None) -> VavlOutput:
        """Run the network; under bf16 with float32 weights and autocast."""
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self._bf16):
            output: VavlOutput = self.network(batch, key)
        return output

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of one micro-batch."""
        torch.autograd.backward(loss)

    def step(self, learning_rate: float) -> Tensor:
        """Clip, update, clear, without waiting for the device; a gradient that is not finite is only cleared."""
        norm = _clip(self.network, self._clipping)
        _skip_unless_finite(self._optimizer, norm)
        _set_learning_rate(self._optimizer, learning_rate)
        self._optimizer.step()
        self._optimizer.zero_grad()
        return norm

    def full_weights(self) -> dict[str, Tensor]:
        """Return all weights in float32 on the CPU."""
        return {name: value.detach().float().cpu().clone() for name, value in self.network.named_parameters()}

    def gathered(self) -> AbstractContextManager[None]:
        """Nothing is sharded here."""
        return nullcontext()

    def pieces(self) -> list[Piece]:
        """Return all weights and the optimizer's state."""
        return pieces_of(self.network, self._optimizer, rank=0)

    @property
    def optimizer_steps(self) -> int:
        """Updates done."""
        return optimizer_steps(self._optimizer)

    def load(self, source: WholeValues) -> None:
        """Continue from whole values."""
        load_pieces(self.network, self._optimizer, 0, source)


class DeepSpeedEngine:
    """DeepSpeed ZeRO 0-3 in fp32 or bf16."""

    def __init__(self, network: nn.Module, settings: TrainingSettings, rows_per_slot: int) -> None:
        deepspeed = _import_deepspeed(settings)
        self.device = _device(settings)
        start_single_process_group(self.device)
        self._rank, self._world_size = rank_and_world_size()
        self._micro_batches = settings.micro_batches
        self._backwards = 0
        self._is_plain = is_plain(settings)
        self._clipping = settings.optimizer.gradient_clipping
        # Ray Train sets it; a single process without a launcher is rank 0 of its machine.
        os.environ.setdefault("LOCAL_RANK", "0")
        deepspeed.init_distributed(dist_backend=backend_of(self.device))
        optimizer = make_optimizer(network, settings)
        with _no_dry_step(optimizer):
            self._engine, self._optimizer, _, _ = deepspeed.initialize(
                model=network,
                optimizer=optimizer,
                config=deepspeed_config(settings, rows_per_slot, self._world_size),
                dist_init_required=False,
            )
        self.network = self._engine.module
        if settings.zero_stage == 0:
            # One rank has nothing to add up; DeepSpeed would copy all gradients into a buffer and back.
            self._engine.enable_backward_allreduce = self._world_size > 1
            # Several ranks average them our way: DeepSpeed's buffer is as large as the network, and nothing overlaps.
            self._engine.buffered_allreduce_fallback = self._average_gradients
        if hasattr(self._engine.optimizer, "overflow_checker"):
            # Stage 0 in bf16 looks at every gradient for infinity and NaN, and then at their norm, which tells it too.
            self._engine.optimizer.overflow_checker.check = lambda: False

    def forward(self, batch: ClipBatch, key: DrawKey | None = None) -> VavlOutput:
        """Run the network through DeepSpeed's hooks. Every rank must call."""
        output: VavlOutput = self._engine(batch, key)
        return output

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of one micro-batch. Every rank must call.

        DeepSpeed divides by the number of micro-batches and averages over ranks; multiplying by both
        here is the one place that undoes it.
        """
        self._engine.backward(loss * (self._world_size * self._micro_batches))
        self._backwards += 1
        if self._backwards % self._micro_batches:
            # DeepSpeed counts micro-batches by calls of step; before the last one it updates nothing.
            self._engine.step()

    def step(self, learning_rate: float) -> Tensor:
        """Clip, update, clear. Every rank must call.

        DeepSpeed itself skips an update whose gradient is not finite, at every stage but plain 0; for that
        it waits for the device.
        """
        norm = None
        if self._is_plain:
            norm = _clip(self.network, self._clipping)
            _skip_unless_finite(self._optimizer, norm)
        _set_learning_rate(self._engine.optimizer, learning_rate)
        self._engine.step()
        if norm is None:
            found = self._engine.get_global_grad_norm()
            norm = torch.as_tensor(found, dtype=torch.float64, device=self.device)
        return norm

    def _average_gradients(self, grads: None = None, elements_per_buffer: int = 0) -> None:  # noqa: ARG002
        """Average the gradients over the ranks; takes the arguments of the method that it stands for."""
        gradients, _ = self._engine._get_gradients_for_reduction()
        average_over_ranks(gradients)

    def full_weights(self) -> dict[str, Tensor]:
        """Gather all weights in float32 on the CPU. Every rank must call."""
        from deepspeed.runtime.zero import GatheredParameters
        from deepspeed.utils import safe_get_full_fp32_param

        weights: dict[str, Tensor] = {}
        masters = unsharded_masters(self._engine.optimizer)
        for name, parameter in self.network.named_parameters():
            # Frozen parameters and stage 0 in fp32 have no separate float32 copy.
            known = masters.get(id(parameter))
            full = safe_get_full_fp32_param(parameter) if parameter.requires_grad and known is None else known
            if full is None:
                with GatheredParameters([parameter], enabled=hasattr(parameter, "ds_id")):
                    full = parameter.detach()
            weights[name] = full.detach().float().cpu().clone().reshape(_full_shape(parameter))
        return weights

    def gathered(self) -> AbstractContextManager[None]:
        """Gather the shards of ZeRO-3. Every rank must call."""
        from deepspeed.runtime.zero import GatheredParameters

        parameters = list(self.network.parameters())
        whole: AbstractContextManager[None] = GatheredParameters(
            parameters, enabled=hasattr(parameters[0], "ds_id")
        )
        return whole

    def pieces(self) -> list[Piece]:
        """Return this rank's shard."""
        return pieces_of(self.network, self._engine.optimizer, self._rank)

    @property
    def optimizer_steps(self) -> int:
        """Updates done."""
        return optimizer_steps(self._engine.optimizer)

    def load(self, source: WholeValues) -> None:
        """Continue from whole values."""
        load_pieces(self.network, self._engine.optimizer, self._rank, source)


def make_optimizer(network: nn.Module, settings: TrainingSettings) -> torch.optim.Optimizer:
    """Build torch's own AdamW: DeepSpeed's CPU version compiles for a minute and needs a compiler."""
    chosen = settings.optimizer
    return torch.optim.AdamW(
        _trainable(network),
        lr=chosen.learning_rate,
        betas=chosen.betas,
        weight_decay=chosen.weight_decay,
        fused=True,  # a quarter of the time of the plain loop on a CPU
    )


@contextmanager
def _no_dry_step(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Leave out the step without gradients by which DeepSpeed makes AdamW's state at stage 0 in bf16.

    It would count as an update, so that the first real ones come out a quarter too small, and it would
    decay the masters; it takes as long as building the network.
    """
    # Hides the method of the class.
    optimizer.step = lambda: None  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        del optimizer.step


def _trainable(network: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in network.parameters() if parameter.requires_grad]


def _clip(network: nn.Module, limit: float) -> Tensor:
    """Clip the whole gradient to ``limit`` (0 = off) and return its norm before that, a scalar on the device."""
    return nn.utils.clip_grad_norm_(_trainable(network), limit or float("inf"))


def _skip_unless_finite(optimizer: torch.optim.Optimizer, norm: Tensor) -> None:
    """Make the next step change neither weights nor state nor count of updates where ``norm`` is not finite.

    The fused AdamW decides it on the device, by the attribute in which torch.amp.GradScaler leaves its verdict.
    """
    optimizer.found_inf = norm.isfinite().logical_not().float()  # type: ignore[attr-defined]


def _set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = learning_rate


def _device(settings: TrainingSettings) -> torch.device:
    if settings.gpus_per_worker > 0:
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cpu")


def _full_shape(parameter: nn.Parameter) -> torch.Size:
    # ZeRO-3 leaves an empty tensor in place of a sharded parameter and keeps the shape beside it.
    shape: torch.Size = getattr(parameter, "ds_shape", parameter.shape)
    return shape


def _import_deepspeed(settings: TrainingSettings) -> Any:
    if settings.gpus_per_worker == 0:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    with _unimportable("mlflow"):
        import deepspeed

    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    if settings.gpus_per_worker == 0:
        # On a CPU init_distributed would compile this operation, and fail without compiler and ninja.
        _log.info(
            "DeepSpeed's shared-memory operation is switched off on the CPU; gloo is used, no compiler needed"
        )
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed


@contextmanager
def _unimportable(module: str) -> Iterator[None]:
    """Let an import of a module fail that was not imported yet.

    DeepSpeed's tuner of its own settings looks for MLflow, which is most of the time that importing
    DeepSpeed takes, and it does without.
    """
    if module in sys.modules:
        yield
        return
    # None is what the import system takes for "not to be had".
    cast("dict[str, None]", sys.modules)[module] = None
    try:
        yield
    finally:
        del sys.modules[module]

"""The engines that turn losses into optimizer steps, and torch's own one.

All obey one contract: gradients are *summed* over ranks and micro-batches, so that a loss whose parts sum to the
global loss gives the gradient of the global loss.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from vavl.data.batch import ClipBatch
from vavl.errors import InputError, TrainingError
from vavl.models.conformer import ConformerBlock
from vavl.models.draws import DrawKey, Dropout
from vavl.models.vavl import Vavl, VavlOutput
from vavl.training.checkpoint_files import MOMENTS, WEIGHT, CheckpointValues, Pieces
from vavl.training.collectives import rank_and_world_size
from vavl.training.settings import TrainingSettings


class Engine(Protocol):
    """What the training loop asks of an engine."""

    network: nn.Module
    device: torch.device
    config: dict[str, Any]
    """The engine's own configuration as it was given, to be recorded; empty without one."""
    is_bf16: bool
    """Whether forward passes are autocast to bfloat16."""

    def forward(self, batch: ClipBatch, key: DrawKey | None = None) -> VavlOutput:
        """Run the network on a micro-batch; training needs the ``key`` of its draws. Every rank must call."""

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of one micro-batch; once per micro-batch. Every rank must call."""

    def step(self, learning_rate: float) -> Tensor:
        """Clip, update the weights, clear the gradients; return the norm of the whole gradient. Every rank must call.

        A norm that is not finite means that nothing was updated. It is a scalar on the device, so that the
        caller decides when to wait for it.
        """

    def prepare(self, passes: Callable[[], Tensor]) -> None:
        """Take one discarded training step, where the engine needs one before the first. Every rank must call.

        Args:
            passes: runs a forward pass in this engine and returns a loss of 0 that depends on every parameter.
        """

    def snapshot(self, kept: Callable[[str], bool]) -> Pieces:
        """Copy this rank's share of trained weights and optimizer state to the CPU. Every rank must call.

        Args:
            kept: tells whether this rank keeps a parameter that several ranks hold.
        """

    def full_weights(self, *, kept: bool = True) -> dict[str, Tensor]:
        """Return the trained weights in float32 on the CPU, where ``kept``; empty elsewhere. Every rank must call."""

    def held_weights(self) -> dict[str, Tensor]:
        """Return what this rank holds of the trained weights, float32 on the device: whole, or a flat shard."""

    def whole_weight(self, name: str, held: Tensor) -> Tensor:
        """Return a whole parameter from what the ranks hold of it. Every rank must call."""

    def shard_of(self, whole: Tensor) -> Tensor:
        """Return what this rank holds of a whole parameter: all of it, or a flat shard, padded at the end."""

    @property
    def is_sharded(self) -> bool:
        """Whether ``held_weights`` are shards."""

    @property
    def optimizer_steps(self) -> int:
        """Updates done; steps that were skipped do not count."""

    def load(self, source: CheckpointValues) -> None:
        """Continue from a checkpoint, after ``prepare``; ``network`` was built with these weights. Not collective."""


def no_gpu(problem: str) -> TrainingError:
    """Return the error of a worker that cannot use the GPU it was given."""
    fix = "set gpus_per_worker: 0, or install a CUDA build of torch on machines with a GPU"
    return TrainingError("training", "gpus_per_worker", f"is above 0, and {problem}", fix)


def check_precision(settings: TrainingSettings, device: torch.device) -> None:
    """Refuse bf16 on a GPU that only emulates it. Raises TrainingError that names the card and the way to fp16."""
    if device.type != "cuda" or settings.precision != "bf16":
        return
    if not torch.cuda.is_bf16_supported(including_emulation=False):
        problem = f"{torch.cuda.get_device_name(device)} does not compute in bf16"
        fix = "set precision: fp32, zero_stage: 1 and deepspeed: {fp16: {enabled: true}}"
        raise TrainingError("training", "precision", problem, fix)


class TorchEngine:
    """torch alone, with DistributedDataParallel over several ranks: the reference.

    ``network``: on the CPU, float32; parts that must not train have ``requires_grad`` False. ``device``: that the
    network trains on.
    """

    is_sharded = False

    def __init__(
        self, network: nn.Module, settings: TrainingSettings, device: torch.device, micro_batches: int = 1
    ) -> None:
        self.device = device
        self.config: dict[str, Any] = {}
        self.network = network.to(device)
        if device.type == "cuda" and isinstance(self.network, Vavl) and not settings.compile:
            self.network.weights_side_by_side = True
        self._clipping = settings.optimizer.gradient_clipping
        self.is_bf16 = settings.precision == "bf16"
        self._optimizer = make_optimizer(self.network, settings)
        self._micro_batches, self._backwards = micro_batches, 0
        self._world_size = rank_and_world_size()[1]
        self._parallel: DistributedDataParallel | None = None
        if self._world_size > 1:
            self._parallel = DistributedDataParallel(
                self.network, broadcast_buffers=False, gradient_as_bucket_view=True
            )

    def forward(self, batch: ClipBatch, key: DrawKey | None = None) -> VavlOutput:
        """Run the network; bf16 is autocast over float32 weights. See ``Engine``."""
        parallel = self._parallel if torch.is_grad_enabled() else None
        # Gradients travel once per optimizer step, with the last micro-batch.
        is_last = (self._backwards + 1) % self._micro_batches == 0
        waits: AbstractContextManager[None] = nullcontext() if parallel is None or is_last else parallel.no_sync()
        with waits, autocast(self):
            output: VavlOutput = (parallel or self.network)(batch, key)
        return output

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of one micro-batch; DistributedDataParallel averages, the contract is a sum."""
        torch.autograd.backward(loss * self._world_size)
        self._backwards += 1

    def step(self, learning_rate: float) -> Tensor:
        """Clip, update, clear, without waiting for the device; a gradient that is not finite is only cleared."""
        norm = clip_gradient(self.network, self._clipping)
        skip_unless_finite(self._optimizer, norm)
        set_learning_rate(self._optimizer, learning_rate)
        self._optimizer.step()
        self._optimizer.zero_grad()
        return norm

    def prepare(self, passes: Callable[[], Tensor]) -> None:
        """Need no discarded step."""

    def snapshot(self, kept: Callable[[str], bool]) -> Pieces:
        """Copy this rank's share; every rank holds everything."""
        return unsharded_snapshot(self.network, self._optimizer, kept)

    def full_weights(self, *, kept: bool = True) -> dict[str, Tensor]:
        """Copy the weights."""
        return whole_weights(self, self.held_weights().items(), kept=kept)

    def held_weights(self) -> dict[str, Tensor]:
        """Return the weights themselves."""
        return {name: one.detach() for name, one in trained(self.network).items()}

    def whole_weight(self, name: str, held: Tensor) -> Tensor:  # noqa: ARG002  whole already
        """Return ``held``."""
        return held

    def shard_of(self, whole: Tensor) -> Tensor:
        """Return ``whole``."""
        return whole

    @property
    def optimizer_steps(self) -> int:
        """Updates done."""
        return count_steps(self._optimizer)

    def load(self, source: CheckpointValues) -> None:
        """Continue from a checkpoint."""
        load_unsharded(self.network, self._optimizer, source)


def autocast(engine: Engine) -> torch.autocast:
    """Return the context of a forward pass in the engine's precision: bfloat16 over float32 weights, or nothing."""
    return torch.autocast(engine.device.type, dtype=torch.bfloat16, enabled=engine.is_bf16)


def whole_weights(engine: Engine, held: Iterable[tuple[str, Tensor]], *, kept: bool) -> dict[str, Tensor]:
    """Return whole parameters from what the ranks hold, float32 on the CPU where ``kept``. Every rank must call."""
    found = {}
    for name, value in held:
        whole = engine.whole_weight(name, value)  # collective under ZeRO-3, so for every parameter
        if kept:
            found[name] = on_cpu(whole)
    return found


def compile_blocks(network: nn.Module, backend: str = "inductor") -> None:
    """Let ``torch.compile`` compile the blocks: one graph for all of them, for any length, step and draw.

    Raises:
        InputError: no C++ compiler is installed.
    """
    if not any(map(shutil.which, (os.environ.get("CXX", "g++"), "g++", "clang++"))):
        fix = "install g++, or set training.compile: false"
        raise InputError("training", "compile", "needs a compiler, and none is installed", fix)
    for module in network.modules():
        if isinstance(module, ConformerBlock):
            own = [one for one in module.modules() if isinstance(one, Dropout)]
            module.first_stream = own[0].stream
            for drawing in own:
                drawing.stream -= module.first_stream
            module.compile(dynamic=True, backend=backend)


def make_optimizer(network: nn.Module, settings: TrainingSettings) -> torch.optim.Optimizer:
    """Build torch's own AdamW: DeepSpeed's CPU version compiles for a minute and needs a compiler."""
    chosen = settings.optimizer
    return torch.optim.AdamW(
        trained(network).values(),
        lr=chosen.learning_rate,
        betas=chosen.betas,
        weight_decay=chosen.weight_decay,
        fused=True,  # a quarter of the time of the plain loop on a CPU
    )


def trained(network: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that are trained, by name."""
    return {name: one for name, one in network.named_parameters() if one.requires_grad}


def clip_gradient(network: nn.Module, limit: float) -> Tensor:
    """Clip the whole gradient to ``limit`` (0 = off) and return its norm before that, a scalar on the device."""
    return nn.utils.clip_grad_norm_(trained(network).values(), limit or float("inf"))


def skip_unless_finite(optimizer: torch.optim.Optimizer, norm: Tensor) -> None:
    """Make the next step change neither weights nor state nor count of updates where ``norm`` is not finite.

    The fused AdamW decides it on the device, by the attribute in which torch.amp.GradScaler leaves its verdict.
    """
    optimizer.found_inf = norm.isfinite().logical_not().float()  # type: ignore[attr-defined]


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Set the learning rate of every parameter group."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate


def count_steps(optimizer: torch.optim.Optimizer) -> int:
    """Return how many updates torch's optimizer has done; steps that were skipped do not count."""
    return next((int(state["step"]) for state in optimizer.state.values()), 0)


def set_steps(optimizer: torch.optim.Optimizer, steps: int) -> None:
    """Set how many updates torch's optimizer has done."""
    for state in optimizer.state.values():
        state["step"].fill_(float(steps))


def unsharded_snapshot(network: nn.Module, optimizer: torch.optim.Optimizer, kept: Callable[[str], bool]) -> Pieces:
    """Copy what ``kept`` names of whole weights and torch's optimizer state; see ``Engine.snapshot``."""
    mine = {name: one for name, one in trained(network).items() if kept(name)}
    tensors = {
        f"{kind}/{name}": on_cpu(value)
        for name, one in mine.items()
        for kind, value in _values(one, optimizer.state.get(one, {})).items()
    }
    return Pieces(tensors, dict.fromkeys(mine, 0))


def load_unsharded(network: nn.Module, optimizer: torch.optim.Optimizer, source: CheckpointValues) -> None:
    """Fill whole weights and torch's optimizer state."""
    with torch.no_grad():
        for name, one in trained(network).items():
            one.copy_(source.whole(name, WEIGHT).view_as(one))
            optimizer.state[one] = {
                # The fused optimizer keeps its count on the parameter's device.
                "step": torch.full((), float(source.optimizer_steps), device=one.device),
                **{kind: source.whole(name, kind).view_as(one).to(one.device, copy=True) for kind in MOMENTS},
            }


def on_cpu(value: Tensor) -> Tensor:
    """Copy a tensor to main memory as float32."""
    return value.detach().to("cpu", torch.float32, copy=True)


def _values(weight: Tensor, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    # Before the first step torch's optimizer has no moments; they start at zero.
    return {WEIGHT: weight, **{kind: state.get(kind, torch.zeros_like(weight)) for kind in MOMENTS}}

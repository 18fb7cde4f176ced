"""Training with DeepSpeed ZeRO 0 to 3; the only file with deepspeed."""

from __future__ import annotations

import copy
import json
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from vavl.data.batch import ClipBatch
from vavl.errors import TrainingError
from vavl.models.draws import DrawKey
from vavl.models.vavl import VavlOutput
from vavl.training.checkpoint_files import KINDS, MOMENTS, WEIGHT, CheckpointValues, Pieces
from vavl.training.collectives import (
    add_over_ranks,
    any_rank,
    backend_of,
    gather_shards,
    rank_and_world_size,
    start_single_process_group,
)
from vavl.training.deepspeed_passthrough import is_enabled
from vavl.training.engine import (
    clip_gradient,
    count_steps,
    load_unsharded,
    make_optimizer,
    on_cpu,
    set_learning_rate,
    set_steps,
    skip_unless_finite,
    trained,
    unsharded_snapshot,
    whole_weights,
)
from vavl.training.settings import TrainingSettings

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Run:
    """Elements of one parameter that this rank holds."""

    name: str
    flat: Tensor
    """What DeepSpeed shards and the optimizer updates; the run begins at ``offset``."""
    offset: int
    start: int
    """First element of the parameter."""
    length: int


class DeepSpeedEngine:
    """DeepSpeed ZeRO 0 to 3; see ``Engine`` for the contract.

    Args:
        network: on the CPU, float32; parts that must not train have ``requires_grad`` False.
        settings: stage, precision and DeepSpeed's own keys.
        device: that the network trains on.
        rows_per_slot: clips of a micro-batch of one rank.
        micro_batches: of this rank per optimizer step.

    Raises:
        TrainingError: DeepSpeed refuses the configuration.
    """

    def __init__(
        self,
        network: nn.Module,
        settings: TrainingSettings,
        device: torch.device,
        rows_per_slot: int,
        micro_batches: int = 1,
    ) -> None:
        deepspeed = _import_deepspeed(device)
        self._access: Any = deepspeed.utils  # its safe_get_* and safe_set_*
        self.device = device
        start_single_process_group(device)
        self._world_size = rank_and_world_size()[1]
        self._micro_batches, self._backwards = micro_batches, 0
        # At stage 0 DeepSpeed keeps torch's own optimizer.
        self._is_plain, self.is_sharded = settings.zero_stage == 0, settings.zero_stage == 3
        # DeepSpeed's own fp16 and bf16 modes train copies of lower precision.
        self._is_rounded = any(is_enabled(settings.deepspeed, name) for name in ("fp16", "bf16"))
        self._clipping = settings.optimizer.gradient_clipping
        # DeepSpeed takes the GPU of this number.
        os.environ["LOCAL_RANK"] = str(device.index or 0)
        deepspeed.init_distributed(dist_backend=backend_of(device))
        self._shapes = {name: one.shape for name, one in trained(network).items()}
        self._torch_optimizer = make_optimizer(network, settings)
        elements = sum(shape.numel() for shape in self._shapes.values())
        self.config = deepspeed_config(settings, rows_per_slot, self._world_size, elements, micro_batches)
        self.is_bf16 = is_enabled(self.config, "torch_autocast")
        try:
            self._engine, _, _, _ = deepspeed.initialize(
                model=network, optimizer=self._torch_optimizer, config=self.config, dist_init_required=False
            )
        except (ValidationError, ValueError, AssertionError, deepspeed.DeepSpeedConfigError) as error:
            problem = f"DeepSpeed refuses its configuration: {_first_line(error)}"
            fix = f"correct training.deepspeed; the merged configuration was {json.dumps(self.config)}"
            raise TrainingError("training", "deepspeed", problem, fix) from error
        self.network = self._engine.module
        self._layout: list[_Run] | None = None

    def forward(self, batch: ClipBatch, key: DrawKey | None = None) -> VavlOutput:
        """Run the network through DeepSpeed's hooks."""
        output: VavlOutput = self._engine(batch, key)
        return output

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of one micro-batch.

        DeepSpeed divides by the number of micro-batches and averages over ranks; multiplying by both
        here is the one place that undoes it.
        """
        self._engine.backward(loss * (self._world_size * self._micro_batches))
        self._backwards += 1
        if self._backwards % self._micro_batches:
            # DeepSpeed counts micro-batches by calls of step; before the last one it updates nothing.
            self._engine.step()

    def step(self, learning_rate: float) -> Tensor:
        """Clip, update, clear.

        DeepSpeed itself skips an update whose gradient is not finite, at every stage but 0; for that it waits for
        the device.
        """
        norm = None
        if self._is_plain:
            norm = clip_gradient(self.network, self._clipping)
            skip_unless_finite(self._torch_optimizer, norm)
        set_learning_rate(self._engine.optimizer, learning_rate)
        self._engine.step()
        if norm is None:
            found = self._engine.get_global_grad_norm()
            norm = torch.as_tensor(found, dtype=torch.float64, device=self.device)
        return norm

    def prepare(self, passes: Callable[[], Tensor]) -> None:
        """Take a step of learning rate 0 on a loss of 0, and forget that it was taken.

        ZeRO-3 records the order of modules between forward passes: where an attempt begins with one without gradient
        (pseudo-labels, accumulation), the record is thrown away every step and nothing is prefetched. (It still is
        where pseudo-labels of the network itself meet a ladder, whose training pass has another order.) And the
        optimizer state of ZeRO 1 to 3, which ``load`` fills, exists only after a step.
        """
        if self._is_plain:
            return
        for _ in range(self._micro_batches):
            self.backward(passes())
        self.step(0.0)
        self._layout = self._find_layout()
        set_steps(self._torch_optimizer, 0)

    def snapshot(self, kept: Callable[[str], bool]) -> Pieces:
        """Copy what this rank holds; where that is not known ZeRO 1 to 3 gather one parameter after the other."""
        if self._is_plain:
            return unsharded_snapshot(self.network, self._torch_optimizer, kept)
        if self._layout is None:
            return self._gathered(kept)
        tensors = {}
        for run in self._layout:
            for kind, value in ((WEIGHT, run.flat), *self._torch_optimizer.state[run.flat].items()):
                if kind in KINDS:
                    tensors[f"{kind}/{run.name}"] = on_cpu(value.view(-1).narrow(0, run.offset, run.length))
        return Pieces(tensors, {run.name: run.start for run in self._layout})

    def full_weights(self, *, kept: bool = True) -> dict[str, Tensor]:
        """Copy the weights, from the ranks' shards under ZeRO-3."""
        if self._is_rounded and not self.is_sharded:
            exact = ((name, self._whole(one, WEIGHT)) for name, one in trained(self.network).items())
            return whole_weights(self, exact, kept=kept)
        return whole_weights(self, self.held_weights().items(), kept=kept)

    def held_weights(self) -> dict[str, Tensor]:
        """Return whole weights at stages 0 to 2, the local shards of the float32 ones at stage 3."""
        if not self.is_sharded:
            return {name: one.detach() for name, one in trained(self.network).items()}
        return {name: self._access.safe_get_local_fp32_param(one) for name, one in trained(self.network).items()}

    def whole_weight(self, name: str, held: Tensor) -> Tensor:
        """Return a parameter in its shape; at stage 3 from the shards of all ranks."""
        if not self.is_sharded:
            return held
        shape = self._shapes[name]
        # Every rank holds an equal run, the last one is padded.
        return gather_shards(held)[: shape.numel()].view(shape)

    def shard_of(self, whole: Tensor) -> Tensor:
        """Return all of it, or the run of elements that ZeRO-3 gives this rank."""
        if not self.is_sharded:
            return whole
        rank, ranks = rank_and_world_size()
        length = -(-whole.numel() // ranks)
        mine = whole.flatten()[rank * length : (rank + 1) * length]
        return nn.functional.pad(mine, (0, length - mine.numel()))

    @property
    def optimizer_steps(self) -> int:
        """Updates done."""
        return count_steps(self._torch_optimizer)

    def load(self, source: CheckpointValues) -> None:
        """Continue from a checkpoint; its values are mapped, so that a rank reads what it holds alone."""
        if self._is_plain:
            load_unsharded(self.network, self._torch_optimizer, source)
            return
        set_weight, set_state = self._setters()
        for name, one in trained(self.network).items():
            for kind in KINDS:
                value = self.shard_of(source.whole(name, kind))
                set_weight(one, value) if kind == WEIGHT else set_state(one, value, kind)
        set_steps(self._torch_optimizer, source.optimizer_steps)

    def _find_layout(self) -> list[_Run] | None:
        """Find which elements of which parameter this rank holds, and where.

        DeepSpeed publishes no map of its shards. Numbers that are written through its setters, parameter by parameter,
        are found again in the state of torch's optimizer; afterwards the state is zero, as it was.

        Returns:
            None where the state is elsewhere (NVMe) or a parameter is too large for float32 to count its elements.
        """
        _, set_state = self._setters()
        names = list(self._shapes)
        for number, name in enumerate(names, start=1):
            one, size = self.network.get_parameter(name), self._shapes[name].numel()
            set_state(one, self.shard_of(torch.full((size,), float(number))), MOMENTS[0])
            set_state(one, self.shard_of(torch.arange(size, dtype=torch.float32)), MOMENTS[1])
        runs: list[_Run] = []
        for flat, state in self._torch_optimizer.state.items():
            numbers, positions = (state[kind].view(-1).cpu() for kind in MOMENTS)
            offset = 0
            for number, length in zip(*torch.unique_consecutive(numbers, return_counts=True), strict=True):
                if number > 0:  # 0 is padding
                    start, end = int(positions[offset]), int(positions[offset + length - 1])
                    if end - start + 1 == length:
                        runs.append(_Run(names[int(number) - 1], flat, offset, start, int(length)))
                offset += int(length)
            for kind in MOMENTS:
                state[kind].zero_()
        held = torch.tensor(float(sum(run.length for run in runs)), device=self.device)
        total = add_over_ranks({"held": held})["held"]
        is_known = int(total) == sum(shape.numel() for shape in self._shapes.values())
        return None if any_rank(is_true=not is_known) else runs

    def _gathered(self, kept: Callable[[str], bool]) -> Pieces:
        tensors = {}
        for name, one in trained(self.network).items():
            for kind in KINDS:
                value = self._whole(one, kind)  # collective, so for every parameter
                if kept(name):
                    tensors[f"{kind}/{name}"] = on_cpu(value)
        return Pieces(tensors, dict.fromkeys((name for name in self._shapes if kept(name)), 0))

    def _setters(self) -> tuple[Callable[..., None], Callable[..., None]]:
        if self.is_sharded:
            # The setters of whole values fail where a parameter is not a multiple of the ranks (0.19.8).
            return self._access.safe_set_local_fp32_param, self._access.safe_set_local_optimizer_state
        return self._access.safe_set_full_fp32_param, self._access.safe_set_full_optimizer_state

    def _whole(self, parameter: nn.Parameter, kind: str) -> Tensor:
        if kind == WEIGHT:
            whole: Tensor = self._access.safe_get_full_fp32_param(parameter)
        else:
            whole = self._access.safe_get_full_optimizer_state(parameter, kind)
        return whole


def _import_deepspeed(device: torch.device) -> Any:
    if device.type == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    import deepspeed

    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    if device.type == "cpu":
        # On a CPU init_distributed would compile this operation, and fail without compiler and ninja.
        _log.info("DeepSpeed's shared-memory operation is off on the CPU: gloo is used, no compiler needed")
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed


def _first_line(error: Exception) -> str:
    return " ".join(line.strip() for line in str(error).splitlines()[:3]) or type(error).__name__


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
        "gradient_clipping": settings.optimizer.gradient_clipping if settings.zero_stage else 0.0,
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
        generated["torch_autocast"] = {"enabled": True, "dtype": "bfloat16", "lower_precision_safe_modules": []}
    return _merged(generated, settings.deepspeed)


def bucket_elements(parameters: int) -> int:
    """Return the elements of a bucket: an eighth of the network, so that communication overlaps the backward pass.

    DeepSpeed's own default is 5e8 elements whatever the network's size, and it allocates them. It refuses odd numbers.
    """
    bucket = 2 * -(-parameters // (2 * _BUCKETS_PER_NETWORK))
    return min(_LARGEST_BUCKET, max(_LEAST_BUCKET, bucket))


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
        # itself in bf16.
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

"""How fast a run trains: its expected time, and its model FLOPs against the peak of its GPUs."""

from __future__ import annotations

import logging
import math
import resource
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from vavl.data.batch import ClipBatch
from vavl.models.draws import DrawKey
from vavl.models.saved_model import build_network
from vavl.models.vavl import Vavl
from vavl.training.checkpoint_files import LoopState
from vavl.training.run import TrainingRun

_log = logging.getLogger(__name__)

SECONDS_PER_STEP = "train/seconds_per_step"
EXPECTED_SECONDS = "train/expected_seconds"
MFU = "train/mfu"

MEASURED_AT = 20
"""Step of an attempt, from 1, after which its time is forecast."""
WARM_UP_STEPS = 5
"""First steps of an attempt that are not timed: libraries and kernels are used for the first time there."""

Arithmetic = Literal["bf16", "fp16", "tf32", "fp32"]


# Dense peaks in TFLOP/s of half precision and of fp32, by NVIDIA's data sheets, at the clock of a card's best form
# factor. By words of the device's name; the first entry that fits counts. A card that is not sure to belong here is
# left out.
_PEAKS: dict[str, tuple[float, float]] = {
    "H200 NVL": (835, 60),
    "H200": (989, 67),
    "H100 NVL": (835, 60),
    "H100 PCIe": (756, 51),
    "H100": (989, 67),
    "A100": (312, 19.5),
    "A10G": (70, 35),
    "A10": (125, 31.2),
    "A40": (149.7, 37.4),
    "L40S": (362, 91.6),
    "L4": (121, 30.3),
    "RTX 4090": (165, 82.6),
    "V100-SXM2": (125, 15.7),
    "T4": (65, 8.1),
}
_BEFORE_AMPERE = {"V100-SXM2", "T4"}
"""Without bf16 and TF32."""
_OTHERS = {"MIG", "Laptop", "D"}
"""Words that make another card of the name, with a peak of its own."""


def peak_flops(device_name: str, arithmetic: Arithmetic) -> float | None:
    """Return the dense peak of a GPU in FLOP/s, as its data sheet has it.

    Args:
        device_name: as ``torch.cuda.get_device_name`` gives it.
        arithmetic: of the matrix products. Without TF32, torch's default, float32 runs outside the tensor cores, so an
            fp32 run is measured against the card's plain FP32 peak.

    Returns:
        None for an unknown card, a MIG slice or a lesser form of a known one, and arithmetic that it does not have.
    """
    words = device_name.replace("-", " ").split()
    for name, (half, fp32) in {} if _OTHERS & set(words) else _PEAKS.items():
        wanted = name.replace("-", " ").split()
        if any(words[place : place + len(wanted)] == wanted for place in range(len(words))):
            tensor_cores = {} if name in _BEFORE_AMPERE else {"bf16": half, "tf32": half / 2}
            found = {"fp16": half, "fp32": fp32, "tf32": fp32, **tensor_cores}.get(arithmetic)
            return None if found is None else found * 1e12
    return None


def training_flops(network: Vavl, batch: ClipBatch) -> int:
    """Count the FLOPs of the forward and the backward pass of a micro-batch, and of the teacher's on its weak view.

    Counted are matrix products, attention and convolutions, 2 FLOPs per multiplication and addition, padding
    included; the objectives and everything element by element are not. These are *model* FLOPs: what is computed a
    second time does not count again, that is activation checkpointing, the first of two passes over several
    micro-batches, and convolutions that the backward pass repeats.

    Args:
        network: on the meta device, in training mode, built without activation checkpointing. Nothing is computed.
        batch: on any device; only its shapes matter.
    """
    shapes = batch.to(torch.device("meta"))
    key = DrawKey(0, 0)
    teaching = 0
    if shapes.weak is not None:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network.eval()(shapes.weak.batch)
        network.train()
        teaching = counter.get_total_flops()
    with FlopCounterMode(display=False) as forward:
        output = network(replace(shapes, weak=None), key)
    trained = [tensor.sum() for tensor in _tensors(output) if tensor.requires_grad]
    with FlopCounterMode(display=False, custom_mapping=_BACKWARD) as backward:
        torch.autograd.backward(torch.stack(trained).sum())
    total: int = teaching + forward.get_total_flops() + backward.get_total_flops()
    return total


def _repeated(*_: Any, **__: Any) -> int:
    return 0


def _convolution_backward(grad: Sequence[int], _: Any, weight: Sequence[int], *more: Any, **__: Any) -> int:
    """Count the gradients of input and weight; torch's own formula ignores groups for that of the weight."""
    wanted = more[7]
    return 2 * math.prod(grad) * math.prod(weight[1:]) * (bool(wanted[0]) + bool(wanted[1]))


_BACKWARD = {torch.ops.aten.convolution: _repeated, torch.ops.aten.convolution_backward: _convolution_backward}


def _tensors(output: Any) -> Iterator[Tensor]:
    """Yield the tensors of nested tuples."""
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, tuple):
        for part in output:
            yield from _tensors(part)


def padded_frames(batch: ClipBatch) -> int:
    """Count the frames of a micro-batch, padding included."""
    return batch.audio.is_real.numel() + batch.video.is_real.numel()


class StepClock:
    """Counts clips and seconds of the steps of an attempt, and says once what they tell about the run.

    The time of a step is that from its end to the end of the step before, loading and checkpoints included,
    evaluations left out. Evaluations count as often as they are to come, if one was timed before.

    Args:
        total: steps of the run.
        per_epoch: steps of an epoch; every epoch ends with an evaluation.
        seconds_before: of earlier attempts.
        utilisation: model FLOPs of a micro-batch as a share of what the rank's GPU could do in a second, in
            seconds; None where it is not known. Called once: counting takes 3 s of a core at the paper's size.
        clock: seconds.
    """

    def __init__(
        self,
        total: int,
        per_epoch: int,
        seconds_before: float = 0.0,
        utilisation: Callable[[ClipBatch], float] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._total, self._per_epoch, self._seconds_before = total, per_epoch, seconds_before
        self._utilisation, self._clock = utilisation, clock
        self._begin = clock()
        self._steps = self._frames = self._clips = 0
        self._paused_at: float | None = None
        self._paused = self._last_pause = self._warmed_up = 0.0
        self._taken = self._of_earlier_epochs = (0, 0.0)  # clips and seconds in steps
        self._is_forecast = False

    def tick(self, clips: int, micro_batches: Sequence[ClipBatch]) -> None:
        """Count a step that has just ended: ``clips`` of its global batch, ``micro_batches`` of this rank."""
        self._clips += clips
        self._steps += 1
        self._frames += sum(padded_frames(batch) for batch in micro_batches)
        if self._steps == WARM_UP_STEPS:
            self._warmed_up, self._frames = self._seconds, 0

    def pause(self) -> None:
        """Stop for the evaluation at the end of an epoch."""
        self._paused_at = self._clock()

    def resume(self) -> None:
        """Begin the next epoch."""
        assert self._paused_at is not None
        self._last_pause = self._clock() - self._paused_at
        self._paused, self._paused_at = self._paused + self._last_pause, None
        self._of_earlier_epochs = (self._clips, self._seconds)

    @property
    def clips_per_second(self) -> float:
        """Speed in this epoch, or in this attempt's part of it."""
        clips, seconds = self._of_earlier_epochs
        return (self._clips - clips) / max(self._seconds - seconds, 1e-9)

    def taken_into(self, state: LoopState) -> LoopState:
        """Add the clips and seconds since the last call to the state."""
        (clips, seconds), self._taken = self._taken, (self._clips, self._seconds)
        counted = {
            "trained_clips": state.trained_clips + self._taken[0] - clips,
            "trained_seconds": state.trained_seconds + self._taken[1] - seconds,
        }
        return state.model_copy(update=counted)

    @property
    def _seconds(self) -> float:
        """In steps of this attempt so far."""
        return (self._clock() if self._paused_at is None else self._paused_at) - self._begin - self._paused

    def forecast(self, step: int, batch: ClipBatch) -> dict[str, float]:
        """Return the forecast once, after ``MEASURED_AT`` steps of the attempt; nothing before and afterwards.

        Args:
            step: that was the last to end.
            batch: one of its micro-batches: its FLOPs, by the frame, stand for all steps that were timed.

        Returns:
            ``train/seconds_per_step``, ``train/expected_seconds`` (of the run, earlier attempts included) and, where
            the peak of the GPU is known, ``train/mfu``: a share of 1, of rank 0's GPU, whose work is like all others'.
        """
        if self._is_forecast or self._steps < MEASURED_AT:
            return {}
        self._is_forecast = True
        timed = self._steps - WARM_UP_STEPS
        per_step = (self._seconds - self._warmed_up) / timed
        epochs_left = -(-self._total // self._per_epoch) - (step + 1) // self._per_epoch
        rest = (self._total - step - 1) * per_step + epochs_left * self._last_pause
        whole = self._seconds_before + (self._clock() - self._begin) + rest
        found = {SECONDS_PER_STEP: per_step, EXPECTED_SECONDS: whole}
        if self._utilisation is not None:
            try:
                busy = self._utilisation(batch) * self._frames / padded_frames(batch)
                found[MFU] = busy / (timed * per_step)
            except RuntimeError as error:  # an operation that cannot be counted is not worth the run
                _log.warning("no MFU: the FLOPs of a step cannot be counted: %s", error)
        return found


def clock_of(run: TrainingRun, start: LoopState) -> StepClock:
    """Return the clock of an attempt of a run; only on a GPU of known peak it knows the utilisation."""
    device, settings = run.engine.device, run.plan.training
    peak: float | None = None
    if device.type == "cuda":
        uses_tf32 = settings.precision == "fp32" and torch.backends.cuda.matmul.allow_tf32
        peak = peak_flops(torch.cuda.get_device_name(device), "tf32" if uses_tf32 else settings.precision)
    if peak is None:
        return StepClock(run.total_steps, run.steps_per_epoch, start.trained_seconds)
    share = peak * settings.gpus_per_worker

    def utilisation(batch: ClipBatch) -> float:
        return training_flops(meta_network(run), batch) / share

    return StepClock(run.total_steps, run.steps_per_epoch, start.trained_seconds, utilisation)


def meta_network(run: TrainingRun) -> Vavl:
    """Build the network of a run once more on the meta device, for counting: without memory and checkpointing."""
    objectives = run.plan.objectives
    with torch.device("meta"):
        network = build_network(run.description, objectives.ladder, objectives.contrast_size)
    for mine, theirs in zip(network.parameters(), run.engine.network.parameters(), strict=True):
        mine.requires_grad_(theirs.requires_grad)
    return network.train()


_MEGA, _MILLI = 1e6, 1e-3
_EVERY_SECONDS = 10.0


def _measures(index: int) -> dict[str, Callable[[], float]]:
    cuda = torch.cuda
    return {
        "utilization_percentage": lambda: cuda.utilization(index),
        "memory_usage_megabytes": lambda: cuda.device_memory_used(index) / _MEGA,
        "memory_usage_percentage": lambda: (
            100 * cuda.device_memory_used(index) / cuda.get_device_properties(index).total_memory
        ),
        "temperature_celsius": lambda: cuda.temperature(index),
        "power_usage_watts": lambda: cuda.power_draw(index) * _MILLI,
    }


class GpuSampler:
    """Measures the GPU that a worker computes on, through torch and NVIDIA's management library.

    What a GPU does not measure (a MIG slice has no load, NVML may be missing) is logged once and left out.

    Args:
        device: of the worker; on a CPU there is nothing to measure.
        node: rank of the machine among those that train. Machine 0 has MLflow's plain names,
            ``system/gpu_0_utilization_percentage``; the others ``system/node_1/gpu_0_utilization_percentage``.
            A GPU counts as the workers of its machine do, so ranks that share one name it alike.
        clock: seconds.
    """

    def __init__(self, device: torch.device, node: int = 0, clock: Callable[[], float] = time.monotonic) -> None:
        self._index = device.index if device.type == "cuda" else None
        self._prefix = f"system/node_{node}/" if node else "system/"
        self._clock, self._due = clock, float("-inf")
        self._missing: set[str] = set()

    def sample(self) -> dict[str, float]:
        """Measure; empty where the last sample is less than ten seconds old or there is no GPU."""
        if self._index is None or self._clock() < self._due:
            return {}
        self._due = self._clock() + _EVERY_SECONDS
        values = {}
        for name, measure in _measures(self._index).items():
            try:
                values[f"{self._prefix}gpu_{self._index}_{name}"] = round(float(measure()), 2)
            except Exception as error:  # noqa: BLE001  NVML's errors share no class with torch's
                if name not in self._missing:
                    _log.warning("%sgpu_%d_%s is not measured: %s", self._prefix, self._index, name, error)
                self._missing.add(name)
        return values


def system_records(samples: Iterable[Mapping[str, float]]) -> list[dict[str, Any]]:
    """Put the samples of all ranks into one record of kind ``system``; none where nothing was measured."""
    together = {name: value for sample in samples for name, value in sample.items()}
    return [{"kind": "system", "metrics": together}] if together else []


RUN_MEMORY = "system/run_memory_gb"
"""Metric of an epoch on Ray: the most memory of all workers and of Ray's controller so far, added up."""


def peak_memory_bytes() -> int:
    """Return the most main memory that this process had at a time, with pages that it shares with others."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024)  # Linux counts in KiB

"""Where the time of a step goes, by groups of operators."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.autograd.profiler_util import FunctionEventAvg
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

_GROUPS = (
    (
        "matrix products",
        (
            "mm",
            "addmm",
            "bmm",
            "linear",
            "mkldnn_linear",
            "baddbmm",
            "dot",
            "mv",
            "_addmm_activation",
            "_linear_pointwise",
        ),
    ),
    ("attention", ("scaled_dot_product", "softmax")),
    ("convolution", ("conv",)),
    ("normalisation", ("layer_norm", "batch_norm")),
    ("optimizer and clipping", ("_fused_adam", "_foreach", "linalg_vector_norm", "addcdiv", "addcmul", "lerp")),
    ("draws of dropout and noise", ("bitwise", "bernoulli", "randn", "normal_", "rshift", "native_dropout", "arange")),
    ("copies and casts", ("copy_", "cat", "fill_", "zero_", "clone", "index_copy", "contiguous", "to_mkldnn")),
    ("activations and gates", ("silu", "glu", "relu", "sigmoid", "threshold")),
)
_EXACT = "matrix products"
_LAUNCHES = ("cudaLaunchKernel", "cuLaunchKernel")
_NO_WORK = ("empty", "detach")


def seconds_by_group(work: Callable[[], object], *, on_gpu: bool = False) -> dict[str, float]:
    """Run ``work`` once under the profiler; return the time of each group of operators, in seconds.

    Args:
        work: one step.
        on_gpu: count the time of the kernels that an operator starts, not the processor's.
    """
    found: dict[str, float] = defaultdict(float)
    for event in _operators(work, on_gpu=on_gpu):
        microseconds = event.self_device_time_total if on_gpu else event.self_cpu_time_total
        if microseconds > 0:
            found[group_of(event.key)] += microseconds / 1e6
    return dict(found)


def attention_kernels(work: Callable[[], object]) -> list[str]:
    """Run ``work`` once; return the operators that its attention came down to, sorted, e.g. the ``_math`` one."""
    names = {event.key.removeprefix("aten::") for event in _operators(work, on_gpu=False)}
    return sorted(name for name in names if name.startswith("_scaled_dot_product"))


def launches_of(work: Callable[[], object], device: torch.device) -> int:
    """Run ``work`` once; return how many kernels it launches on a GPU, on a CPU how many operators compute something.

    Views and allocations are no operators that compute. Operators of the backward pass count, as those of the CPU run
    in the thread that calls it.
    """
    if device.type != "cuda":
        with _Operators() as counted:
            work()
        return counted.number
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA], acc_events=True) as profiler:
        work()
        torch.cuda.synchronize(device)
    return sum(event.count for event in profiler.key_averages() if event.key.startswith(_LAUNCHES))


class _Operators(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.number = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not func.is_view and not func.overloadpacket.__name__.startswith(_NO_WORK):
            self.number += 1
        return func(*args, **(kwargs or {}))


def _operators(work: Callable[[], object], *, on_gpu: bool) -> list[FunctionEventAvg]:
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=activities, acc_events=True) as profiler:
        work()
    # A kernel is an event of its own next to the operator that started it.
    return [event for event in profiler.key_averages() if event.device_type == DeviceType.CPU]


def group_of(operator: str) -> str:
    """Return the group of an operator by its name in the profiler, e.g. ``aten::mm``."""
    name = operator.rpartition("::")[2]
    if not operator.startswith(("aten::", "mkldnn::")):
        return "autograd and Python"
    for group, parts in _GROUPS:
        if name in parts if group == _EXACT else any(part in name for part in parts):
            return group
    return "other elementwise and reductions"

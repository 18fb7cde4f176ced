"""Where the time of a step goes, by groups of operators."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

from torch.autograd import DeviceType
from torch.autograd.profiler_util import FunctionEventAvg
from torch.profiler import ProfilerActivity, profile

_GROUPS = (
    (
        "matrix products",
        ("mm", "addmm", "bmm", "linear", "mkldnn_linear", "baddbmm", "dot", "mv", "_addmm_activation"),
    ),
    ("attention", ("scaled_dot_product", "softmax")),
    ("convolution", ("conv",)),
    ("normalisation", ("layer_norm", "batch_norm")),
    (
        "optimizer and clipping",
        ("_fused_adam", "_foreach", "linalg_vector_norm", "addcdiv", "addcmul", "lerp"),
    ),
    (
        "draws of dropout and noise",
        ("bitwise", "bernoulli", "randn", "normal_", "rshift", "native_dropout", "arange"),
    ),
    (
        "copies and casts",
        ("copy_", "cat", "fill_", "zero_", "clone", "index_copy", "contiguous", "to_mkldnn"),
    ),
    ("activations and gates", ("silu", "glu", "relu", "sigmoid", "threshold")),
)
_EXACT = "matrix products"


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


def _operators(work: Callable[[], object], *, on_gpu: bool) -> list[FunctionEventAvg]:
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=activities, acc_events=True) as profiler:
        work()
    # A kernel is an event of its own beside the operator that started it.
    return [event for event in profiler.key_averages() if event.device_type == DeviceType.CPU]


def group_of(operator: str) -> str:
    """Return the group of an operator by its name in the profiler, e.g. ``aten::mm``."""
    name = operator.rpartition("::")[2]
    if not operator.startswith("aten::"):
        return "autograd and Python"
    for group, parts in _GROUPS:
        if name in parts if group == _EXACT else any(part in name for part in parts):
            return group
    return "other elementwise and reductions"

"""Where the time of a step goes, by groups of operators."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

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


def seconds_by_group(work: Callable[[], object]) -> dict[str, float]:
    """Run ``work`` once under the profiler; return the processor time of each group of operators, in seconds."""
    with profile(activities=[ProfilerActivity.CPU], acc_events=True) as profiler:
        work()
    found: dict[str, float] = defaultdict(float)
    for event in profiler.key_averages():
        if event.self_cpu_time_total > 0:
            found[group_of(event.key)] += event.self_cpu_time_total / 1e6
    return dict(found)


def group_of(operator: str) -> str:
    """Return the group of an operator by its name in the profiler, e.g. ``aten::mm``."""
    name = operator.rpartition("::")[2]
    if not operator.startswith("aten::"):
        return "autograd and Python"
    for group, parts in _GROUPS:
        if name in parts if group == _EXACT else any(part in name for part in parts):
            return group
    return "other elementwise and reductions"

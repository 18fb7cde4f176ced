"""Measuring two or more ways in turn: seconds, memory, and what the machine reaches."""

from __future__ import annotations

import math
import multiprocessing
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

CLOCKS = {"wall": time.perf_counter, "processor": time.process_time}
CPU = torch.device("cpu")
_SAMPLING_SECONDS = 0.002


@dataclass
class Timings:
    """Seconds of repeated work by clock; the n-th of every way were measured one after the other."""

    seconds: dict[str, list[float]] = field(default_factory=lambda: {clock: [] for clock in CLOCKS})

    def median(self, clock: str) -> float:
        """Return the median."""
        return statistics.median(self.seconds[clock])

    def as_json(self) -> dict[str, Any]:
        """Return median and range by clock."""
        return {f"{clock}_seconds": spread(values) for clock, values in self.seconds.items()}


def in_turn(ways: Mapping[str, Callable[[], object]], repeats: int, warm_up: int = 1) -> dict[str, Timings]:
    """Time every way ``repeats`` times: A, B, B, A, A, B and so on, after ``warm_up`` rounds that do not count."""
    found = {name: Timings() for name in ways}
    for turn in range(-warm_up, repeats):
        # Whichever comes first changes, so that a machine that slows down favors none.
        for name in list(ways) if turn % 2 else reversed(list(ways)):
            spent = timed(ways[name])
            if turn >= 0:
                for clock, seconds in spent.items():
                    found[name].seconds[clock].append(seconds)
    return found


def timed(work: Callable[[], object]) -> dict[str, float]:
    """Return the seconds that a call takes, by clock."""
    before = {clock: read() for clock, read in CLOCKS.items()}
    work()
    return {clock: read() - before[clock] for clock, read in CLOCKS.items()}


def finished(work: Callable[[], object], device: torch.device) -> Callable[[], None]:
    """Return ``work`` that comes back only when the device has done it."""

    def work_and_wait() -> None:
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return work_and_wait


def ratio(slow: Timings, quick: Timings, clock: str) -> dict[str, float]:
    """Return how many times as long ``slow`` took as ``quick``: median and range of the ratios turn by turn."""
    pairs = zip(slow.seconds[clock], quick.seconds[clock], strict=True)
    return spread([above / below for above, below in pairs])


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return the median and the range."""
    return {"median": statistics.median(values), "least": min(values), "most": max(values)}


class MatrixPeak:
    """What products of square matrices reach on this machine; measured again and again, the best counts."""

    def __init__(self, dtype: torch.dtype, size: int, device: torch.device = CPU) -> None:
        self._first, self._second = (torch.randn(size, size).to(device, dtype) for _ in range(2))
        self._operations = 2 * size**3
        self._least = dict.fromkeys(CLOCKS, float("inf"))

    def measure(self, products: int = 3) -> None:
        """Multiply some times."""
        for _ in range(products):
            took = timed(finished(lambda: self._first @ self._second, self._first.device))
            self._least = {clock: min(self._least[clock], took[clock]) for clock in CLOCKS}

    def rate(self, clock: str) -> float:
        """Return operations per second."""
        return self._operations / self._least[clock]


def count_operations(work: Callable[[], object]) -> int:
    """Count the operations of the matrix products, convolutions and attention of a call, backward included."""
    # The counter does not know the fused attention of the CPU; the plain one is made of products that it knows.
    mapping = {
        torch.ops.aten.convolution_backward: _operations_of_convolution_backward,
        torch.ops.mkldnn._linear_pointwise: _operations_of_linear,
    }
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False, custom_mapping=mapping) as counter:
        work()
    return int(counter.get_total_flops())


def in_own_process(work: Callable[[], Any]) -> Any:
    """Run ``work`` in a fork of this process, which must not have started threads yet; return its plain result.

    Raises:
        RuntimeError: the process failed; its traceback is on stderr.
    """
    torch.optim.AdamW([torch.zeros(1)])  # imports a second's worth of torch when first made
    fork = multiprocessing.get_context("fork")
    mine, theirs = fork.Pipe(duplex=False)
    process = fork.Process(target=lambda: theirs.send(work()))
    process.start()
    theirs.close()
    try:
        result = mine.recv()
    except EOFError as error:
        raise RuntimeError(f"{process.name} failed") from error
    finally:
        process.join()
    return result


def _operations_of_convolution_backward(
    grad: Sequence[int], image: Sequence[int], weight: Sequence[int], *rest: Any, out_shape: Any = None
) -> int:
    """Count what torch's own formula multiplies by the groups: as much per gradient as in the forward pass."""
    gradients = sum(bool(wanted) for wanted in rest[-1][:2])
    return gradients * 2 * math.prod(grad) * math.prod(weight[1:])


def _operations_of_linear(values: Sequence[int], weight: Sequence[int], *_: Any, out_shape: Any = None) -> int:
    """Count a product by oneDNN, (..., K) and (N, K)."""
    return 2 * math.prod(values) * weight[0]


@contextmanager
def peak_of_private_memory() -> Iterator[dict[str, float]]:
    """Sample the memory of this process alone while the context lasts; ``bytes`` is its peak (RssAnon)."""
    found = {"bytes": float(private_memory())}
    is_over = threading.Event()

    def sample() -> None:
        while not is_over.wait(_SAMPLING_SECONDS):
            found["bytes"] = max(found["bytes"], private_memory())

    sampler = threading.Thread(target=sample, name="memory")
    sampler.start()
    try:
        yield found
    finally:
        is_over.set()
        sampler.join()


def private_memory() -> int:
    """Return the bytes of memory of this process that no file backs."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return 1024 * int(line.split()[1])
    raise RuntimeError("/proc/self/status holds no RssAnon: this needs Linux")

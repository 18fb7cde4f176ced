"""Load of the GPUs that train, under the names of MLflow's own system metrics."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch

_MEGA, _MILLI = 1e6, 1e-3
_EVERY_SECONDS = 10.0
_log = logging.getLogger(__name__)


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

    def __init__(
        self, device: torch.device, node: int = 0, clock: Callable[[], float] = time.monotonic
    ) -> None:
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
            except Exception as fault:  # noqa: BLE001  NVML's errors share no class with torch's
                if name not in self._missing:
                    _log.warning("%sgpu_%d_%s is not measured: %s", self._prefix, self._index, name, fault)
                self._missing.add(name)
        return values


def system_records(samples: Iterable[Mapping[str, float]]) -> list[dict[str, Any]]:
    """Put the samples of all ranks into one record of kind ``system``; none where nothing was measured."""
    together = {name: value for sample in samples for name, value in sample.items()}
    return [{"kind": "system", "metrics": together}] if together else []

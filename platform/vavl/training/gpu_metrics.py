"""Load of the GPUs, under the names of MLflow's own system metrics; without torch, as Ray's controller imports it."""

from __future__ import annotations

import importlib
import logging
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_MEGA = 1e6
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Gpu:
    """A GPU or a MIG slice of one.

    Attributes:
        name: of its metrics, ``gpu_<index>`` as nvidia-smi counts, with ``_mig_<instance>`` for a slice.
        memory: handle whose memory is measured.
        whole: name and handle of the whole GPU, which alone knows load, temperature and power.
    """

    name: str
    memory: Any
    whole: tuple[str, Any]


class GpuSampler:
    """Measures GPUs through NVIDIA's management library, a few quick calls of a library and no process.

    Where the library or the driver is missing there is nothing to measure, and no error. What a GPU does not measure
    is left out; a GPU that stops answering is logged once, and the others go on.

    Args:
        nvml: the module ``pynvml``, or None.
        gpus: to measure.
        node: rank of the machine among those that train. Machine 0 has MLflow's plain names,
            ``system/gpu_0_utilization_percentage``; the others ``system/node_1/gpu_0_utilization_percentage``.
        every_seconds: shortest time between two samples.
        clock: seconds.
    """

    def __init__(
        self,
        nvml: Any,
        gpus: Sequence[_Gpu],
        node: int = 0,
        every_seconds: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._nvml, self._gpus, self._every, self._clock = nvml, gpus, every_seconds, clock
        self._prefix = f"system/node_{node}/" if node else "system/"
        self._due = float("-inf")
        self._silent: set[str] = set()

    @classmethod
    def of_worker(
        cls,
        device_index: int | None,
        node: int = 0,
        every_seconds: float = 10.0,
        nvml: Any = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> GpuSampler:
        """Return the sampler of the GPU that a training worker computes on.

        Ranks that share a GPU name its metrics alike, so it counts once in ``system_records``.

        Args:
            device_index: torch's, e.g. ``engine.device.index``; None on a CPU.
            node: rank of the machine, e.g. ``ray.train.get_context().get_node_rank()``.
            every_seconds: shortest time between two samples.
            nvml: in place of ``pynvml``.
            clock: seconds.
        """
        nvml = None if device_index is None else _started(nvml)
        if nvml is None or device_index is None:
            return cls(None, ())
        found = _by_uuid(nvml, device_uuids(device_index))
        if found is None:
            _log.warning("no GPU metrics: NVML does not know the device cuda:%d", device_index)
        return cls(nvml, () if found is None else (found,), node, every_seconds, clock)

    @classmethod
    def of_machine(cls, nvml: Any = None) -> GpuSampler:
        """Return the sampler of all GPUs of this machine, whoever uses them."""
        nvml = _started(nvml)
        if nvml is None:
            return cls(None, ())
        try:
            handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
            return cls(nvml, [_gpu_of(nvml, handle) for handle in handles])
        except nvml.NVMLError as fault:
            _log.warning("no GPU metrics: %s", fault)
            return cls(None, ())

    def sample(self) -> dict[str, float]:
        """Measure, unless the last sample is too recent.

        Returns:
            ``utilization_percentage``, ``memory_usage_megabytes``, ``memory_usage_percentage``,
            ``temperature_celsius``, ``power_usage_watts`` and ``power_usage_percentage`` (of the power limit) of each
            GPU, with prefix; empty where there is nothing to measure.
        """
        if not self._gpus or self._clock() < self._due:
            return {}
        self._due = self._clock() + self._every
        values = {name: value for gpu in self._gpus for name, value in self._measured(gpu)}
        return {f"{self._prefix}{name}": round(value, 2) for name, value in values.items()}

    def _measured(self, gpu: _Gpu) -> list[tuple[str, float]]:
        whole, handle = gpu.whole
        found: list[tuple[str, float]] = []
        for name, measure, device in (
            (gpu.name, _memory, gpu.memory),
            (whole, _utilization, handle),
            (whole, _temperature, handle),
            (whole, _power, handle),
        ):
            try:
                values = measure(self._nvml, device)
            except self._nvml.NVMLError as fault:
                self._note(whole, fault)
                continue
            found += [(f"{name}_{what}", value) for what, value in values.items()]
        return found

    def _note(self, gpu: str, fault: Exception) -> None:
        unsupported = getattr(fault, "value", None) == self._nvml.NVML_ERROR_NOT_SUPPORTED
        if not unsupported and gpu not in self._silent:
            _log.warning("%s%s does not answer, its metrics are missing: %s", self._prefix, gpu, fault)
            self._silent.add(gpu)


def system_records(samples: Iterable[Mapping[str, float]]) -> list[dict[str, Any]]:
    """Put the samples of all ranks into one record of kind ``system``; none where nothing was measured."""
    together = {name: value for sample in samples for name, value in sample.items()}
    return [{"kind": "system", "metrics": together}] if together else []


def device_uuids(device_index: int) -> list[str]:
    """Return the names by which NVML may know a device of torch's, the surest first.

    The UUID holds whatever order and choice CUDA_VISIBLE_DEVICES and CUDA_DEVICE_ORDER give to the indices. Of a MIG
    slice, CUDA may tell the UUID of the slice or of the GPU around it; CUDA_VISIBLE_DEVICES has that of the slice.
    """
    import torch

    uuid = str(torch.cuda.get_device_properties(device_index).uuid)
    visible = [entry.strip() for entry in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")]
    chosen = visible[device_index : device_index + 1]
    return [*(entry for entry in chosen if entry.startswith("MIG-")), f"GPU-{uuid}", f"MIG-{uuid}"]


def _started(nvml: Any) -> Any:
    """Return the management library, ready for use, or None where it or the driver is missing."""
    if nvml is None:
        try:
            nvml = importlib.import_module("pynvml")
        except ImportError:
            return None
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as fault:
        _log.debug("no GPU metrics: %s", fault)
        return None
    return nvml


def _by_uuid(nvml: Any, uuids: Sequence[str]) -> _Gpu | None:
    for uuid in uuids:
        try:
            return _gpu_of(nvml, nvml.nvmlDeviceGetHandleByUUID(uuid))
        except nvml.NVMLError as fault:
            _log.debug("NVML does not know %s: %s", uuid, fault)
    return None


def _gpu_of(nvml: Any, handle: Any) -> _Gpu:
    try:
        is_slice = bool(nvml.nvmlDeviceIsMigDeviceHandle(handle))
    except nvml.NVMLError:  # a driver from before MIG
        is_slice = False
    whole = nvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(handle) if is_slice else handle
    name = f"gpu_{nvml.nvmlDeviceGetIndex(whole)}"
    own = f"{name}_mig_{nvml.nvmlDeviceGetGpuInstanceId(handle)}" if is_slice else name
    return _Gpu(own, handle, (name, whole))


def _memory(nvml: Any, handle: Any) -> dict[str, float]:
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    return {
        "memory_usage_megabytes": memory.used / _MEGA,
        "memory_usage_percentage": memory.used / memory.total * 100,
    }


def _utilization(nvml: Any, handle: Any) -> dict[str, float]:
    return {"utilization_percentage": nvml.nvmlDeviceGetUtilizationRates(handle).gpu}


def _temperature(nvml: Any, handle: Any) -> dict[str, float]:
    return {"temperature_celsius": nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU)}


def _power(nvml: Any, handle: Any) -> dict[str, float]:
    watts = nvml.nvmlDeviceGetPowerUsage(handle) / 1000
    limit = nvml.nvmlDeviceGetEnforcedPowerLimit(handle) / 1000
    return {"power_usage_watts": watts, "power_usage_percentage": watts / limit * 100}

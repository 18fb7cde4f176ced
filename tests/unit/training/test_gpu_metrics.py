"""GPU load through a management library of the test's own: names, mapping of devices, faults."""

# The names are those of the library.
# ruff: noqa: N802

from __future__ import annotations

import logging
import subprocess
import sys
from types import SimpleNamespace
from typing import ClassVar

import pytest
import torch

from vavl.training.gpu_metrics import GpuSampler, system_records


class NvmlError(Exception):
    def __init__(self, value: int) -> None:
        super().__init__(f"error {value}")
        self.value = value


class FakeNvml:
    """Two GPUs, the second of them cut into MIG slices 7 and 9; a handle is the UUID."""

    NVMLError = NvmlError
    NVML_ERROR_NOT_SUPPORTED, NVML_ERROR_NOT_FOUND, NVML_ERROR_GPU_IS_LOST = 3, 6, 15
    NVML_TEMPERATURE_GPU = 0
    whole = ("GPU-a", "GPU-b")
    slices: ClassVar[dict[str, int]] = {"MIG-7": 7, "MIG-9": 9}

    def __init__(self) -> None:
        self.lost: set[str] = set()
        self.calls = 0

    def nvmlInit(self):
        pass

    def nvmlDeviceGetCount(self):
        return len(self.whole)

    def nvmlDeviceGetHandleByIndex(self, index):
        return self.whole[index]

    def nvmlDeviceGetHandleByUUID(self, uuid):
        if uuid not in (*self.whole, *self.slices):
            raise NvmlError(self.NVML_ERROR_NOT_FOUND)
        return uuid

    def nvmlDeviceIsMigDeviceHandle(self, handle):
        return handle in self.slices

    def nvmlDeviceGetDeviceHandleFromMigDeviceHandle(self, handle):
        return "GPU-b"

    def nvmlDeviceGetGpuInstanceId(self, handle):
        return self.slices[handle]

    def nvmlDeviceGetIndex(self, handle):
        return self.whole.index(handle)

    def nvmlDeviceGetMemoryInfo(self, handle):
        self._ask(handle)
        return SimpleNamespace(used=2e9 if handle in self.whole else 1e9, total=8e9)

    def nvmlDeviceGetUtilizationRates(self, handle):
        self._ask(handle)
        if handle == "GPU-b":  # NVML does not measure the load of a GPU that is cut into slices
            raise NvmlError(self.NVML_ERROR_NOT_SUPPORTED)
        return SimpleNamespace(gpu=93)

    def nvmlDeviceGetTemperature(self, handle, sensor):
        self._ask(handle)
        assert sensor == self.NVML_TEMPERATURE_GPU
        return 61

    def nvmlDeviceGetPowerUsage(self, handle):
        self._ask(handle)
        return 350_000

    def nvmlDeviceGetEnforcedPowerLimit(self, handle):
        return 700_000

    def _ask(self, handle):
        self.calls += 1
        if handle in self.lost:
            raise NvmlError(self.NVML_ERROR_GPU_IS_LOST)


@pytest.fixture
def cuda(monkeypatch):
    """Return a function that says which UUIDs torch's devices have."""

    def set_up(*uuids, visible=None):
        monkeypatch.setattr(
            torch.cuda, "get_device_properties", lambda index: SimpleNamespace(uuid=uuids[index])
        )
        if visible is None:
            monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        else:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)

    return set_up


ALL_OF_GPU_0 = {
    "gpu_0_memory_usage_megabytes": 2000.0, "gpu_0_memory_usage_percentage": 25.0,
    "gpu_0_utilization_percentage": 93, "gpu_0_temperature_celsius": 61,
    "gpu_0_power_usage_watts": 350.0, "gpu_0_power_usage_percentage": 50.0,
}  # fmt: skip


def under(prefix, names):
    return {f"{prefix}{name}": value for name, value in names.items()}


def test_the_first_machine_has_the_names_of_mlflow_and_the_others_their_rank(cuda):
    cuda("a")
    assert GpuSampler.of_worker(0, nvml=FakeNvml()).sample() == under("system/", ALL_OF_GPU_0)
    assert GpuSampler.of_worker(0, node=3, nvml=FakeNvml()).sample() == under("system/node_3/", ALL_OF_GPU_0)


def test_the_names_are_those_that_mlflow_gives(cuda, monkeypatch):
    gpu_monitor = pytest.importorskip("mlflow.system_metrics.metrics.gpu_monitor")
    fake = FakeNvml()
    monkeypatch.setattr(gpu_monitor, "pynvml", fake, raising=False)
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    monitor = gpu_monitor.GPUMonitor()
    monitor.collect_metrics()
    cuda("a")
    ours = GpuSampler.of_worker(0, nvml=fake).sample()
    theirs = under("system/", {n: v for n, v in monitor.aggregate_metrics().items() if "gpu_0" in n})
    assert theirs.items() <= ours.items()
    assert len(theirs) == 5


@pytest.mark.parametrize("visible", [None, "1,0", "GPU-b,GPU-a", "GPU-b"])
def test_a_device_is_known_by_its_uuid_whatever_the_order_of_the_indices(cuda, visible):
    """torch's device 0 is the second GPU of the machine."""
    cuda("b", "a", visible=visible)
    assert "system/gpu_1_temperature_celsius" in GpuSampler.of_worker(0, nvml=FakeNvml()).sample()


@pytest.mark.parametrize(
    ("uuid", "visible"),
    [("b", "MIG-9"), ("b", " MIG-9 "), ("9", "MIG-9"), ("9", None)],
    ids=["torch tells the whole", "blanks", "torch tells the slice", "not in the environment"],
)
def test_of_a_mig_slice_its_memory_and_the_rest_of_the_gpu_around_it(cuda, uuid, visible):
    cuda(uuid, visible=visible)
    assert GpuSampler.of_worker(0, nvml=FakeNvml()).sample() == {
        "system/gpu_1_mig_9_memory_usage_megabytes": 1000.0,
        "system/gpu_1_mig_9_memory_usage_percentage": 12.5,
        "system/gpu_1_temperature_celsius": 61,
        "system/gpu_1_power_usage_watts": 350.0,
        "system/gpu_1_power_usage_percentage": 50.0,
    }


def test_what_a_gpu_does_not_measure_is_no_news(cuda, caplog):
    cuda("b")
    assert "system/gpu_1_utilization_percentage" not in GpuSampler.of_worker(0, nvml=FakeNvml()).sample()
    assert not caplog.messages


def test_a_gpu_that_is_lost_is_logged_once_and_the_others_go_on(caplog):
    nvml = FakeNvml()
    sampler = GpuSampler.of_machine(nvml)
    assert {name.split("_")[1] for name in sampler.sample()} == {"0", "1"}
    nvml.lost.add("GPU-b")
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert sampler.sample() == under("system/", ALL_OF_GPU_0)
    assert len(caplog.messages) == 1
    assert "gpu_1 does not answer" in caplog.text


def test_samples_keep_their_distance(cuda):
    cuda("a")
    nvml, now = FakeNvml(), [0.0]
    sampler = GpuSampler.of_worker(0, nvml=nvml, clock=lambda: now[0])
    assert sampler.sample()
    calls = nvml.calls
    now[0] = 9.9
    assert sampler.sample() == {}
    assert nvml.calls == calls
    now[0] = 10.0
    assert sampler.sample()


def test_a_device_that_the_library_does_not_know_is_logged(cuda, caplog):
    cuda("z")
    assert GpuSampler.of_worker(0, nvml=FakeNvml()).sample() == {}
    assert "does not know the device cuda:0" in caplog.text


def test_without_gpu_driver_or_library_there_is_nothing(monkeypatch, cuda):
    assert GpuSampler.of_worker(None, nvml=FakeNvml()).sample() == {}
    cuda("a")
    broken = FakeNvml()
    broken.nvmlInit = lambda: (_ for _ in ()).throw(NvmlError(12))
    for made in (GpuSampler.of_worker(0, nvml=broken), GpuSampler.of_machine(broken)):
        assert made.sample() == {}
    monkeypatch.setitem(sys.modules, "pynvml", None)
    for made in (GpuSampler.of_worker(0), GpuSampler.of_machine()):
        assert made.sample() == {}


def test_ranks_that_share_a_gpu_count_once_and_those_of_other_machines_apart(cuda):
    cuda("a")
    ranks = [GpuSampler.of_worker(0, node=node, nvml=FakeNvml()).sample() for node in (0, 0, 1)]
    (record,) = system_records([*ranks, {}])
    assert record["kind"] == "system"
    assert record["metrics"] == under("system/", ALL_OF_GPU_0) | under("system/node_1/", ALL_OF_GPU_0)
    assert system_records([{}, {}]) == []


def test_the_module_brings_no_torch_along():
    story = "import sys, vavl.training.gpu_metrics; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", story], check=True)

"""GPU load as torch would measure it: names, pauses, what is not measured."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest
import torch

from vavl.training.throughput import GpuSampler, system_records

CUDA = torch.device("cuda", 1)
ALL = {
    "gpu_1_utilization_percentage": 93, "gpu_1_memory_usage_megabytes": 2000.0, "gpu_1_memory_usage_percentage": 25.0,
    "gpu_1_temperature_celsius": 61, "gpu_1_power_usage_watts": 350.0,
}  # fmt: skip


@pytest.fixture(autouse=True)
def _gpu(monkeypatch):
    for name, value in {
        "utilization": 93, "device_memory_used": 2_000_000_000, "temperature": 61, "power_draw": 350_000,
        "get_device_properties": SimpleNamespace(total_memory=8_000_000_000),
    }.items():  # fmt: skip
        monkeypatch.setattr(torch.cuda, name, lambda index, value=value: {CUDA.index: value}[index])


def under(prefix):
    return {f"{prefix}{name}": value for name, value in ALL.items()}


def test_the_first_machine_has_the_names_of_mlflow_and_the_others_their_rank():
    assert GpuSampler(CUDA).sample() == under("system/")
    assert GpuSampler(CUDA, node=3).sample() == under("system/node_3/")


def test_the_names_are_those_of_mlflow():
    """Temperature is ours; MLflow has the power limit in addition, which torch does not tell."""
    import inspect

    from mlflow.system_metrics.metrics import gpu_monitor

    theirs = inspect.getsource(gpu_monitor)
    assert [name for name in ALL if name.removeprefix("gpu_1") not in theirs] == ["gpu_1_temperature_celsius"]


def test_samples_keep_their_distance():
    now = [0.0]
    sampler = GpuSampler(CUDA, clock=lambda: now[0])
    found = []
    for now[0] in (0.0, 9.9, 10.0, 19.9):
        found.append(bool(sampler.sample()))
    assert found == [True, False, True, False]


def test_what_a_gpu_does_not_measure_is_left_out_and_told_once(monkeypatch, caplog):
    def unsupported(index):
        raise RuntimeError("Not Supported")

    monkeypatch.setattr(torch.cuda, "utilization", unsupported)
    now = [0.0]
    sampler = GpuSampler(CUDA, clock=lambda: now[0])
    with caplog.at_level(logging.WARNING):
        for now[0] in (0.0, 20.0):
            assert sampler.sample().keys() == under("system/").keys() - {"system/gpu_1_utilization_percentage"}
    (told,) = caplog.messages
    assert told == "system/gpu_1_utilization_percentage is not measured: Not Supported"


def test_a_cpu_has_nothing_to_measure():
    assert GpuSampler(torch.device("cpu")).sample() == {}


def test_this_torch_has_what_is_asked_for(monkeypatch):
    """Without NVML every measure fails in a way that the sampler takes for missing."""
    monkeypatch.undo()
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    for name in ("utilization", "device_memory_used", "temperature", "power_draw", "get_device_properties"):
        assert callable(getattr(torch.cuda, name))
    assert GpuSampler(CUDA).sample() == {}


def test_ranks_go_into_one_record():
    samples = [GpuSampler(CUDA, node=node).sample() for node in (0, 0, 1)]
    (record,) = system_records([*samples, {}])
    assert record == {"kind": "system", "metrics": under("system/") | under("system/node_1/")}
    assert system_records([{}, {}]) == []

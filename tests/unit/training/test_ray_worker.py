"""Ray Train's callback in the controller, and what an error of a worker means for the run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from ray.exceptions import RayActorError

from vavl.errors import TrainingError
from vavl.training.ray_worker import RunCallback, failure_of, first_failure
from vavl.training.settings import FaultSettings, TrainingSettings
from vavl.training.throughput import RUN_MEMORY

NO_STACKS = Path("a directory that is not there")


@pytest.fixture
def seen():
    return []


@pytest.fixture
def callback(seen):
    return RunCallback(seen.extend, FaultSettings(restarts_without_progress=2), NO_STACKS)


def test_records_are_handed_on_with_the_memory_of_all_processes(callback, seen):
    records = [{"kind": "step", "metrics": {"a": 1.0}}, {"kind": "epoch", "metrics": {"b": 2.0}}]
    of_ranks = [
        {"records": json.dumps(records), "memory_bytes": 2**30},
        {"records": "[]", "memory_bytes": 2**30, "gpu": {"system/node_1/gpu_0_power_usage_watts": 70.0}},
    ]
    callback.after_report(None, of_ranks, None)
    assert seen[0] == records[0]
    assert seen[1]["metrics"]["b"] == 2.0
    assert 2.0 < seen[1]["metrics"][RUN_MEMORY] < 12.0
    assert seen[2] == {"kind": "system", "metrics": {"system/node_1/gpu_0_power_usage_watts": 70.0}}


def test_a_sink_that_fails_does_not_end_the_run(caplog):
    def fail(records):
        raise OSError("disk")

    metrics = [{"records": json.dumps([{"kind": "step"}]), "memory_bytes": 1}]
    RunCallback(fail, FaultSettings(), NO_STACKS).after_report(None, metrics, None)
    assert "training continues" in caplog.text


def test_lost_workers_end_the_run_after_so_many_without_a_checkpoint(callback, seen):
    lost = {1: RayActorError()}
    for _ in range(2):
        callback.after_exception(None, lost)
    callback.after_report(None, [{"records": "[]", "memory_bytes": 1, "step": 7}], object())
    for _ in range(2):
        callback.after_exception(None, lost)
    assert [(one["what"], one["step"]) for one in seen] == [("restarted", 0)] * 2 + [("restarted", 7)] * 2
    with pytest.raises(TrainingError, match="3 times in a row without a new checkpoint, 2 are allowed"):
        callback.after_exception(None, lost)


def test_a_worker_that_is_frozen_is_named_though_it_raised_nothing(seen, tmp_path):
    (tmp_path / "rank-0.txt").write_text("Timeout (0:00:08)!\n  File 'step.py', line 1 in train_step\n")
    callback = RunCallback(seen.extend, FaultSettings(step_timeout_seconds=8), tmp_path)
    callback.after_report(None, [{"records": "[]", "memory_bytes": 1}] * 2, None)
    callback.after_exception(None, {0: RayActorError()})
    (restarted,) = seen
    assert "a step did not end within 8 s" in restarted["message"]
    assert "--- rank 1 ---\nleft no stack" in restarted["message"]


def test_an_error_of_a_living_worker_ends_the_run_at_once(callback, seen):
    class OfUserError(Exception):
        cause = TrainingError("step 3", "loss", "is NaN", "look at it")

    with pytest.raises(TrainingError, match="is NaN"):
        callback.after_exception(None, {0: RayActorError(), 1: OfUserError()})
    assert seen == []


def test_a_preempted_machine_is_no_lost_worker(callback, seen):
    class GoneError(Exception):
        preempted = True

    for _ in range(9):
        callback.after_exception(None, {0: GoneError()})
    assert seen == []


def raised(error):
    try:
        raise error
    except type(error) as caught:
        return caught


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:123"),
        RuntimeError("NCCL error in: ProcessGroupNCCL.cpp:2021, remote process exited"),
        dist.DistBackendError("x"),
        ConnectionResetError("x"),
        RayActorError(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_lost_peer_is_left_to_ray(error):
    assert failure_of(raised(error), TrainingSettings()) is error


def test_a_bug_names_its_place_and_out_of_memory_the_setting_that_helps():
    found = failure_of(raised(RuntimeError("boom\nsecond line")), TrainingSettings())
    assert isinstance(found, TrainingError)
    assert "test_ray_worker.py" in str(found)
    assert "boom" in str(found)
    for error in (torch.OutOfMemoryError("CUDA out of memory. Tried"), MemoryError("std: out of memory")):
        found = failure_of(raised(error), TrainingSettings(clips_per_forward=8))
        assert "out of memory with 8 per forward pass" in str(found)
        assert "lower training.clips_per_forward" in str(found)


def test_the_first_failure_is_found_behind_rays_wrappers():
    class WrapperError(Exception):
        def __init__(self, cause):
            super().__init__("wrapped")
            self.cause = cause

    cause = TrainingError("a", "b", "c", "d")
    assert first_failure({3: WrapperError(WrapperError(cause)), 1: RayActorError()}) is cause
    assert first_failure({3: WrapperError(ValueError("x"))}) is None

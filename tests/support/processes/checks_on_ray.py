"""Checks of training through Ray Train: several workers, kills, and GPUs that Ray believes in."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import psutil
import ray
import ray.train
from checked_runs import (
    FileSink,
    checked_plan,
    curve_of,
    events_of,
    reference_curve,
    run_plan,
    trained_curve,
    whole_checkpoints,
)
from checks_in_process import AGAIN, compared, start_driver
from gpu_checks import Bench, Case, Difference, relative_difference
from ray.train import ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

from vavl.errors import TrainingError
from vavl.ray_session import join_ray
from vavl.training.collectives import CPU_BACKEND
from vavl.training.settings import TrainingPlan

_LONG = 80
"""Steps of a run that is killed from outside: most of them must be left when its first checkpoint is whole."""
_SLOW = {"optimizer": {"learning_rate": 1e-4}}
"""Rounding of a GPU does not grow over so many steps."""
_LIMIT_SECONDS, _POLL_SECONDS = 180.0, 0.01


def check_training(bench: Bench, case: Case) -> dict[str, Any]:
    """Train on workers of Ray, and compare the loss curve with that of the CPU."""
    plan = checked_plan(bench, f"on Ray, {case.name}", case, launcher="ray")
    return compared(plan, reference_curve(bench, case.precision), case)


def check_killed_worker(bench: Bench, case: Case) -> dict[str, Any]:
    """Kill a worker of Ray Train; Ray restarts it, and the run resumes from the checkpoint by itself."""
    plan, expected = _long_run(bench, f"killed worker, {case.name}", case)
    killed: list[int] = []

    def kill() -> None:
        _wait_until(lambda: bool(whole_checkpoints(plan.output_dir)))
        killed.append(_worker_of(psutil.Process()).pid)
        os.kill(killed[0], signal.SIGKILL)

    thread = threading.Thread(target=kill, name="kill")
    thread.start()
    sink = FileSink(plan.output_dir.with_suffix(".jsonl"))
    run_plan(plan, sink)
    thread.join()
    if not killed:
        raise Difference("the run ended before its worker could be killed")
    return _as_if_alone(bench, sink, expected, {"restarted", "resumed"})


def check_killed_driver(bench: Bench, case: Case) -> dict[str, Any]:
    """Kill the driver of a run on Ray; the same command again resumes from the checkpoint."""
    plan, expected = _long_run(bench, f"killed driver, {case.name}", case)
    records = plan.output_dir.with_suffix(".jsonl")
    driver = start_driver(plan, records)
    _wait_until(lambda: bool(whole_checkpoints(plan.output_dir)) or driver.poll() is not None)
    its = psutil.Process(driver.pid).children(recursive=True)
    driver.kill()
    if driver.wait() != -signal.SIGKILL:
        raise Difference("the run ended before its driver could be killed; see its log")
    psutil.wait_procs(its, timeout=60)  # Ray's processes notice that their driver is gone
    code = start_driver(plan, records).wait()
    if code:
        raise Difference(f"the same command again ended with exit code {code}")
    return _as_if_alone(bench, FileSink(records), expected, {"resumed"})


def check_logical_gpus(bench: Bench, case: Case) -> dict[str, Any]:
    """Let Ray believe in two GPUs: both workers see both, and without CUDA a run says what is missing."""
    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
    ray.init(address="local", num_gpus=2, num_cpus=2, include_dashboard=False, log_to_driver=False)
    join_ray(threads=1)
    seen = bench.folder / "seen"
    seen.mkdir()

    def note() -> None:
        rank = ray.train.get_context().get_world_rank()
        facts = {name: os.environ.get(name) for name in ("CUDA_VISIBLE_DEVICES", "LOCAL_RANK")}
        (seen / f"{rank}.json").write_text(json.dumps(facts))

    TorchTrainer(
        note, torch_config=TorchConfig(backend=CPU_BACKEND), scaling_config=ScalingConfig(num_workers=2, use_gpu=True)
    ).fit()
    found = [json.loads((seen / f"{rank}.json").read_text()) for rank in range(2)]
    expected = [{"CUDA_VISIBLE_DEVICES": "0,1", "LOCAL_RANK": str(rank)} for rank in range(2)]
    if found != expected:
        raise Difference(f"the workers see {found}")
    plan = checked_plan(bench, "logical GPUs", case, launcher="ray", gpus_per_worker=1)
    try:
        run_plan(plan, FileSink(bench.folder / "logical.jsonl"))
    except TrainingError as error:
        if error.field != "gpus_per_worker":
            raise
        return {"refusal": str(error)}
    raise Difference("a run on GPUs trained without CUDA")


def _long_run(bench: Bench, name: str, case: Case) -> tuple[TrainingPlan, list[float]]:
    """Return the plan of a run to be killed, and the curve of the same one left alone, in this process."""
    training = {"max_steps": _LONG, "max_epochs": _LONG, "checkpoint_every_steps": 5, **_SLOW}
    alone, _ = trained_curve(checked_plan(bench, f"{name}, left alone", case, **training))
    return checked_plan(bench, name, case, launcher="ray", **training), alone


def _as_if_alone(bench: Bench, sink: FileSink, expected: list[float], events: set[str]) -> dict[str, Any]:
    records = sink.read()
    missing = events - set(events_of(records))
    if missing:
        raise Difference(f"no event {', '.join(sorted(missing))} among {events_of(records)}")
    largest = relative_difference(curve_of(records), expected, AGAIN[bench.device.type])
    return {"largest_relative_difference": largest}


def _worker_of(driver: psutil.Process) -> psutil.Process:
    """Return a process of a driver's Ray in which a training worker runs."""
    for process in driver.children(recursive=True):
        with contextlib.suppress(psutil.Error):
            title = " ".join(process.cmdline())
            if title.startswith("ray::") and "TrainWorker" in title:
                return process
    raise Difference("no worker of Ray Train among the driver's processes")


def _wait_until(is_so: Callable[[], bool]) -> None:
    end = time.monotonic() + _LIMIT_SECONDS
    while not is_so():
        if time.monotonic() > end:
            raise Difference(f"no checkpoint after {_LIMIT_SECONDS:.0f} s")
        time.sleep(_POLL_SECONDS)

"""Start the training workers: on Ray Train, or one in this process; the only file with ray.train."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence
from functools import partial
from typing import Any

import ray
import ray.train
from ray.train import FailureConfig, RunConfig, ScalingConfig, UserCallback
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2.api.config import LoggingConfig
from ray.train.v2.api.exceptions import WorkerGroupError

from vavl.errors import TrainingError, VavlError
from vavl.training.loop import Record, Report
from vavl.training.run_folder import RunFolder
from vavl.training.settings import TrainingPlan
from vavl.training.worker import train_on_worker

_log = logging.getLogger(__name__)

_COLLECTIVE_TIMEOUT_S = "600"
_MOST_START_UPS = 10


def launch_training(plan: TrainingPlan, folder: RunFolder, sink: Report) -> None:
    """Train with as many workers as the plan says, and return when all have finished.

    Args:
        plan: the run.
        folder: of the run; its id names the Ray run.
        sink: receives the records of rank 0, in this process or in Ray's controller process; it must
            be picklable and must not raise.

    Raises:
        VavlError: what stopped a worker.
        TrainingError: a worker or Ray itself failed in another way.
    """
    plan = plan.with_absolute_paths()
    match plan.training.launcher:
        case "in_process":
            train_on_worker(plan, sink)
        case "ray":
            trainer = _ray_trainer(plan, folder, sink)
            try:
                trainer.fit()
            except WorkerGroupError as failure:
                raise _first_cause(failure) from failure


def _ray_trainer(plan: TrainingPlan, folder: RunFolder, sink: Report) -> TorchTrainer:
    _start_ray(plan)
    settings = plan.training
    resources = {"CPU": settings.cpus_per_worker}
    if settings.gpus_per_worker:
        resources["GPU"] = settings.gpus_per_worker
    return TorchTrainer(
        partial(train_on_worker, plan, _report_to_ray),
        torch_config=TorchConfig(backend="nccl" if settings.gpus_per_worker else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=settings.workers,
            use_gpu=settings.gpus_per_worker > 0,
            resources_per_worker=resources,
        ),
        run_config=RunConfig(
            name=folder.run_id,
            storage_path=str(plan.output_dir / "ray"),
            callbacks=[_RecordSink(sink)],
            # Without a limit a start-up that never gets its resources is tried again for ever.
            failure_config=FailureConfig(controller_failure_limit=_MOST_START_UPS),
            logging_config=LoggingConfig(log_level="WARNING"),
        ),
    )


def _start_ray(plan: TrainingPlan) -> None:
    """Join the cluster of ``RAY_ADDRESS``, or start Ray on this machine.

    Raises:
        TrainingError: the machine or cluster is too small for the workers; they would wait for ever.
    """
    os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")
    os.environ.setdefault("RAY_TRAIN_COLLECTIVE_TIMEOUT_S", _COLLECTIVE_TIMEOUT_S)
    join_ray(plan.training.threads_per_worker or int(plan.training.cpus_per_worker) or 1)
    wanted = plan.training.workers * plan.training.cpus_per_worker
    there = ray.cluster_resources().get("CPU", 0)
    if wanted > there:
        raise TrainingError(
            "training", "workers", f"{wanted:g} CPUs are asked for, Ray has {there:g}",
            "lower training.workers or training.cpus_per_worker",
        )  # fmt: skip


def join_ray(threads: int) -> None:
    """Join the cluster of ``RAY_ADDRESS``, or start Ray on this machine, with ``threads`` per worker."""
    # Workers inherit this; two workers of a laptop would otherwise fight for all its cores.
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    if not ray.is_initialized():
        local = "RAY_ADDRESS" not in os.environ
        options: dict[str, Any] = {"include_dashboard": False} if local else {}
        ray.init(log_to_driver=False, logging_level=logging.WARNING, **options)


def _report_to_ray(records: Sequence[Record]) -> None:
    # One JSON text: Ray must neither see a NaN nor a tensor in its metrics.
    ray.train.report({"records": json.dumps(list(records))})


class _RecordSink(UserCallback):  # type: ignore[misc]
    """Hands the records of rank 0 on, in Ray's controller process."""

    def __init__(self, sink: Report) -> None:
        self._sink = sink

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:  # noqa: ARG002
        """Pass the records on; an exception here would end the run and not be retried."""
        try:
            self._sink(json.loads(metrics[0]["records"]))
        except Exception:  # noqa: BLE001  logged with its traceback; the journal is not worth the run
            _log.exception("a report could not be recorded; training goes on")


def _first_cause(failure: WorkerGroupError) -> VavlError:
    """Find the error that says what to repair among those of all workers."""
    for rank, fault in sorted(failure.worker_failures.items()):
        cause: BaseException | None = fault
        while cause is not None:
            if isinstance(cause, VavlError):
                return cause
            cause = cause.__cause__ or getattr(cause, "cause", None)
        _log.error("worker %d failed: %s", rank, fault)
    text = "; ".join(f"worker {rank}: {fault}" for rank, fault in sorted(failure.worker_failures.items()))
    return TrainingError(
        "training", "", text, "see the worker logs in Ray's session folder, /tmp/ray/session_latest/logs"
    )

"""What runs in Ray Train's processes: a worker of a run, and the callback in the controller."""

from __future__ import annotations

import json
import logging
import math
import os
import re
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ray.train
import ray.train.torch
import torch
import torch.distributed as dist
from ray.train import Checkpoint, CheckpointUploadMode, UserCallback

from vavl.errors import InputError, TrainingError, VavlError
from vavl.training.checkpoint import CHECKPOINTS_DIRECTORY, PendingWrite
from vavl.training.context import LocalContext, Watchdog, read_stacks, stacks_directory
from vavl.training.records import Record, event
from vavl.training.run_directory import read_record
from vavl.training.settings import FaultSettings, TrainingPlan, TrainingSettings
from vavl.training.stop import StopWatch
from vavl.training.storage import RunStorage
from vavl.training.throughput import RUN_MEMORY, GpuSampler, peak_memory_bytes, system_records
from vavl.training.worker import train_on_worker

_log = logging.getLogger(__name__)

_REPORT_PAUSE_SECONDS = 1.0
_LONGEST_MESSAGE = 160
# What gloo, NCCL and sockets say when the process at the other end is gone.
_LOST_PEER = re.compile(
    r"connection (closed|reset|refused)|broken pipe|gloo|nccl|socket|timed out waiting", re.IGNORECASE
)


def train_on_ray_worker(plan: TrainingPlan, run_id: str) -> dict[str, Any]:
    """Train on a worker of Ray Train; return what the run came to, see ``train_on_worker``.

    Raises:
        VavlError: what ends the run; every error of a living worker but a lost connection becomes one.
    """
    settings = plan.training
    _check_storage(plan.output_dir, run_id)
    context = RayContext(plan)
    try:
        return train_on_worker(plan, context.report, context)
    except VavlError:
        raise
    except Exception as error:
        raise failure_of(error, settings) from error
    finally:
        context.close()


class RayContext(LocalContext):
    """What Ray Train gives a worker."""

    report_pause_seconds = _REPORT_PAUSE_SECONDS
    """Longer than Ray takes to fetch a report, however quick the steps are."""

    def __init__(self, plan: TrainingPlan) -> None:
        super().__init__(StopWatch(plan.output_dir))
        context = ray.train.get_context()
        self.attempt = context.get_experiment_name()
        timeout = plan.training.faults.step_timeout_seconds
        self._watchdog = Watchdog(stacks_directory(plan.output_dir), context.get_world_rank(), timeout)
        root = RunStorage(plan.output_dir).directory(CHECKPOINTS_DIRECTORY)
        self._gpu: GpuSampler | None = None
        self._path, self._filesystem = root.directory(self.attempt).ray_arguments()

    def device(self, settings: TrainingSettings) -> torch.device:
        """Return the device that Ray gave this worker; torch must see it."""
        without_ray = super().device(settings)
        given: torch.device = ray.train.torch.get_device()
        return without_ray if without_ray.type == "cpu" else given

    def beat(self, least_seconds: float | None = 0.0) -> None:
        """Restart the watchdog's time."""
        self._watchdog.beat(least_seconds)

    def is_preempted(self) -> bool:
        """Ask Ray Train."""
        return ray.train.get_preemption_info() is not None

    def submit(self, pending: PendingWrite) -> None:
        """Report a checkpoint; Ray writes it in a thread of this process, and removes old ones."""

        def write(checkpoint: Checkpoint, _: str) -> Checkpoint:
            pending()  # keeps an error for the loop, which tells all ranks
            return checkpoint

        ray.train.report(
            {"records": "[]", "step": pending.step, **self._load()},
            checkpoint=Checkpoint(f"{self._path}/{pending.name}", self._filesystem),
            checkpoint_dir_name=pending.name,
            checkpoint_upload_mode=CheckpointUploadMode.ASYNC,
            delete_local_checkpoint_after_upload=False,
            checkpoint_upload_fn=write,
        )

    def report(self, records: Sequence[Record]) -> None:
        """Report records; the newest metrics of each kind as numbers, too, for Ray's dashboard and ``Result``."""
        metrics: dict[str, float] = {}
        for record in records:
            metrics |= {
                name: float(value)
                for name, value in record.get("metrics", {}).items()
                if value is not None and math.isfinite(value)
            }
        ray.train.report(
            # The records as one JSON text: a NaN in Ray's metrics would make the run impossible to restore.
            {**metrics, "records": json.dumps(list(records)), **self._load()},
            checkpoint_upload_mode=CheckpointUploadMode.ASYNC,  # waits for no checkpoint that is being written
        )

    def _load(self) -> dict[str, Any]:
        """Return what this worker takes of its machine, for the callback in the controller."""
        if self._gpu is None:
            self._gpu = GpuSampler(ray.train.torch.get_device(), ray.train.get_context().get_node_rank())
        return {"memory_bytes": peak_memory_bytes(), "gpu": self._gpu.sample()}

    def close(self) -> None:
        """Watch no more."""
        self._watchdog.stop()


def failure_of(error: Exception, settings: TrainingSettings) -> Exception:
    """Return what an error of a living worker means for the run.

    Returns:
        A ``TrainingError`` that ends the run, with the setting that helps; the error itself where a peer was lost, so
        that Ray Train restarts the workers.
    """
    if isinstance(error, torch.OutOfMemoryError) or "out of memory" in str(error).lower():
        now = "its whole share" if settings.clips_per_forward is None else settings.clips_per_forward
        problem = f"out of memory with {now} per forward pass: {in_short(error)}"
        fix = "lower training.clips_per_forward; also zero_stage, activation_checkpointing or offload"
        return TrainingError("training", "clips_per_forward", problem, fix)
    is_ray = type(error).__module__.partition(".")[0] == "ray"
    is_lost = isinstance(error, (dist.DistError, ConnectionError)) or (
        isinstance(error, RuntimeError) and _LOST_PEER.search(str(error)) is not None
    )
    if is_ray or is_lost:
        return error
    where = traceback.TracebackException.from_exception(error).stack[-1]
    fix = "read the traceback in the log of the worker: a bug or a bad input, so the run is not restarted"
    return TrainingError(f"{Path(where.filename).name}:{where.lineno}", type(error).__name__, in_short(error), fix)


class RunCallback(UserCallback):  # type: ignore[misc]
    """Hands on the records of rank 0 in Ray's controller process, and decides whether lost workers end the run.

    ``sink``: takes records; picklable, must not raise. ``faults``: how often workers may be lost. ``stacks``: where the
    watchdogs of this machine write.
    """

    def __init__(self, sink: Callable[[Sequence[Record]], None], faults: FaultSettings, stacks: Path) -> None:
        self._sink, self._faults, self._stacks = sink, faults, stacks
        self._step = self._lost = self._ranks = 0

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:  # noqa: ARG002
        """Pass the records on; an exception here would end the run."""
        self._ranks = len(metrics)
        if checkpoint is not None:
            self._lost, self._step = 0, metrics[0].get("step", self._step)
        try:
            records = _with_memory(json.loads(metrics[0]["records"]), metrics)
            records += system_records(rank.get("gpu", {}) for rank in metrics)
            if records:
                self._sink(records)
        except Exception:  # noqa: BLE001  logged with its traceback; the journal is not worth the run
            _log.exception("a report could not be recorded; training continues")

    def after_exception(self, run_context: Any, worker_exceptions: Mapping[int, Exception]) -> None:  # noqa: ARG002
        """End the run for an error of a living worker, or for workers lost too often; else Ray restarts them.

        Raises:
            VavlError: ends the run, as Ray Train does not retry what a callback raises.
        """
        cause = first_failure(worker_exceptions)
        if cause is not None:
            raise cause
        if any(_is_preempted(error) for error in worker_exceptions.values()):
            return
        self._lost += 1
        problem = self._problem(worker_exceptions)
        allowed = self._faults.restarts_without_progress
        if self._lost > allowed:
            raise TrainingError(
                "training",
                "",
                f"{problem}\n{self._lost} times in a row without a new checkpoint, {allowed} are allowed",
                "see the logs of the workers in Ray's session directory, /tmp/ray/session_latest/logs; start the "
                "same command again to resume from the last checkpoint",
            )
        _log.warning("restarted after step %d: %s", self._step, problem)
        self._sink([event("restarted", self._step, problem)])

    def _problem(self, errors: Mapping[int, Exception]) -> str:
        # A frozen worker is none of those that failed.
        ranks, self._ranks = max(self._ranks, max(errors) + 1), 0
        stacks = read_stacks(self._stacks, ranks)
        if stacks is not None:
            seconds = self._faults.step_timeout_seconds
            return f"a step did not end within {seconds:g} s; the stacks of all ranks:\n{stacks}"
        listed = "; ".join(f"worker {rank}: {in_short(error)}" for rank, error in sorted(errors.items()))
        return f"workers were lost: {listed}"


def first_failure(errors: Mapping[int, Exception]) -> VavlError | None:
    """Return the error that says what to repair among those of all workers, None where they were lost."""
    for _, error in sorted(errors.items()):
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, VavlError):
                return cause
            cause = cause.__cause__ or getattr(cause, "cause", None)
    return None


def _check_storage(output_dir: Path | str, run_id: str) -> None:
    """Refuse a machine that does not share the run's directory with the driver."""
    record = read_record(output_dir)
    seen = None if record is None else record["run_id"]
    if seen != run_id:
        problem = f"machine {os.uname().nodename} sees {seen or 'no run'} there, not {run_id}"
        fix = "put output_dir on storage that all machines of the cluster share, or on object storage"
        raise InputError(str(output_dir), "output_dir", problem, fix)


def _with_memory(records: list[Record], metrics: Sequence[Mapping[str, Any]]) -> list[Record]:
    """Return the records, the epochs among them with the memory of all workers and of this process."""
    taken = peak_memory_bytes() + sum(rank["memory_bytes"] for rank in metrics)
    return [
        {**record, "metrics": {**record["metrics"], RUN_MEMORY: taken / 2**30}} if record["kind"] == "epoch" else record
        for record in records
    ]


def _is_preempted(error: BaseException) -> bool:
    inner = getattr(error, "failure", None) or error
    return bool(getattr(inner, "preempted", False))


def in_short(error: BaseException) -> str:
    """Return what an error says, without its page of details."""
    cause = getattr(error, "cause", None) or error.__cause__ or error
    first = next((line.strip() for line in str(cause).splitlines() if line.strip()), type(cause).__name__)
    return first if len(first) <= _LONGEST_MESSAGE else f"{first[:_LONGEST_MESSAGE]} ..."

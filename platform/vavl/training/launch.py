"""Start the training workers: on Ray Train, or one in this process; ray.train is used here and in ray_controller."""

from __future__ import annotations

import itertools
import json
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path

import ray
import ray.train
from ray.data._internal.cluster_autoscaler.default_autoscaling_coordinator import (
    get_or_create_autoscaling_coordinator,
)
from ray.exceptions import RayError
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from ray.train.v2.api.config import LoggingConfig
from ray.train.v2.api.exceptions import TrainingFailedError, WorkerGroupError

from vavl.errors import InputError, VavlError
from vavl.training.cluster import (
    ask_for_workers,
    free_places_of_the_dead,
    places_for_workers,
    resources_of_worker,
)
from vavl.training.loop import Record, Report
from vavl.training.process_memory import peak_memory_bytes
from vavl.training.ray_controller import GroupOfWorkers, RecordSink
from vavl.training.ray_start import prepare_ray
from vavl.training.run_folder import RunFolder, run_id_of
from vavl.training.settings import TrainingPlan, TrainingSettings
from vavl.training.signals import in_thread, stop_on_signals
from vavl.training.stop import Reason, StopWatch, clear_stop, read_left
from vavl.training.supervision import LostWorkersError, Supervisor, stopped
from vavl.training.surroundings import Listening
from vavl.training.watchdog import Watchdog
from vavl.training.worker import train_on_worker

_log = logging.getLogger(__name__)

_LONGEST_WORDS = 160
_REPORT_PAUSE_SECONDS = 1.0


def launch_training(
    plan: TrainingPlan, folder: RunFolder, sink: Report, *, shares_cluster: bool = False
) -> None:
    """Train with as many workers as the plan says, and return when the run is finished.

    Args:
        plan: the run.
        folder: of the run; its id names the Ray run.
        sink: receives the records of rank 0, in this process or in Ray's controller process; it must
            be picklable and must not raise.
        shares_cluster: other runs of the same driver stand beside this one: what an autoscaler is asked
            for is the driver's business, since each request replaces the one before.

    Raises:
        VavlError: what stopped a worker.
        TrainingStopped: a signal or the stop file asked for it.
        TrainingError: workers were lost too often, or Ray itself failed.
    """
    plan = plan.with_absolute_paths()
    clear_stop(plan.output_dir)
    match plan.training.launcher:
        case "in_process":
            with stop_on_signals(plan.output_dir):
                train_on_worker(plan, sink, Listening(StopWatch(plan.output_dir)))
            if read_left(plan.output_dir) is not None:
                raise stopped(plan.output_dir)
        case "ray":
            prepare_ray(plan.training)
            with nullcontext() if shares_cluster else _asked_for_workers(plan.training):
                _train_on_ray(plan, folder, sink)


@contextmanager
def _asked_for_workers(settings: TrainingSettings) -> Iterator[None]:
    """Ask an autoscaler for the machines of a run, and give them back at its end."""
    ask_for_workers(settings, settings.most_workers)
    try:
        yield
    finally:
        if ray.is_initialized():
            ask_for_workers(settings, 0)


def _train_on_ray(plan: TrainingPlan, folder: RunFolder, sink: Report) -> None:
    settings = plan.training
    numbers = itertools.count(1)

    def attempt(workers: int) -> None:
        if groups := free_places_of_the_dead():
            _log.info("freed the places of %d group(s) of workers whose controller was lost", groups)
        in_thread(partial(_fit, plan, f"{folder.run_id}-{next(numbers)}", workers, sink))

    supervisor = Supervisor(settings, plan.output_dir, attempt, partial(places_for_workers, settings), sink)
    with stop_on_signals(plan.output_dir):
        supervisor.run()


def _fit(plan: TrainingPlan, name: str, workers: int, sink: Report) -> None:
    """Make one attempt.

    Raises:
        VavlError: what stopped a worker.
        LostWorkersError: a worker, its machine or Ray's controller was lost.
    """
    settings = plan.training
    # Ray Train's controller asks for this actor first of all and waits for it; both come up together.
    get_or_create_autoscaling_coordinator()
    trainer = TorchTrainer(
        partial(_train_on_ray_worker, plan, run_id_of(plan.output_dir)),
        torch_config=GroupOfWorkers("nccl" if settings.gpus_per_worker else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=workers,
            use_gpu=settings.gpus_per_worker > 0,
            resources_per_worker=resources_of_worker(settings),
            placement_strategy=settings.placement.upper(),
            accelerator_type=settings.accelerator_type,
        ),
        run_config=RunConfig(
            name=name,
            storage_path=str(plan.output_dir / "ray"),
            callbacks=[RecordSink(sink)],
            # Restarts are the supervisor's: it takes as many workers as there is place for by then.
            failure_config=FailureConfig(
                max_failures=0, controller_failure_limit=0, max_preemption_failures=0
            ),
            logging_config=LoggingConfig(log_level="WARNING"),
        ),
    )
    try:
        trainer.fit()
    except WorkerGroupError as failure:
        raise _first_cause(failure) from failure
    except (TrainingFailedError, RayError) as failure:
        raise LostWorkersError(f"{type(failure).__name__}: {_in_short(failure)}") from failure


def _train_on_ray_worker(plan: TrainingPlan, run_id: str) -> None:
    """Train on a worker of Ray."""
    _check_sees_folder(plan.output_dir, run_id)
    rank = ray.train.get_context().get_world_rank()
    watchdog = Watchdog(plan.output_dir, rank, plan.training.faults.step_timeout_seconds)
    outside = _RaySurroundings(StopWatch(plan.output_dir), watchdog)
    try:
        train_on_worker(plan, _report_to_ray, outside)
    finally:
        outside.close()


def _check_sees_folder(folder: Path, run_id: str) -> None:
    """Refuse a machine that does not share the run's folder with the driver."""
    try:
        seen = run_id_of(folder)
    except VavlError:
        seen = "nothing"
    if seen != run_id:
        raise InputError(
            str(folder), "output_dir", f"machine {os.uname().nodename} sees {seen} there, not run {run_id}",
            "put output_dir on storage that all machines of the cluster share",
        )  # fmt: skip


class _RaySurroundings(Listening):
    """Hears also that Ray is going to lose machines."""

    @property
    def report_pause_seconds(self) -> float:
        """Longer than Ray takes to fetch a report, however quick the steps are."""
        return _REPORT_PAUSE_SECONDS

    def after_report(self) -> Reason | None:
        """Ask Ray Train; all ranks get the same answer."""
        return "preemption" if ray.train.get_preemption_info() is not None else None


def _report_to_ray(records: Sequence[Record]) -> None:
    # One JSON text: Ray must neither see a NaN nor a tensor in its metrics.
    ray.train.report({"records": json.dumps(list(records)), "memory_bytes": peak_memory_bytes()})


def _first_cause(failure: WorkerGroupError) -> VavlError | LostWorkersError:
    """Find the error that says what to repair among those of all workers; without one they were lost."""
    for _, fault in sorted(failure.worker_failures.items()):
        cause: BaseException | None = fault
        while cause is not None:
            if isinstance(cause, VavlError):
                return cause
            cause = cause.__cause__ or getattr(cause, "cause", None)
    _log.info("lost workers, in Ray's words: %s", failure)
    return LostWorkersError(
        "; ".join(
            f"worker {rank}: {_in_short(fault)}" for rank, fault in sorted(failure.worker_failures.items())
        )
    )


def _in_short(fault: BaseException) -> str:
    """Return what an error of Ray's says, without its page of details."""
    cause = getattr(fault, "cause", None) or fault.__cause__ or fault
    first = next((line.strip() for line in str(cause).splitlines() if line.strip()), type(cause).__name__)
    return first if len(first) <= _LONGEST_WORDS else f"{first[:_LONGEST_WORDS]} ..."

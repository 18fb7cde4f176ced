"""A training run as its driver does it, and its workers: Ray Train's, or one in this process."""

from __future__ import annotations

import logging
import math
import os
import secrets
import shlex
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import ray
import torch
from ray.exceptions import RayError
from ray.train import (
    CheckpointConfig,
    ControllerError,
    FailureConfig,
    LoggingConfig,
    RunConfig,
    ScalingConfig,
    TrainingFailedError,
    WorkerGroupError,
)
from ray.train.torch import TorchConfig, TorchTrainer

from vavl.config.command_line import print_table
from vavl.config.files import write_json
from vavl.errors import InputError, TrainingError, TrainingStopped, VavlError
from vavl.ray_session import is_local, join_ray, ray_machines
from vavl.tracking.journal import JournalSink
from vavl.tracking.relocation import refuse_moved
from vavl.tracking.settings import TrackingSettings
from vavl.training.checkpoint import CHECKPOINTS_DIRECTORY, newest_step, remove_old
from vavl.training.collectives import CPU_BACKEND, GPU_BACKEND
from vavl.training.context import LocalContext, clear_stacks, stacks_directory
from vavl.training.driver_lock import only_driver
from vavl.training.engine import no_gpu
from vavl.training.progress import TrainingProgress
from vavl.training.ray_worker import RunCallback, first_failure, in_short, train_on_ray_worker
from vavl.training.records import Record, Report, event
from vavl.training.run_data import check_run
from vavl.training.run_directory import RunDirectory, claim_run_directory, resolved
from vavl.training.settings import TrainingPlan, TrainingSettings
from vavl.training.stop import StopWatch, ask_to_stop, clear_stop, in_thread, stop_on_signals, stop_request
from vavl.training.storage import RunStorage
from vavl.training.throughput import GpuSampler, system_records
from vavl.training.training_result import TrackedTraining, result_rows, training_summary
from vavl.training.worker import read_outcome, train_on_worker

_log = logging.getLogger(__name__)

_LEAST_SILENCE_SECONDS = 120.0
_START_SECONDS = 30
_POLL_SECONDS = 2.0
_ENVIRONMENT = {
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_TRAIN_COLLECTIVE_TIMEOUT_S": "600",
    "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "2",
    # So often Ray looks for lost workers and fetches reports; a worker whose report was not fetched yet
    # waits with the next one.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    # After a lost node Ray asks for it until this time is over, then for what is left.
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": str(_START_SECONDS),
}


def check_training(plan: TrainingPlan, tracking: TrackingSettings) -> None:
    """Check what a training run reads and where it writes, and log what it trains on and what there is for it.

    Raises:
        VavlError: see ``check_run`` and ``refuse_moved``.
    """
    check_run(plan)
    refuse_moved(tracking)
    if plan.training.launcher == "ray":
        log_capacity(plan.training)


def train_and_report(plan: TrainingPlan, tracking: TrackingSettings, since: float = 0.0) -> None:
    """Train, measure the best epoch, write the report, register the model, and print what came out.

    ``since``: when the run began, in seconds of this process; what came before it does not count as its time.
    """
    with only_driver(plan.output_dir):
        plan = resolved(plan)
        directory = claim_run_directory(plan)
        with directory.publishing(), TrackedTraining(directory.path, tracking) as tracked:
            tracked.start(plan, directory.run_id)
            with TrainingProgress(tracked.journal, plan.evaluation.select_by[0], since) as progress:
                launch_training(plan, directory, JournalSink(tracked.journal))
            directory.collect()
            outcome = read_outcome(directory.path)
            from vavl.training.report import write_report  # with it comes matplotlib: not before the work

            report = write_report(directory.path, plan, outcome, tracked.journal)
            kept = tracked.finish(outcome)
            summary = kept | training_summary(outcome, tracked.journal, progress.first_step_seconds, since)
        write_json(directory.path / "summary.json", summary)
        directory.finish()
    print_table(f"{plan.output_dir}: trained on {outcome['corpus']}", result_rows(outcome, summary))
    print(f"\nnext: open {shlex.quote(str(report))}\n      {tracked.show_command}")


def launch_training(plan: TrainingPlan, directory: RunDirectory, sink: Report) -> None:
    """Train with as many workers as the plan says, and return when the run is finished.

    ``directory``: of the run; its id names the Ray run. ``sink``: receives the records of rank 0, in this process or in
    Ray's controller process; it must be picklable and must not raise.

    Raises:
        VavlError: what stopped a worker.
        TrainingStopped: a signal or a stop request asked for it.
        TrainingError: workers were lost too often, or Ray itself failed.
    """
    plan = plan.with_absolute_paths()
    clear_stop(plan.output_dir)
    match plan.training.launcher:
        case "in_process":
            context = LocalContext(StopWatch(plan.output_dir))
            gpu = GpuSampler(context.device(plan.training))

            def report(records: Sequence[Record]) -> None:
                sink([*records, *system_records([gpu.sample()])])

            with stop_on_signals(plan.output_dir):
                end = train_on_worker(plan, report, context)
            if end["is_stopped"]:
                raise stopped(plan.output_dir)
        case "ray":
            prepare_ray(plan.training)
            with stop_on_signals(plan.output_dir):
                _train_on_ray(plan, directory, sink)
    remove_old(RunStorage(plan.output_dir).directory(CHECKPOINTS_DIRECTORY), plan.training.keep_checkpoints)


def prepare_ray(settings: TrainingSettings) -> None:
    """Join Ray, or start it, with what its workers have to know.

    Raises:
        TrainingError: this machine cannot hold the least number of workers.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    # A process that is stopped altogether leaves no stack; Ray notices that it does not answer.
    silence = max(_LEAST_SILENCE_SECONDS, settings.faults.step_timeout_seconds or 0)
    os.environ.setdefault("RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S", str(silence))
    join_ray(settings.threads)
    if is_local() and total_workers(settings) < settings.least_workers:
        gpus = f" and {settings.gpus_per_worker:g} GPUs" if settings.gpus_per_worker else ""
        raise TrainingError(
            "training",
            "workers",
            f"{settings.least_workers} workers with {settings.cpus_per_worker:g} CPUs{gpus} each are asked for, "
            f"this machine can hold {total_workers(settings)} ({describe_machines(ray_machines())})",
            "lower training.workers, training.cpus_per_worker or training.gpus_per_worker",
        )


def _train_on_ray(plan: TrainingPlan, directory: RunDirectory, sink: Report) -> None:
    settings = plan.training

    def check() -> None:
        asked = stop_request(plan.output_dir)
        if asked is not None and asked.reason == "stop":
            raise stopped(plan.output_dir)

    while True:
        most = wait_for_workers(settings, check)
        growth = _Growth(plan, most)
        end = in_thread(partial(_fit, plan, directory.run_id, most, sink), growth.look)
        if not end["is_stopped"]:
            return
        check()
        clear_stop(plan.output_dir)
        sink([event("resize", newest_step(plan.output_dir), growth.message)])


class _Growth:
    """Asks an elastic run that began next to other jobs to resume with more workers, once those have left.

    Ray Train grows up to the number that it began with. Beyond that the run leaves with a checkpoint, and starts again.
    """

    def __init__(self, plan: TrainingPlan, most: int) -> None:
        self._plan, self._most = plan, most
        self._since: float | None = None
        self._next = time.monotonic() + _POLL_SECONDS
        self.message = ""

    def look(self) -> None:
        """Look at the cluster from time to time."""
        settings, now = self._plan.training, time.monotonic()
        if self._most >= settings.most_workers or now < self._next or self.message:
            return
        self._next = now + _POLL_SECONDS
        try:
            more = min(settings.most_workers - self._most, free_workers(settings))
            self._since = (self._since or now) if more > 0 else None
            if self._since is not None and now - self._since >= settings.faults.grow_after_seconds:
                message = f"resources for {self._most + more} workers instead of {self._most}"
                ask_to_stop(self._plan.output_dir, "resize", message)
                self.message = message
        except (VavlError, RayError) as error:  # cluster or storage are away for a moment: growing is not worth the run
            _log.warning("the run cannot look for more workers now: %s", error)


def _fit(plan: TrainingPlan, run_id: str, most: int, sink: Report) -> dict[str, Any]:
    """Train with Ray Train, which restarts lost workers and resizes the group; return what the workers return.

    Raises:
        VavlError: what stopped a worker.
        TrainingError: Ray itself failed.
    """
    settings, faults = plan.training, plan.training.faults
    _log.info(f"starting {most} worker(s), which load torch, {settings.engine} and the network")
    clear_stacks(plan.output_dir)
    path, filesystem = RunStorage(plan.output_dir).directory(CHECKPOINTS_DIRECTORY).ray_arguments()
    trainer = TorchTrainer(
        partial(train_on_ray_worker, plan, run_id),
        torch_config=TorchConfig(backend=GPU_BACKEND if settings.gpus_per_worker else CPU_BACKEND),
        scaling_config=ScalingConfig(
            num_workers=most if most == settings.least_workers else (settings.least_workers, most),
            use_gpu=settings.gpus_per_worker > 0,
            resources_per_worker=resources_of_worker(settings),
            placement_strategy=settings.placement.upper(),
            elastic_resize_monitor_interval_s=faults.grow_after_seconds,
        ),
        run_config=RunConfig(
            # A name of its own: the truth about checkpoints is what lies there, and a name that is used again
            # would make Ray restore its own list.
            name=f"{run_id}-{secrets.token_hex(2)}",
            storage_path=path,
            storage_filesystem=filesystem,
            callbacks=[RunCallback(sink, faults, stacks_directory(plan.output_dir))],
            checkpoint_config=CheckpointConfig(num_to_keep=settings.keep_checkpoints),
            failure_config=FailureConfig(
                max_failures=-1,  # the callback counts those without progress
                controller_failure_limit=math.ceil(faults.wait_for_workers_seconds / _START_SECONDS),
            ),
            logging_config=LoggingConfig(log_level="WARNING"),
        ),
    )
    try:
        end: dict[str, Any] = trainer.fit().return_value
    except ControllerError as error:
        raise first_failure({0: error.controller_failure}) or _failed(error.controller_failure) from error
    except WorkerGroupError as error:
        raise first_failure(error.worker_failures) or _failed(error) from error
    except (TrainingFailedError, RayError) as error:
        raise _failed(error) from error
    return end


def _failed(error: BaseException) -> TrainingError:
    if "NCCL" in str(error) and "built in" in str(error):  # torch's words, met before a worker runs code of ours
        return no_gpu("NCCL is not part of torch on the workers")
    fix = "start the same command again to resume from the last checkpoint"
    return TrainingError("training", "", f"Ray Train failed: {type(error).__name__}: {in_short(error)}", fix)


def stopped(output_dir: Path | str) -> TrainingStopped:
    """Describe a run that stopped as it was asked to."""
    problem = f"stopped as asked; a checkpoint holds step {newest_step(output_dir)}"
    return TrainingStopped(str(output_dir), "", problem, "start the same command again to continue")


def resources_of_worker(settings: TrainingSettings) -> dict[str, float]:
    """Return what one worker asks of Ray, by Ray's names."""
    wanted = {"CPU": settings.cpus_per_worker, **settings.resources_per_worker}
    if settings.gpus_per_worker:
        wanted["GPU"] = settings.gpus_per_worker
    return wanted


def workers_that_fit(machines: Sequence[Mapping[str, float]], settings: TrainingSettings) -> int:
    """Count the workers that fit on machines with these resources, as the placement demands."""
    wanted = resources_of_worker(settings)
    fitting = [
        min(math.floor(machine.get(name, 0) / amount + 1e-9) for name, amount in wanted.items()) for machine in machines
    ]
    match settings.placement:
        case "strict_pack":
            return max(fitting, default=0)
        case "strict_spread":
            return sum(count > 0 for count in fitting)
        case "pack" | "spread":
            return sum(fitting)


def total_workers(settings: TrainingSettings) -> int:
    """Count the workers that the living machines of the cluster could hold if nothing else ran on them."""
    return min(settings.most_workers, workers_that_fit(ray_machines(), settings))


def free_workers(settings: TrainingSettings) -> int:
    """Count the workers that fit on what no other job holds, at most those that the machines could hold.

    Ray's own elastic policy counts the whole cluster: next to another job it asks for more than there is, times out
    and asks again. Ray publishes what is free for the cluster as a whole, so scattered remainders count as well.
    """
    free = settings.model_copy(update={"placement": "pack"})
    return min(total_workers(settings), workers_that_fit([ray.available_resources()], free))


def wait_for_workers(settings: TrainingSettings, check: Callable[[], None]) -> int:
    """Wait until the least number of workers fits on what is free; return how many fit.

    ``check``: called while waiting; raises where the run was asked to stop.

    Raises:
        TrainingError: it took longer than ``training.faults.wait_for_workers_seconds``.
    """
    start, has_asked = time.monotonic(), False
    try:
        while (free := free_workers(settings)) < settings.least_workers:
            waited = time.monotonic() - start
            if waited > settings.faults.wait_for_workers_seconds:
                found = f"{free} of {settings.least_workers} workers after {waited:.0f} s"
                raise TrainingError(
                    "training",
                    "workers",
                    f"the cluster has free resources for {found}; machines: {describe_machines(ray_machines())}",
                    "lower training.workers or what a worker asks for, wait for other jobs, or add machines",
                )
            check()
            if total_workers(settings) < settings.least_workers:
                # Notifies an autoscaler; Ray Train asks itself once it runs.
                bundles, has_asked = [_whole(resources_of_worker(settings))] * settings.least_workers, True
                ray.autoscaler.sdk.request_resources(bundles=bundles)
            time.sleep(_POLL_SECONDS)
    finally:
        if has_asked:  # it would stand after the end of this job, and keep machines that nobody uses
            ray.autoscaler.sdk.request_resources(bundles=[])
    return free


def log_capacity(settings: TrainingSettings, what: str = "workers", workers: int = 1) -> None:
    """Log what the cluster that ``RAY_ADDRESS`` names, which is joined, or else this machine has capacity for.

    ``what``: fits there, for the message. ``workers``: that one of these takes.
    """
    where = free = ""
    if is_local():
        # What else Ray would count here, e.g. memory, is known once it runs.
        settings = settings.model_copy(update={"resources_per_worker": {}})
        present = [{"CPU": float(os.cpu_count() or 1), "GPU": float(torch.cuda.device_count())}]
    else:
        try:
            join_ray(settings.threads)
        except InputError as error:
            _log.warning(error)
            return
        present, where = ray_machines(), f" of the Ray at {os.environ['RAY_ADDRESS']}"
        free = f", {free_workers(settings) // workers} of them now"
    fit = workers_that_fit(present, settings) // workers
    each = ", ".join(f"{amount:g} {name}" for name, amount in resources_of_worker(settings).items())
    line = f"capacity{where}: {describe_machines(present)}; {fit} {what} fit at once{free} ({each} a worker)"
    _log.log(logging.INFO if fit * workers >= settings.least_workers else logging.WARNING, line)


def describe_machines(present: Sequence[Mapping[str, float]]) -> str:
    """Describe machines in a few words, for messages."""
    counted = Counter(f"{one.get('CPU', 0):g} CPU, {one.get('GPU', 0):g} GPU" for one in present)
    return "; ".join(f"{count} x {what}" for what, count in counted.items()) or "none"


def _whole(resources: Mapping[str, float]) -> dict[str, int]:
    return {name: math.ceil(amount) for name, amount in resources.items() if name in ("CPU", "GPU")}

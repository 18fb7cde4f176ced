"""Training processes that are forked from a warm parent, so that a kill costs a second instead of fifteen.

A driver process starts the ranks again as Ray Train's controller does, with the platform's own callback deciding
whether a loss ends the run; all of them are real processes that meet over gloo.
"""

from __future__ import annotations

import ctypes
import logging
import multiprocessing
import os
import secrets
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import psutil
import torch.distributed as dist
from watched_context import WatchedContext

from vavl.errors import TrainingStopped, VavlError
from vavl.tracking.journal import Journal, JournalSink
from vavl.training.checkpoint import newest_step
from vavl.training.context import clear_stacks, stacks_directory
from vavl.training.driver_lock import only_driver
from vavl.training.launch import launch_training, stopped
from vavl.training.ray_worker import RunCallback, failure_of
from vavl.training.records import Record, Report
from vavl.training.run_directory import claim_run_directory
from vavl.training.settings import TrainingPlan
from vavl.training.stop import clear_stop, stop_on_signals
from vavl.training.worker import train_on_worker

FINISHED, FAILED, STOPPED = 0, 2, 3
ERROR_FILE = "error.txt"
LOG_FILE = "processes.log"
_MESSAGE_BYTES = 400
_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG

_fork = multiprocessing.get_context("fork")


class ForkedRun:
    """Starts the driver of a run, again after every fault.

    Args:
        plan: of the first start.
        errors: directory for what the driver says when it fails; not on the run's own disk, which may be full.
    """

    recovery_limit_seconds = 120.0

    def __init__(self, plan: TrainingPlan, errors: Path) -> None:
        self.plan = plan
        self._error_file = errors / f"{plan.output_dir.name}.{ERROR_FILE}"
        self._driver: BaseProcess | None = None

    def start(self) -> None:
        """Start the command, anew or again."""
        self._driver = _fork.Process(target=_drive, args=(self.plan, self._error_file))
        self._driver.start()

    def exit_code(self) -> int | None:
        """Return how the driver ended, None while it lives."""
        assert self._driver is not None
        return self._driver.exitcode

    @property
    def driver(self) -> int:
        """Return the process id of the driver."""
        assert self._driver is not None
        assert self._driver.pid is not None
        return self._driver.pid

    def workers(self) -> list[int]:
        """Return the process ids of the training processes."""
        if self.plan.training.launcher == "in_process":
            return [self.driver]
        try:
            return [one.pid for one in psutil.Process(self.driver).children()]
        except psutil.NoSuchProcess:
            return []

    def kill(self) -> None:
        """Kill the driver; its ranks end with it. Returns when all are gone."""
        assert self._driver is not None
        ranks = [psutil.Process(pid) for pid in self.workers() if pid != self.driver and psutil.pid_exists(pid)]
        os.kill(self.driver, signal.SIGKILL)
        self._driver.join()
        psutil.wait_procs(ranks, timeout=10)

    def error_message(self) -> str:
        """Return what the driver said when it failed."""
        return self._error_file.read_text() if self._error_file.exists() else ""

    def close(self) -> None:
        """End what is left."""
        if self._driver is not None and self._driver.is_alive():
            self.kill()


def _drive(plan: TrainingPlan, error_file: Path) -> None:
    """Be the driver: what ``jobs/train_model.py`` does, without tracking server and report."""
    os.setsid()
    plan.output_dir.mkdir(parents=True, exist_ok=True)
    log = os.open(plan.output_dir / LOG_FILE, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(log, stream)
    logging.basicConfig(level=logging.INFO, force=True, stream=sys.stderr)
    try:
        with only_driver(plan.output_dir):
            folder = claim_run_directory(plan)
            sink = JournalSink(Journal(plan.output_dir / "journal.jsonl"))
            if plan.training.launcher == "in_process":
                launch_training(plan, folder, sink)
            else:
                _train_on_ranks(plan, sink)
            folder.finish()
    except TrainingStopped:
        os._exit(STOPPED)
    except VavlError as error:
        # Short: also a process that may write few bytes only has to say it.
        error_file.write_bytes(str(error).encode()[:_MESSAGE_BYTES])
        os._exit(FAILED)
    os._exit(FINISHED)


def _train_on_ranks(plan: TrainingPlan, sink: Report) -> None:
    """Start the ranks, again after every loss that the callback lets pass."""
    clear_stop(plan.output_dir)
    callback = RunCallback(sink, plan.training.faults, stacks_directory(plan.output_dir))
    attempt, reached = f"forked-{secrets.token_hex(2)}", newest_step(plan.output_dir)
    with stop_on_signals(plan.output_dir):
        while True:
            clear_stacks(plan.output_dir)
            errors, end = _attempt(plan, sink, attempt)
            if not errors:
                if end["is_stopped"]:
                    raise stopped(plan.output_dir)
                return
            step = newest_step(plan.output_dir)
            if step > reached:
                callback.after_report(None, [{"records": "[]", "step": step, "memory_bytes": 0}], attempt)
            reached = step
            callback.after_exception(None, errors)


def _attempt(plan: TrainingPlan, sink: Report, attempt: str) -> tuple[Mapping[int, Exception], dict[str, Any]]:
    """Fork the ranks and wait for them; one that is lost ends all. Returns the errors by rank, and how rank 0 ended."""
    workers = plan.training.most_workers
    meet = plan.output_dir / f"meet-{os.getpid()}-{time.monotonic_ns()}"
    pipes = [_fork.Pipe(duplex=False) for _ in range(workers)]
    ranks = [
        _fork.Process(target=_be_rank, args=((plan, attempt), sink, (rank, workers), meet, pipes[rank][1]))
        for rank in range(workers)
    ]
    for process in ranks:
        process.start()
    waiting = list(ranks)
    while waiting and not any(process.exitcode for process in ranks):
        wait([process.sentinel for process in waiting])
        waiting = [process for process in ranks if process.exitcode is None]
    lost = {rank: ChildProcessError(f"exit code {one.exitcode}") for rank, one in enumerate(ranks) if one.exitcode}
    for process in waiting:
        process.kill()
    for process in ranks:
        process.join()
    meet.unlink(missing_ok=True)
    left = {rank: receiver.recv() for rank, (receiver, _) in enumerate(pipes) if receiver.poll()}
    errors = {rank: one for rank, one in left.items() if isinstance(one, Exception)}
    return lost | errors, left.get(0, {})


def _be_rank(
    work: tuple[TrainingPlan, str], sink: Report, place: tuple[int, int], meet: Path, left: Connection
) -> None:
    """Be one rank, as a worker of Ray is."""
    (plan, attempt), (rank, workers) = work, place
    ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(workers), LOCAL_RANK=str(rank))
    dist.init_process_group("gloo", f"file://{meet}", rank=rank, world_size=workers)
    try:
        left.send(train_on_worker(plan, sink if rank == 0 else _say_nothing, WatchedContext(plan, rank, attempt)))
    except Exception as error:
        logging.exception("rank %d", rank)
        left.send(error if isinstance(error, VavlError) else failure_of(error, plan.training))
        os._exit(FAILED)
    os._exit(0)


def _say_nothing(records: Sequence[Record]) -> None:
    """Ranks but the first report nothing."""


def finished(plan: TrainingPlan, limit_seconds: float = 600.0) -> None:
    """Train a plan to its end without any fault.

    Raises:
        RuntimeError: it did not finish.
    """
    run = ForkedRun(plan, plan.output_dir.parent)
    run.start()
    end = time.monotonic() + limit_seconds
    while run.exit_code() is None and time.monotonic() < end:
        time.sleep(0.05)
    code = run.exit_code()
    run.close()
    if code != FINISHED:
        raise RuntimeError(f"the undisturbed run {plan.output_dir} ended with {code}; see {LOG_FILE} there")

"""Keeps a run going over lost workers, preempted machines and a cluster that grows and shrinks.

Every attempt starts from the newest whole checkpoint with as many workers as there is place for.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from vavl.errors import TrainingError
from vavl.training.bad_numbers import event
from vavl.training.checkpoint import CHECKPOINTS_FOLDER
from vavl.training.loop import Report
from vavl.training.settings import TrainingSettings
from vavl.training.stop import TrainingStopped, ask_to_stop, clear_stop, read_left, stop_reason
from vavl.training.watchdog import clear_stacks, read_stacks

_log = logging.getLogger(__name__)

_LOOK_SECONDS = 1.0
_TELL_SECONDS = 15.0


class LostWorkersError(Exception):
    """An attempt ended because a process or machine was lost, not because of a fault of the run."""


@dataclass(frozen=True)
class Supervisor:
    """Runs attempts until the run is finished.

    Args:
        settings: of the run.
        folder: of the run.
        attempt: trains with so many workers; raises ``LostWorkersError`` when some were lost.
        places: counts the workers that there is place for now.
        report: takes events.
        look_seconds: pause between two looks at the cluster.
    """

    settings: TrainingSettings
    folder: Path
    attempt: Callable[[int], None]
    places: Callable[[], int]
    report: Report
    look_seconds: float = _LOOK_SECONDS

    def run(self) -> None:
        """Train to the end.

        Raises:
            TrainingStopped: somebody asked to stop; a checkpoint was written.
            TrainingError: too many restarts without progress, or no place for the least number of workers.
            VavlError: what stopped a worker.
        """
        lost_in_a_row, reached = 0, newest_step(self.folder)
        while True:
            workers = self._wait_for_place()
            clear_stacks(self.folder)
            fault = self._attempt(workers)
            left = read_left(self.folder)
            if stop_reason(self.folder) == "stop" or (left and left["reason"] == "stop"):
                raise stopped(self.folder)
            if fault is None and left is None:
                return
            step = newest_step(self.folder)
            if fault is None and left is not None:
                self._tell(left["reason"], step, f"workers left with a checkpoint after step {left['step']}")
            else:
                lost_in_a_row = 1 if step > reached else lost_in_a_row + 1
                self._go_on_or_fail(workers, lost_in_a_row, step, fault)
            reached = step
            clear_stop(self.folder)

    def _attempt(self, workers: int) -> LostWorkersError | None:
        with self._watch_for_growth(workers):
            try:
                self.attempt(workers)
            except LostWorkersError as fault:
                return fault
        return None

    def _go_on_or_fail(self, workers: int, lost: int, step: int, fault: LostWorkersError | None) -> None:
        stacks = read_stacks(self.folder, workers)
        seconds = self.settings.faults.step_timeout_seconds
        problem = f"workers were lost: {fault}" if stacks is None else (
            f"a step did not end within {seconds:g} s; the stacks of all ranks:\n{stacks}"
        )  # fmt: skip
        allowed = self.settings.faults.restarts_without_progress
        if lost > allowed:
            raise TrainingError(
                "training", "",
                f"{problem}\n{lost} times in a row without a new checkpoint, {allowed} are allowed",
                "see the logs of the workers in Ray's session folder, /tmp/ray/session_latest/logs; start the "
                "same command again to go on from the last checkpoint",
            )  # fmt: skip
        self._tell("restarted", step, problem)

    def _wait_for_place(self) -> int:
        """Wait until there is place for the least number of workers; return how many to start."""
        start = told = time.monotonic()
        while (there := self.places()) < self.settings.least_workers:
            now = time.monotonic()
            if stop_reason(self.folder) == "stop":
                raise stopped(self.folder)
            if now - start > self.settings.faults.wait_for_workers_seconds:
                raise TrainingError(
                    "training", "workers",
                    f"there is place for {there} of {self.settings.least_workers} workers after {now - start:.0f} s",
                    "lower training.workers or what a worker asks for, or add machines",
                )  # fmt: skip
            if now - told > _TELL_SECONDS:
                told = now
                _log.info(
                    "waiting for machines: place for %d of %d workers", there, self.settings.least_workers
                )
            time.sleep(self.look_seconds)
        return there

    @contextlib.contextmanager
    def _watch_for_growth(self, workers: int) -> Iterator[None]:
        """Ask an attempt to leave with a checkpoint once there is place for more workers."""
        over = threading.Event()
        watcher = threading.Thread(target=self._grow, args=(workers, over), name="growth", daemon=True)
        if workers < self.settings.most_workers:
            watcher.start()
        try:
            yield
        finally:
            over.set()
            if watcher.ident is not None:
                watcher.join()

    def _grow(self, workers: int, over: threading.Event) -> None:
        since: float | None = None
        while not over.wait(self.look_seconds):
            there = self.places()
            if there <= workers:
                since = None
                continue
            since = since or time.monotonic()
            waited = time.monotonic() - since
            if waited >= self.settings.faults.grow_after_seconds and stop_reason(self.folder) is None:
                ask_to_stop(self.folder, "resize", f"place for {there} workers instead of {workers}")
                return

    def _tell(self, what: str, step: int, message: str) -> None:
        _log.warning("%s after step %d: %s", what, step, message)
        self.report([event(what, step, message)])


def newest_step(folder: Path) -> int:
    """Return the step of the newest checkpoint by name, 0 without any."""
    steps = [int(path.name.removeprefix("step-")) for path in (folder / CHECKPOINTS_FOLDER).glob("step-*")]
    return max(steps, default=0)


def stopped(folder: Path) -> TrainingStopped:
    """Describe a run that left as it was asked to."""
    return TrainingStopped(
        str(folder), "", f"stopped as asked; a checkpoint holds step {newest_step(folder)}",
        "start the same command again to continue",
    )  # fmt: skip

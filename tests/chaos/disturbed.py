"""A run that faults are injected into, one after the other, and that has to end as if nothing had happened."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from reading import RunReading

from vavl.training.checkpoint import CHECKPOINTS_DIRECTORY, checkpoint_names, step_of
from vavl.training.checkpoint_files import problem_of
from vavl.training.settings import TrainingPlan
from vavl.training.storage import RunStorage

Chosen = TypeVar("Chosen")


class InjectionError(Exception):
    """The fault could not be injected; it does not count."""


class Command(Protocol):
    """How a run is started and what belongs to it."""

    plan: TrainingPlan
    recovery_limit_seconds: float

    def start(self) -> None:
        """Start the command, anew or again."""

    def exit_code(self) -> int | None:
        """Return how the driver ended, None while it lives."""

    @property
    def driver(self) -> int:
        """Return the process id of the driver."""

    def workers(self) -> list[int]:
        """Return the process ids of the training processes."""

    def kill(self) -> None:
        """Kill the driver."""

    def error_message(self) -> str:
        """Return what the driver said when it failed."""

    def close(self) -> None:
        """End what is left."""


class Disturbed:
    """One run under faults.

    Args:
        name: of the run in the table.
        command: that trains it.
        seed: of the moments of the faults.
        patience: factor for how long a recovery may take, for a machine that has other work.
    """

    FINISHED, FAILED, STOPPED = 0, 2, 3

    def __init__(self, name: str, command: Command, seed: int, patience: float = 1.0) -> None:
        self.name, self.command = name, command
        self._limit_seconds = patience * command.recovery_limit_seconds
        self.folder: Path = command.plan.output_dir
        self.steps = command.plan.training.max_steps or 0
        self.reading = RunReading(self.folder)
        self.random = random.Random(f"{seed} {name}")

    def ensure_started(self) -> None:
        """Start the command if it does not run, unless it has finished.

        Raises:
            AssertionError: it ended in a way that nobody asked for.
        """
        code = self.command.exit_code()
        if code is None or code == self.FINISHED:
            return
        self.command.start()

    def draw(self, of: Sequence[Chosen]) -> Chosen:
        """Choose one at random."""
        if not of:
            raise InjectionError("there is no process or file to choose")
        return of[self.random.randrange(len(of))]

    def workers(self) -> list[int]:
        """Wait until all training processes are there, and return them."""
        self.wait_until(lambda: bool(self.command.workers()), "no worker is there")
        return self.command.workers()

    def events(self, what: str, after: float) -> list[str]:
        """Return the messages of the events of a kind after a moment."""
        self.reading.refresh()
        return self.reading.messages(what, after)

    def checkpoints(self) -> list[Path]:
        """Return the whole checkpoints, oldest first."""
        root = RunStorage(self.folder / CHECKPOINTS_DIRECTORY)
        names = [name for name in checkpoint_names(root) if problem_of(root.directory(name), by_size=True) is None]
        return [self.folder / CHECKPOINTS_DIRECTORY / name for name in names]

    def newest_checkpoint(self) -> int:
        """Return the step of the newest whole checkpoint, 0 without any."""
        whole = self.checkpoints()
        return step_of(whole[-1].name) if whole else 0

    def wait_for_step(self, step: int) -> None:
        """Wait until so many steps are done and a checkpoint is there."""

        def is_there() -> bool:
            self.reading.refresh()
            return self.reading.done() >= step and self.newest_checkpoint() > 0

        self.wait_until(is_there, f"step {step} is not reached", is_alive=True)

    def wait_for_exit(self, code: int) -> None:
        """Wait for the end of the driver.

        Raises:
            AssertionError: it ended in another way.
        """
        self.wait_until(lambda: self.command.exit_code() is not None, "the driver does not end")
        if self.command.exit_code() != code:
            raise AssertionError(f"exit code {self.command.exit_code()} instead of {code}")

    def wait_until(
        self, is_so: Callable[[], bool], problem: str, *, pause: float = 0.01, is_alive: bool = False
    ) -> None:
        """Wait for something.

        Raises:
            AssertionError: it did not come, or the driver ended although ``is_alive`` is asked for.
        """
        end = time.monotonic() + self._limit_seconds
        while not is_so():
            if is_alive and self.command.exit_code() is not None:
                raise AssertionError(f"{problem}: the driver ended with {self.command.exit_code()}")
            if time.monotonic() > end:
                raise AssertionError(f"{problem} after {self._limit_seconds:g} s")
            time.sleep(pause)

    def change_training(self, **training: Any) -> None:
        """Let the next start train with other settings."""
        plan = self.command.plan
        values = plan.model_dump()
        values["training"] |= training
        self.command.plan = TrainingPlan.model_validate(values)

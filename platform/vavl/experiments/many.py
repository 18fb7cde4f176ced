"""Many small training runs at the same time, each one task of Ray in one process of its own."""

from __future__ import annotations

import logging
import shutil
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import ray
from ray.exceptions import RayError

from vavl.config.files import read_json, write_json
from vavl.errors import VavlError
from vavl.ray_session import join_ray
from vavl.store.store import read_content
from vavl.store.store_cache import local_notes
from vavl.training.checkpoint import CHECKPOINTS_FOLDER
from vavl.training.loop import Record
from vavl.training.run_folder import RunFolder, claim_run_folder, finished_hash
from vavl.training.settings import TrainingPlan
from vavl.training.worker import read_outcome, train_on_worker

SUMMARY_FILE = "summary.json"
RunState = Literal["finished", "kept", "failed"]
Status = Literal["FINISHED", "FAILED", "KILLED"]
_log = logging.getLogger(__name__)


class RunLog(Protocol):
    """Keeps the record of one run, in the process that trains it; must be picklable."""

    def start(self, plan: TrainingPlan, folder: RunFolder) -> None:
        """Record that the run starts, or is resumed."""

    def __call__(self, records: Sequence[Record]) -> None:
        """Record steps and epochs."""

    def end(self, status: Status, metrics: Mapping[str, float]) -> None:
        """Record the end."""


@dataclass(frozen=True)
class RunEnd:
    """How a run ended."""

    name: str
    state: RunState  # kept: it was finished before
    seconds: float = 0.0  # of this attempt; 0 for a kept run
    reason: str = ""  # why it failed
    metrics: Mapping[str, float] = field(default_factory=dict)  # final ones of a run that was trained now


def is_finished(plan: TrainingPlan) -> bool:
    """Tell whether this very run, on the same features, lies finished in its directory."""
    if finished_hash(plan.directory) != plan.config_hash:
        return False
    try:
        summary = read_summary(plan.directory)
    except VavlError:
        return False
    return bool(summary["store_hash"] == read_content(local_notes(plan.data.store))["store_hash"])


def train_many(
    plans: Mapping[str, TrainingPlan], log_of: Callable[[str], RunLog], at_once: int | None = None
) -> Iterator[RunEnd]:
    """Train every plan in its directory and yield how each ended, as they end.

    A run that fails stops no other. Runs that are finished already are yielded first. A process
    that dies is started once more, and its run resumed from the last checkpoint.

    Args:
        plans: by name; one worker each, engine ``torch``.
        log_of: gives the log of a run.
        at_once: runs at the same time; by default Ray has all of them, and runs as many as its CPUs (or GPUs)
            allow: an autoscaler sees what waits.
    """
    kept = [name for name, plan in plans.items() if is_finished(plan)]
    yield from (RunEnd(name, "kept") for name in kept)
    waiting = deque(name for name in plans if name not in kept)
    if not waiting:
        return
    join_ray(threads=1)
    running: dict[Any, str] = {}
    try:
        while waiting or running:
            while waiting and (at_once is None or len(running) < at_once):
                name = waiting.popleft()
                plan, settings = plans[name].with_absolute_paths(), plans[name].training
                task = ray.remote(train_one).options(
                    num_cpus=settings.cpus_per_worker,
                    num_gpus=settings.gpus_per_worker,
                    max_retries=1,
                    name=name,
                )
                running[task.remote(name, plan, log_of(name))] = name
            done, _ = ray.wait(list(running), num_returns=1)
            for task in done:
                yield _end_of(task, running.pop(task))
    finally:
        for task in running:
            ray.cancel(task, force=True)


def train_one(name: str, plan: TrainingPlan, log: RunLog) -> RunEnd:
    """Train one plan in this process; whatever goes wrong is the end of this run only.

    Leaves what ``train_on_worker`` leaves, and ``summary.json`` with ``seconds``; the checkpoints of a
    finished run are removed.
    """
    start = time.monotonic()
    try:
        folder = claim_run_folder(plan)
        log.start(plan, folder)
        train_on_worker(plan, log)
        outcome = read_outcome(plan.directory)
        seconds = time.monotonic() - start
        log.end("FINISHED", outcome["metrics"])
    except Exception as error:  # noqa: BLE001  the other runs continue
        _log.exception("run %s failed", name)
        try:
            log.end("FAILED", {})
        except Exception:  # noqa: BLE001  the run has failed already
            _log.exception("the failure could not be recorded")
        return RunEnd(name, "failed", time.monotonic() - start, reason_of(error))
    write_json(plan.directory / SUMMARY_FILE, {**outcome, "run_id": folder.run_id, "seconds": seconds})
    folder.finish()
    shutil.rmtree(plan.directory / CHECKPOINTS_FOLDER, ignore_errors=True)
    return RunEnd(name, "finished", seconds, metrics=outcome["metrics"])


def read_summary(folder: Path) -> dict[str, Any]:
    """Read what a finished run left."""
    return dict(read_json(folder / SUMMARY_FILE))


def reason_of(error: Exception) -> str:
    """Return an error as the reason of a failed run; one that is not of this project with its type."""
    return str(error) if isinstance(error, VavlError) else f"{type(error).__name__}: {error}"


def _end_of(task: Any, name: str) -> RunEnd:
    try:
        end: RunEnd = ray.get(task)
    except RayError as error:
        return RunEnd(name, "failed", reason=f"its process ended: {type(error).__name__}: {error}")
    return end

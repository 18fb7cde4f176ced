"""One trial in its process: a full training, followed epoch by epoch, whose end is written down whatever happens."""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from vavl.config.files import read_json, write_json
from vavl.errors import VavlError
from vavl.training.checkpoint import CHECKPOINTS_FOLDER
from vavl.training.loop import Record, Report
from vavl.training.process_memory import RUN_MEMORY, peak_memory_bytes
from vavl.training.run_folder import RunFolder, claim_run_folder
from vavl.training.settings import TrainingPlan
from vavl.training.stop import STOP_FILE, TrainingStopped, ask_to_stop, read_left
from vavl.training.worker import OUTCOME_FILE, read_outcome
from vavl.tuning.study import State

SUMMARY_FILE = "summary.json"
RAY_FOLDER = "ray"
Status = Literal["FINISHED", "FAILED", "KILLED"]
_STATUSES: dict[State, Status] = {"finished": "FINISHED", "pruned": "KILLED", "failed": "FAILED"}
_LOOK_SECONDS = 0.3
_log = logging.getLogger(__name__)


class TrialLog(Protocol):
    """Keeps the record of one trial; must be picklable."""

    def start(self, plan: TrainingPlan, folder: RunFolder) -> None:
        """Record that the trial starts, or goes on."""

    def __call__(self, records: Sequence[Record]) -> None:
        """Record steps and epochs."""

    def epochs(self) -> Sequence[Mapping[str, Any]]:
        """Return the epochs that were recorded, the last record of each, in order."""

    def end(self, status: Status, metrics: Mapping[str, float]) -> None:
        """Record the end."""


Launch = Callable[[TrainingPlan, RunFolder, Report], None]
"""Trains to the end; raises ``TrainingStopped`` when the stop file asked for it."""

Tell = Callable[[Mapping[str, Any]], None]
"""Hears of every epoch: ``epoch``, ``total_epochs``, ``metrics``."""


@dataclass(frozen=True)
class TrialEnd:
    """How a trial ended.

    Attributes:
        number: of the trial.
        state: finished, pruned (stopped before its end) or failed.
        reason: why it was stopped or failed, else "".
        metrics: of the best epoch; validation only.
        epochs_run: epochs that were trained.
        epochs_full: epochs that it would have had.
        seconds: of the last attempt.
        memory_gb: most memory of all its processes together; None where it ended before an epoch.
        run_id: of the training.
    """

    number: int
    state: State
    reason: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)
    epochs_run: int = 0
    epochs_full: int = 0
    seconds: float = 0.0
    memory_gb: float | None = None
    run_id: str = ""


@dataclass(frozen=True)
class Limits:
    """What a trial may take.

    Attributes:
        seconds: longest time of an attempt, None without limit.
        select_by: metrics whose mean chooses the best epoch.
    """

    seconds: float | None = None
    select_by: Sequence[str] = ()


def read_end(folder: Path) -> TrialEnd | None:
    """Return the end of the trial in ``folder``, None where it has none yet."""
    path = folder / SUMMARY_FILE
    return TrialEnd(**read_json(path)) if path.exists() else None


def write_end(folder: Path, end: TrialEnd) -> None:
    """Write ``summary.json`` of a trial; from then on it is not run again."""
    write_json(folder / SUMMARY_FILE, asdict(end))


def run_trial(
    number: int,
    plan: TrainingPlan,
    log: TrialLog,
    launch: Launch,
    limits: Limits,
    tell: Tell,
) -> TrialEnd:
    """Train one trial, or go on from its checkpoint; whatever goes wrong is the end of this trial only.

    Args:
        number: of the trial.
        plan: of the training, in the trial's folder.
        log: of the trial.
        launch: trains.
        limits: what the trial may take.
        tell: hears of every epoch: ``epoch``, ``total_epochs``, ``metrics``.
    """
    start = time.monotonic()
    folder: RunFolder | None = None
    try:
        folder = claim_run_folder(plan)
        log.start(plan, folder)
        _follow(plan, folder, log, launch, limits, tell)
        end = _finished(number, plan, log)
    except TrainingStopped:
        end = _stopped(number, plan, log, limits)
    except Exception as fault:  # noqa: BLE001  the other trials go on
        _log.exception("trial %d failed", number)
        reason = str(fault) if isinstance(fault, VavlError) else f"{type(fault).__name__}: {fault}"
        end = TrialEnd(number, "failed", reason, **_epochs(log))
    run_id = folder.run_id if folder else ""
    end = TrialEnd(**{**asdict(end), "seconds": time.monotonic() - start, "run_id": run_id})
    _conclude(plan.directory, folder, log, end)
    return end


def _follow(
    plan: TrainingPlan, folder: RunFolder, log: TrialLog, launch: Launch, limits: Limits,
    tell: Tell,
) -> None:  # fmt: skip
    """Train in another thread, and tell of the epochs as the journal gets them."""
    fault: list[BaseException] = []

    def work() -> None:
        try:
            launch(plan, folder, log)
        except BaseException as problem:  # noqa: BLE001  raised again in the thread that waits
            fault.append(problem)

    told = len(log.epochs())  # an earlier attempt told of these
    trainer = threading.Thread(target=work, name="trial", daemon=True)
    deadline = None if limits.seconds is None else time.monotonic() + limits.seconds
    trainer.start()
    is_over = False
    while not is_over:
        is_over = not trainer.is_alive()
        epochs = log.epochs()
        for record in epochs[told:]:
            tell({name: record[name] for name in ("epoch", "total_epochs", "metrics")})
        told = max(told, len(epochs))
        if deadline is not None and time.monotonic() > deadline:
            deadline = None
            ask_to_stop(plan.output_dir, "stop", f"longer than {limits.seconds:g} s")
        trainer.join(_LOOK_SECONDS)
    if fault:
        raise fault[0]


def _finished(number: int, plan: TrainingPlan, log: TrialLog) -> TrialEnd:
    return TrialEnd(number, "finished", metrics=read_outcome(plan.directory)["metrics"], **_epochs(log))


def _stopped(number: int, plan: TrainingPlan, log: TrialLog, limits: Limits) -> TrialEnd:
    if (plan.directory / OUTCOME_FILE).exists() and read_left(plan.output_dir) is None:
        return _finished(number, plan, log)  # the request came after the last step
    reason = str(read_json(plan.directory / STOP_FILE)["message"])
    return TrialEnd(
        number, "pruned", reason, best_epoch_metrics(log.epochs(), limits.select_by), **_epochs(log)
    )


def best_epoch_metrics(epochs: Sequence[Mapping[str, Any]], select_by: Sequence[str]) -> dict[str, float]:
    """Return the validation metrics of the best epoch, the first of equals; empty without epochs."""
    best: dict[str, float] = {}
    best_score: float | None = None
    for record in epochs:
        metrics = {name: value for name, value in record["metrics"].items() if value is not None}
        if all(name in metrics for name in select_by):
            score = sum(metrics[name] for name in select_by)
            if best_score is None or score > best_score:
                best_score = score
                best = {name: value for name, value in metrics.items() if name.startswith("validation/")}
    return best


def _epochs(log: TrialLog) -> dict[str, Any]:
    epochs = log.epochs()
    return {
        "epochs_run": len(epochs),
        "epochs_full": int(epochs[-1]["total_epochs"]) if epochs else 0,
        "memory_gb": trial_memory_gb(epochs),
    }


def trial_memory_gb(epochs: Sequence[Mapping[str, Any]]) -> float | None:
    """Return the most memory of a trial by its epochs, with this process; None where none was measured."""
    known = [record["metrics"].get(RUN_MEMORY) for record in epochs]
    measured = [value for value in known if value is not None]
    return max(measured) + peak_memory_bytes() / 2**30 if measured else None


def _conclude(path: Path, folder: RunFolder | None, log: TrialLog, end: TrialEnd) -> None:
    """Close the journal, then write the end, then tidy up: a kill in between repeats nothing that was trained."""
    try:
        log.end(_STATUSES[end.state], end.metrics)
    except Exception:  # noqa: BLE001  the trial has ended already
        _log.exception("the end of trial %d could not be recorded", end.number)
    write_end(path, end)
    if folder is not None:
        folder.finish()
    if end.state != "failed":
        # Hundreds of trials would fill the disk; the best weights stay.
        for name in (CHECKPOINTS_FOLDER, RAY_FOLDER):
            shutil.rmtree(path / name, ignore_errors=True)

"""One trial in its process: a full training run, followed epoch by epoch, whose end is recorded whatever happens."""

from __future__ import annotations

import logging
import math
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from vavl.config.files import read_json, write_json
from vavl.errors import TrainingStopped
from vavl.experiments.many import SUMMARY_FILE, RunLog, Status, reason_of
from vavl.experiments.study import State
from vavl.training.checkpoint import CHECKPOINTS_FOLDER
from vavl.training.loop import Report
from vavl.training.process_memory import RUN_MEMORY, peak_memory_bytes
from vavl.training.run_folder import RunFolder, claim_run_folder
from vavl.training.settings import TrainingPlan
from vavl.training.stop import ask_to_stop, stop_request
from vavl.training.worker import read_outcome

RAY_FOLDER = "ray"
_STATUSES: dict[State, Status] = {"finished": "FINISHED", "pruned": "KILLED", "failed": "FAILED"}
_LOOK_SECONDS = 0.3
_log = logging.getLogger(__name__)


class TrialLog(RunLog, Protocol):
    """Keeps the record of one trial; must be picklable."""

    def epochs(self) -> Sequence[Mapping[str, Any]]:
        """Return the epochs that were recorded, the last record of each, in order."""


Launch = Callable[[TrainingPlan, RunFolder, Report], None]
Tell = Callable[[Mapping[str, Any]], None]


@dataclass(frozen=True)
class TrialEnd:
    """How a trial ended."""

    number: int
    state: State
    reason: str = ""  # why it was stopped or failed
    metrics: Mapping[str, float] = field(default_factory=dict)  # of the best epoch; validation only
    epochs_run: int = 0
    epochs_full: int = 0  # that it would have had
    seconds: float = 0.0  # of the last attempt
    memory_gb: float | None = None  # most of all its processes together; None where it ended before an epoch
    run_id: str = ""


def read_end(folder: Path) -> TrialEnd | None:
    """Return the end of the trial in ``folder``, None where it has none yet."""
    path = folder / SUMMARY_FILE
    return TrialEnd(**read_json(path)) if path.exists() else None


def write_end(folder: Path, end: TrialEnd) -> None:
    """Write ``summary.json`` of a trial; from then on it is not run again."""
    write_json(folder / SUMMARY_FILE, asdict(end))


def run_trial(
    number: int, plan: TrainingPlan, log: TrialLog, launch: Launch, tell: Tell, seconds: float | None = None
) -> TrialEnd:
    """Train one trial, or resume it from its checkpoint; whatever goes wrong is the end of this trial only.

    Args:
        number: of the trial.
        plan: of the training run, in the trial's directory.
        log: of the trial.
        launch: trains to the end; raises ``TrainingStopped`` when the stop file asked for it.
        tell: receives ``epoch``, ``total_epochs`` and ``metrics`` of every epoch.
        seconds: longest time of this attempt, None without limit.
    """
    start, folder = time.monotonic(), None
    try:
        folder = claim_run_folder(plan)
        log.start(plan, folder)
        _follow(plan, folder, log, launch, tell, seconds)
        end = TrialEnd(number, "finished", metrics=read_outcome(plan.directory)["metrics"])
    except TrainingStopped:
        metrics = best_epoch_metrics(log.epochs(), plan.evaluation.select_by)
        request = stop_request(plan.directory) or {"message": "stopped"}
        end = TrialEnd(number, "pruned", request["message"], metrics)
    except Exception as error:  # noqa: BLE001  the other trials continue
        _log.exception("trial %d failed", number)
        end = TrialEnd(number, "failed", reason_of(error))
    epochs = log.epochs()
    end = replace(
        end,
        epochs_run=len(epochs),
        epochs_full=int(epochs[-1]["total_epochs"]) if epochs else 0,
        memory_gb=trial_memory_gb(epochs),
        seconds=time.monotonic() - start,
        run_id=folder.run_id if folder else "",
    )
    # The journal first, then the end, then tidy up: a kill in between repeats nothing that was trained.
    try:
        log.end(_STATUSES[end.state], end.metrics)
    except Exception:  # noqa: BLE001  the trial has ended already
        _log.exception("the end of trial %d could not be recorded", number)
    write_end(plan.directory, end)
    if folder is not None:
        folder.finish()
    # Hundreds of trials would fill the disk; the best weights stay.
    if end.state != "failed":
        shutil.rmtree(plan.directory / CHECKPOINTS_FOLDER, ignore_errors=True)
    return end


def _follow(
    plan: TrainingPlan, folder: RunFolder, log: TrialLog, launch: Launch, tell: Tell, seconds: float | None
) -> None:
    """Train in another thread, since Tune takes reports from this one alone, and tell of the epochs in the journal."""
    told = len(log.epochs())  # an earlier attempt told of these
    deadline = math.inf if seconds is None else time.monotonic() + seconds
    with ThreadPoolExecutor(1) as pool:
        training, is_over = pool.submit(launch, plan, folder, log), False
        while not is_over:
            is_over = bool(wait([training], timeout=_LOOK_SECONDS).done)
            for record in log.epochs()[told:]:
                tell({name: record[name] for name in ("epoch", "total_epochs", "metrics")})
                told += 1
            if time.monotonic() > deadline:
                deadline = math.inf
                ask_to_stop(plan.directory, "stop", f"longer than {seconds:g} s")
    training.result()


def best_epoch_metrics(epochs: Sequence[Mapping[str, Any]], select_by: Sequence[str]) -> dict[str, float]:
    """Return the validation metrics of the best epoch, the first of equals; empty without epochs.

    Args:
        epochs: with ``metrics`` by name, None where one is not finite.
        select_by: metrics whose mean chooses the best epoch; an epoch that lacks one is no candidate.
    """
    known = [
        {name: value for name, value in record["metrics"].items() if value is not None} for record in epochs
    ]
    complete = [metrics for metrics in known if all(name in metrics for name in select_by)]
    best = max(complete, key=lambda metrics: sum(metrics[name] for name in select_by), default={})
    return {name: value for name, value in best.items() if name.startswith("validation/")}


def trial_memory_gb(epochs: Sequence[Mapping[str, Any]]) -> float | None:
    """Return the most memory of a trial by its epochs, with this process; None where none was measured."""
    known = [record["metrics"].get(RUN_MEMORY) for record in epochs]
    measured = [value for value in known if value is not None]
    return max(measured) + peak_memory_bytes() / 2**30 if measured else None

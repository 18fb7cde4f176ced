"""Trials: full training runs, each in an actor of Ray Tune, whose ends are recorded whatever happens.

A comparison and a sweep are both ``Work``: they say what is trained next, and take in epochs and ends. What Tune does
not do here, and why: a trial is stopped by the stop file of its run and not by killing its actor, which would leave
the resources of its workers taken (ray issue 54305); its searcher for Optuna records stopped trials as complete; and
what Tune saves is pickled, so nothing reads it: a start after an interruption asks the directories of the trials.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from ray import tune
from ray.tune.search import Searcher

from vavl.config.progress import Progress, log_to_stderr
from vavl.errors import TrainingStopped, VavlError
from vavl.experiments.trials import ParentRun, Trial, TrialEnd, TrialLog, TrialLogs, trial_memory_gb, write_end
from vavl.ray_session import is_local, ray_machines
from vavl.training.checkpoint import CHECKPOINTS_DIRECTORY
from vavl.training.driver_lock import only_driver
from vavl.training.launch import launch_training, prepare_ray, resources_of_worker
from vavl.training.records import Report
from vavl.training.run_directory import RunDirectory, claim_run_directory
from vavl.training.settings import TrainingPlan, TrainingSettings
from vavl.training.stop import ask_to_stop, stop_request
from vavl.training.worker import read_outcome

TUNE_DIRECTORY = "tune"
_LOOK_SECONDS = 0.3
_DRIVER_BYTES = 2**28
_EPOCH = "vavl_epoch"
_ENVIRONMENT = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # journals keep the epochs
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C ends the job as it ends every job
    "TUNE_MAX_PENDING_TRIALS_PG": "16",  # an autoscaler sees what waits
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
}
_log = logging.getLogger(__name__)


class Work(Protocol):
    """What is trained: the runs of a comparison, or the trials of a sweep."""

    @property
    def total(self) -> int:
        """Trials in all, those of earlier starts counted."""

    @property
    def done(self) -> int:
        """Trials that have ended."""

    @property
    def training(self) -> TrainingSettings:
        """What each trial asks Ray for."""

    @property
    def standing(self) -> str:
        """How the work stands in a few words, e.g. the best score so far; may be empty."""

    def at_once(self, machines: Sequence[Mapping[str, float]], *, is_shared: bool) -> int:
        """Return how many trials may run at the same time; at least one, or the work would never end.

        ``machines`` are all resources of each living machine by Ray's names, free or not; ``is_shared`` says that the
        user named the cluster, so that it may have an autoscaler.
        """

    def next_trial(self, running: int) -> Trial | None:
        """Return the trial to start now, None when no further one is needed besides the ``running`` ones."""

    def epoch_ended(self, number: int, record: Mapping[str, Any]) -> None:
        """Take in ``epoch``, ``total_epochs`` and ``metrics`` of an epoch."""

    def trial_ended(self, number: int, lost: str = "") -> TrialEnd:
        """Take in the end of a trial; ``lost`` is what is known when its process died without leaving one."""

    def line_of(self, end: TrialEnd) -> str:
        """Return the end of a trial as a line of the log."""


Launch = Callable[[TrainingPlan, RunDirectory, Report], None]
Tell = Callable[[Mapping[str, Any]], None]


def run_trial(
    number: int,
    plan: TrainingPlan,
    log: TrialLog,
    tell: Tell,
    seconds: float | None = None,
    launch: Launch = launch_training,
) -> TrialEnd:
    """Train one trial, or resume it from its checkpoint; whatever goes wrong is the end of this trial only.

    ``tell`` receives ``epoch``, ``total_epochs`` and ``metrics`` of every epoch; ``launch`` raises ``TrainingStopped``
    when the stop file asked for it.
    """
    start, claimed = time.monotonic(), None
    with contextlib.ExitStack() as lock:
        try:
            lock.enter_context(only_driver(plan.output_dir))
            claimed = claim_run_directory(plan)
            log.start(plan, claimed)
            _follow(plan, log, lambda: launch(plan, claimed, log), tell, seconds)
            end = TrialEnd(number, "finished", metrics=read_outcome(plan.directory)["metrics"])
        except TrainingStopped:
            metrics = best_epoch_metrics(log.epochs(), plan.evaluation.select_by)
            request = stop_request(plan.directory)
            end = TrialEnd(number, "pruned", request.message if request else "stopped", metrics)
        except Exception as error:  # noqa: BLE001  the other trials continue
            _log.exception("trial %d failed", number)
            reason = str(error) if isinstance(error, VavlError) else f"{type(error).__name__}: {error}"
            end = TrialEnd(number, "failed", reason)
        epochs = log.epochs()
        end = replace(
            end,
            epochs_run=len(epochs),
            epochs_full=int(epochs[-1]["total_epochs"]) if epochs else 0,
            memory_gb=trial_memory_gb(epochs),
            seconds=time.monotonic() - start,
            run_id=claimed.run_id if claimed else "",
        )
        # The journal first, then the end, then tidy up: a kill in between repeats nothing that was trained.
        try:
            log.end(end.state, end.metrics)
        except Exception:  # noqa: BLE001  the trial has ended already
            _log.exception("the end of trial %d could not be recorded", number)
        write_end(plan.directory, end)
        if claimed is not None and end.state != "failed":
            claimed.finish()
            # Hundreds of trials would fill the disk; the best weights stay.
            shutil.rmtree(plan.directory / CHECKPOINTS_DIRECTORY, ignore_errors=True)
        return end


def _follow(plan: TrainingPlan, log: TrialLog, train: Callable[[], None], tell: Tell, seconds: float | None) -> None:
    """Train in another thread, since Tune takes reports from this one alone, and tell of the epochs in the journal."""
    told = len(log.epochs())  # an earlier attempt told of these
    deadline = math.inf if seconds is None else time.monotonic() + seconds
    with ThreadPoolExecutor(1) as pool:
        training, is_over = pool.submit(train), False
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

    The mean of ``select_by`` chooses the best epoch; one that lacks a metric (None: not finite) is no candidate.
    """
    known = [{name: value for name, value in record["metrics"].items() if value is not None} for record in epochs]
    complete = [metrics for metrics in known if all(name in metrics for name in select_by)]
    best = max(complete, key=lambda metrics: sum(metrics[name] for name in select_by), default={})
    return {name: value for name, value in best.items() if name.startswith("validation/")}


def run_trials(
    work: Work, parent: ParentRun, ended: Callable[[TrialEnd], None] | None = None, seconds: float | None = None
) -> None:
    """Run what is left of a comparison or a sweep, and show it; without anything left, Ray is not started.

    ``ended`` is called with every trial that has ended, in this process; no trial takes longer than ``seconds``.

    Raises:
        TrainingError: this machine has no resources for the workers of one trial.
    """
    if work.done >= work.total:
        return
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    # It misses the files of Tune's own loggers, which journals stand in for.
    logging.getLogger("ray.tune.analysis.experiment_analysis").setLevel(logging.ERROR)
    prepare_ray(work.training)
    storage = parent.directory / TUNE_DIRECTORY
    shutil.rmtree(storage, ignore_errors=True)  # of an earlier start; nothing reads it
    with Progress("trials", work.total, work.done, counts=False) as progress:

        def end_trial(trial: Trial, end: TrialEnd) -> None:
            parent.trial_ended(trial, end)
            if ended is not None:
                ended(end)
            progress.update(work.done, note=work.standing)
            standing = [f"{work.done} of {work.total} done", work.standing, progress.left]
            progress.line(f"{work.line_of(end)}; {', '.join(filter(None, standing))}")

        _tuner(work, parent.logs, _Searcher(work, end_trial), storage, seconds).fit()
    shutil.rmtree(storage, ignore_errors=True)


def _tuner(work: Work, logs: TrialLogs, searcher: Searcher, storage: Path, seconds: float | None) -> tune.Tuner:
    return tune.Tuner(
        tune.with_resources(
            tune.with_parameters(_train_in_tune, logs=logs, seconds=seconds),
            tune.PlacementGroupFactory([resources_of_trial(work.training)]),
        ),
        tune_config=tune.TuneConfig(
            num_samples=work.total,
            search_alg=searcher,
            reuse_actors=True,  # one that has imported everything takes the next trial
            trial_dirname_creator=lambda trial: str(trial.trial_id),  # Tune's own holds the whole configuration
        ),
        run_config=tune.RunConfig(
            name="trials",
            storage_path=str(storage),
            verbose=0,
            # A trial whose process dies is resumed once, from its last checkpoint.
            failure_config=tune.FailureConfig(max_failures=1),
        ),
    )


def resources_of_trial(settings: TrainingSettings) -> dict[str, float]:
    """Return what the actor of a trial asks of Ray, by Ray's names."""
    if settings.launcher == "in_process":
        return resources_of_worker(settings)
    # Ray Train asks for its workers itself; the actor that waits for them needs hardly anything.
    return {"memory": float(_DRIVER_BYTES)}


def _train_in_tune(config: Mapping[str, Any], logs: TrialLogs, seconds: float | None) -> None:
    """Train one trial in its actor."""
    log_to_stderr()
    plan = TrainingPlan.model_validate(json.loads(config["plan"]))

    def tell(epoch: Mapping[str, Any]) -> None:
        # One text: Tune takes sections apart, and a value that is not finite would not come back.
        tune.report({_EPOCH: json.dumps(dict(epoch))})

    run_trial(int(config["number"]), plan, logs.of(config["name"], json.loads(config["tags"])), tell, seconds)


class _Searcher(Searcher):  # type: ignore[misc]
    """Hands trials to Tune, as many at once as may run."""

    def __init__(self, work: Work, ended: Callable[[Trial, TrialEnd], None]) -> None:
        super().__init__()
        self._work, self._ended = work, ended
        self._running: dict[str, Trial] = {}

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """Return the next trial, None while there are no resources for one, FINISHED when nothing is left."""
        # Machines come and go.
        if len(self._running) >= self._work.at_once(ray_machines(), is_shared=not is_local()):
            return None
        trial = self._work.next_trial(len(self._running))
        if trial is None:
            return None if self._running else str(Searcher.FINISHED)
        self._running[trial_id] = trial
        plan = trial.plan.with_absolute_paths().model_dump_json()
        return {"number": trial.number, "name": trial.name, "plan": plan, "tags": json.dumps(dict(trial.tags))}

    def on_trial_result(self, trial_id: str, result: Mapping[str, Any]) -> None:
        """Hand an epoch on."""
        if _EPOCH in result and trial_id in self._running:
            self._work.epoch_ended(self._running[trial_id].number, json.loads(result[_EPOCH]))

    def on_trial_complete(
        self,
        trial_id: str,
        result: Mapping[str, Any] | None = None,  # noqa: ARG002  Tune's signature
        error: bool = False,
    ) -> None:
        """Take in the end of a trial, as its directory says."""
        trial = self._running.pop(trial_id, None)
        if trial is not None:
            lost = "its process died twice; the log of Ray Tune says why" if error else ""
            self._ended(trial, self._work.trial_ended(trial.number, lost))

    def save(self, checkpoint_path: str) -> None:
        """Leave the file that Tune expects; the directories of the trials hold everything."""
        Path(checkpoint_path).write_text("{}", encoding="utf-8")

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles its searcher into its own directory, which nothing reads.
        return {}

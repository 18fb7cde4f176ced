"""Ray Tune runs the trials of a sweep: one actor per trial, which starts the workers of its training itself.

Tune asks the sweep for trials and hands their epochs back. What Tune does not do here, and why: a trial is stopped
by the stop file of its run and not by killing its actor, which would leave the places of its workers taken (ray
issue 54305); its searcher for Optuna records stopped trials as complete; and what Tune saves of a sweep is pickled,
so nothing reads it: a start after an interruption asks the study and the folders of the trials.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import ray
from ray import tune
from ray.tune.search import Searcher

from vavl.training.cluster import ask_for_workers
from vavl.training.launch import launch_training
from vavl.training.ray_start import prepare_ray
from vavl.training.settings import TrainingPlan
from vavl.tuning.places import Room, room_for
from vavl.tuning.sweep import NextTrial, Sweep
from vavl.tuning.trial import Limits, TrialEnd, TrialLog, run_trial

TUNE_FOLDER = "tune"
_DRIVER_BYTES = 2**28
_LOOK_SECONDS = 10.0
_EPOCH = "vavl_epoch"
_ENVIRONMENT = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # journals keep the epochs
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C ends the job as it ends every job
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",
    "TUNE_MAX_PENDING_TRIALS_PG": "1",
    "TUNE_WARN_INSUFFICENT_RESOURCE_THRESHOLD_S": "86400",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
}
_log = logging.getLogger(__name__)


class TrialLogs(Protocol):
    """Gives the log of a trial, in any process; must be picklable."""

    def of(self, number: int, point: Mapping[str, Any]) -> TrialLog:
        """Return the log of a trial with these values."""


def run_trials(
    sweep: Sweep,
    logs: TrialLogs,
    started: Callable[[NextTrial], None],
    ended: Sequence[Callable[[TrialEnd], None]],
) -> None:
    """Run what a sweep has left to run.

    Args:
        sweep: taken up from earlier starts.
        logs: of the trials.
        started: hears of every trial that starts, in this process.
        ended: hear of every trial that has ended, in this process.

    Raises:
        TrainingError: this machine has no place for the workers of one trial.
    """
    if not sweep.left:
        return
    settings = sweep.plans.plan_of(0, {}).training
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    # It misses the files of Tune's own loggers, which journals stand in for.
    logging.getLogger("ray.tune.analysis.experiment_analysis").setLevel(logging.ERROR)
    prepare_ray(settings)
    wanted = min(sweep.left, sweep.plan.at_once or sweep.left)
    ask_for_workers(settings, wanted * settings.least_workers)
    folder = sweep.plan.output_dir.absolute() / TUNE_FOLDER
    shutil.rmtree(folder, ignore_errors=True)  # of an earlier start; nothing reads it
    trainable = tune.with_resources(
        tune.with_parameters(_train_in_tune, logs=logs, seconds=sweep.plan.seconds_per_trial),
        # The workers have places of their own; the actor that waits for them needs hardly anything.
        tune.PlacementGroupFactory([{"memory": _DRIVER_BYTES}]),
    )
    try:
        tune.Tuner(
            trainable,
            tune_config=tune.TuneConfig(
                num_samples=sweep.left + len(sweep.ends),
                search_alg=_SweepSearcher(sweep, partial(room_for, settings), started, ended),
                # An actor that has imported everything takes the next trial.
                reuse_actors=True,
                trial_dirname_creator=_name_in_tune,
            ),
            run_config=tune.RunConfig(
                name="trials", storage_path=str(folder), verbose=0,
                # A trial whose process dies is taken up once more, from its last checkpoint.
                failure_config=tune.FailureConfig(max_failures=1),
            ),
        ).fit()  # fmt: skip
    finally:
        if ray.is_initialized():
            ask_for_workers(settings, 0)
    shutil.rmtree(folder, ignore_errors=True)


def _train_in_tune(config: Mapping[str, Any], logs: TrialLogs, seconds: float | None) -> None:
    """Train one trial in its actor."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    plan = TrainingPlan.model_validate(json.loads(config["plan"]))
    number = int(config["number"])
    limits = Limits(seconds, plan.evaluation.select_by)
    launch = partial(launch_training, shares_cluster=True)
    run_trial(number, plan, logs.of(number, config["point"]), launch, limits, _tell_tune)


def _name_in_tune(trial: Any) -> str:
    # Tune's own choice holds the whole configuration.
    return str(trial.trial_id)


def _tell_tune(epoch: Mapping[str, Any]) -> None:
    # One text: Tune takes sections apart, and a value that is not finite would not come back.
    tune.report({_EPOCH: json.dumps(dict(epoch))})


class _SweepSearcher(Searcher):  # type: ignore[misc]
    """Hands the trials of a sweep to Tune, as many at once as there is room for.

    Args:
        sweep: decides everything.
        room: asks what the cluster has room for; it may grow and shrink.
        started: hears of trials that start.
        ended: hear of trials that have ended.
    """

    def __init__(
        self,
        sweep: Sweep,
        room: Callable[[], Room],
        started: Callable[[NextTrial], None],
        ended: Sequence[Callable[[TrialEnd], None]],
    ) -> None:
        super().__init__()
        self._sweep, self._started, self._ended = sweep, started, ended
        self._look_at_room, self._room, self._looked = room, room(), time.monotonic()
        self._running: dict[str, int] = {}
        self._at_once = 0

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """Return the next trial, None while there is no room, FINISHED when nothing is left."""
        sweep = self._sweep
        if len(self._running) >= self._count_places():
            return None
        trial = sweep.next_trial(len(self._running))
        if trial is None:
            return None if self._running and not sweep.gave_up else str(Searcher.FINISHED)
        self._running[trial_id] = trial.number
        self._started(trial)
        plan = trial.plan.with_absolute_paths().model_dump_json()
        return {"number": trial.number, "plan": plan, "point": dict(trial.point)}

    def on_trial_result(self, trial_id: str, result: Mapping[str, Any]) -> None:
        """Hand an epoch on."""
        if _EPOCH in result and trial_id in self._running:
            self._sweep.epoch_ended(self._running[trial_id], json.loads(result[_EPOCH]))

    def on_trial_complete(
        self,
        trial_id: str,
        result: Mapping[str, Any] | None = None,  # noqa: ARG002  Tune's signature
        error: bool = False,
    ) -> None:
        """Take in the end of a trial, as its folder tells it."""
        number = self._running.pop(trial_id, None)
        if number is not None:
            reason = "its process died twice; the log of Ray Tune says why" if error else ""
            end = self._sweep.trial_ended(number, reason)
            for hear in self._ended:
                hear(end)

    def save(self, checkpoint_path: str) -> None:
        """Leave the file that Tune expects; the study holds everything."""
        Path(checkpoint_path).write_text("{}", encoding="utf-8")

    def restore(self, checkpoint_path: str) -> None:
        """Refuse: a sweep is continued by its study."""
        raise NotImplementedError("start the job again")

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles its searcher into its own folder, which nothing reads.
        return {}

    def _count_places(self) -> int:
        """Return how many trials may run side by side now; Tune asks several times a second."""
        sweep, now = self._sweep, time.monotonic()
        if now - self._looked > _LOOK_SECONDS:
            self._room, self._looked = self._look_at_room(), now
        memory = None if sweep.memory_gb is None else sweep.memory_gb * 2**30
        at_once = self._room.at_once(sweep.plan.at_once, memory, sweep.plan.memory_share)
        if at_once != self._at_once:
            self._at_once = at_once
            taken = "unknown yet" if sweep.memory_gb is None else f"{sweep.memory_gb:.2f} GB"
            _log.info("%d trial(s) at once (memory of a trial: %s)", at_once, taken)
        return at_once

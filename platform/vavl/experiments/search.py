"""Ray Tune runs the trials of a sweep: one actor per trial, which starts the workers of its training run itself.

Tune asks the sweep for trials and hands their epochs back. What Tune does not do here, and why: a trial is stopped
by the stop file of its run and not by killing its actor, which would leave the resources of its workers taken (ray
issue 54305); its searcher for Optuna records stopped trials as complete; and what Tune saves of a sweep is pickled,
so nothing reads it: a start after an interruption asks the study and the directories of the trials.
"""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.search import Searcher

from vavl.config.progress import log_to_stderr
from vavl.experiments.sweep import NextTrial, Sweep
from vavl.experiments.sweep_settings import Point
from vavl.experiments.trial import TrialEnd, TrialLog, run_trial
from vavl.ray_session import is_local
from vavl.training.cluster import workers_that_fit
from vavl.training.launch import launch_training, prepare_ray
from vavl.training.settings import TrainingPlan, TrainingSettings

TUNE_FOLDER = "tune"
_DRIVER_BYTES = 2**28
_EPOCH = "vavl_epoch"
_ENVIRONMENT = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # journals keep the epochs
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C ends the job as it ends every job
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
}
_log = logging.getLogger(__name__)

LogOf = Callable[[int, Point], TrialLog]


def run_trials(
    sweep: Sweep,
    log_of: LogOf,
    started: Callable[[NextTrial], None],
    ended: Sequence[Callable[[TrialEnd], None]],
) -> None:
    """Run what a sweep has left to run.

    Args:
        sweep: resumed from earlier starts.
        log_of: gives the log of a trial with these values, in any process; must be picklable.
        started: called with every trial that starts, in this process.
        ended: called with every trial that has ended, in this process.

    Raises:
        TrainingError: this machine has no resources for the workers of one trial.
    """
    if not sweep.left:
        return
    settings = sweep.plans.plan_of(0, {}).training
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    # It misses the files of Tune's own loggers, which journals stand in for.
    logging.getLogger("ray.tune.analysis.experiment_analysis").setLevel(logging.ERROR)
    prepare_ray(settings)
    folder = sweep.plan.output_dir.absolute() / TUNE_FOLDER
    shutil.rmtree(folder, ignore_errors=True)  # of an earlier start; nothing reads it
    trainable = tune.with_resources(
        tune.with_parameters(_train_in_tune, log_of=log_of, seconds=sweep.plan.seconds_per_trial),
        # Ray Train asks for the workers; the actor that waits for them needs hardly anything.
        tune.PlacementGroupFactory([{"memory": _DRIVER_BYTES}]),
    )
    tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            num_samples=sweep.left + len(sweep.ends),
            search_alg=_SweepSearcher(sweep, settings, started, ended),
            # An actor that has imported everything takes the next trial.
            reuse_actors=True,
            # Tune's own choice holds the whole configuration.
            trial_dirname_creator=lambda trial: str(trial.trial_id),
        ),
        run_config=tune.RunConfig(
            name="trials", storage_path=str(folder), verbose=0,
            # A trial whose process dies is resumed once, from its last checkpoint.
            failure_config=tune.FailureConfig(max_failures=1),
        ),
    ).fit()  # fmt: skip
    shutil.rmtree(folder, ignore_errors=True)


def _train_in_tune(config: Mapping[str, Any], log_of: LogOf, seconds: float | None) -> None:
    """Train one trial in its actor."""
    log_to_stderr()
    plan = TrainingPlan.model_validate(json.loads(config["plan"]))
    number = int(config["number"])

    def tell(epoch: Mapping[str, Any]) -> None:
        # One text: Tune takes sections apart, and a value that is not finite would not come back.
        tune.report({_EPOCH: json.dumps(dict(epoch))})

    run_trial(number, plan, log_of(number, config["point"]), launch_training, tell, seconds)


def trials_at_once(
    machines: Sequence[Mapping[str, float]], settings: TrainingSettings, sweep: Sweep, *, is_shared: bool
) -> int:
    """Return how many trials may run at the same time; at least one, or the sweep would never end.

    The user's number wins over memory, but not over resources; without one the first trial runs alone until its
    memory is known. Where machines may be added, one trial more than there are resources for waits for its workers,
    which is what an autoscaler acts on; not under a time limit, of which the waiting would be a part.

    Args:
        machines: all resources of each living machine by Ray's names, free or not.
        settings: of the training runs.
        sweep: knows the limits, and the memory that its trials were seen to take.
        is_shared: the user named the cluster, so that it may have an autoscaler.
    """
    plan, memory_gb = sweep.plan, sweep.memory_gb
    waiting = int(is_shared and plan.seconds_per_trial is None)
    trials = workers_that_fit(machines, settings) // settings.least_workers + waiting
    if plan.at_once is not None:
        return max(1, min(plan.at_once, trials))
    if memory_gb is None:
        return 1
    memory = sum(machine.get("memory", 0.0) for machine in machines) * plan.memory_share
    return max(1, min(trials, math.floor(memory / max(memory_gb * 2**30, 1.0))))


class _SweepSearcher(Searcher):  # type: ignore[misc]
    """Hands the trials of a sweep to Tune, as many at once as there are resources for."""

    def __init__(
        self,
        sweep: Sweep,
        settings: TrainingSettings,
        started: Callable[[NextTrial], None],
        ended: Sequence[Callable[[TrialEnd], None]],
    ) -> None:
        super().__init__()
        self._sweep, self._settings, self._started, self._ended = sweep, settings, started, ended
        self._running: dict[str, int] = {}
        self._at_once = 0

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """Return the next trial, None while there are no resources for one, FINISHED when nothing is left."""
        if len(self._running) >= self._count_slots():
            return None
        trial = self._sweep.next_trial(len(self._running))
        if trial is None:
            return None if self._running and not self._sweep.gave_up else str(Searcher.FINISHED)
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
        """Take in the end of a trial, as its directory says."""
        number = self._running.pop(trial_id, None)
        if number is not None:
            reason = "its process died twice; the log of Ray Tune says why" if error else ""
            end = self._sweep.trial_ended(number, reason)
            for notify in self._ended:
                notify(end)

    def save(self, checkpoint_path: str) -> None:
        """Leave the file that Tune expects; the study holds everything."""
        Path(checkpoint_path).write_text("{}", encoding="utf-8")

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles its searcher into its own directory, which nothing reads.
        return {}

    def _count_slots(self) -> int:
        """Return how many trials may run at the same time now: machines come and go."""
        machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        at_once = trials_at_once(machines, self._settings, self._sweep, is_shared=not is_local())
        if at_once != self._at_once:
            self._at_once, memory_gb = at_once, self._sweep.memory_gb
            known = "unknown yet" if memory_gb is None else f"{memory_gb:.2f} GB"
            _log.info("%d trial(s) at once (memory of a trial: %s)", at_once, known)
        return at_once

"""What a person sees of a sweep: its space and its room before it starts, a line per trial while it goes on."""

from __future__ import annotations

import logging
import os
from typing import Self

import psutil

from vavl.config.progress import Progress
from vavl.experiments.many import SUMMARY_FILE
from vavl.experiments.study import storage_address
from vavl.experiments.sweep import NextTrial, Sweep, best_of, words_of
from vavl.experiments.sweep_settings import ChoiceAxis, SweepPlan, name_of
from vavl.experiments.trial import TrialEnd
from vavl.experiments.trial_plans import TrialPlans, read_note

_log = logging.getLogger(__name__)


def log_sweep(plans: TrialPlans) -> None:
    """Log what is going to be searched, what a trial takes, and what is there already."""
    for line in sweep_lines(plans):
        _log.info(line)


def sweep_lines(plans: TrialPlans) -> list[str]:
    """Return the space and the room of a sweep as lines of text."""
    plan = plans.sweep
    own = plans.own_point
    return [
        *(f"search {path}: {_axis_words(plan, path)}; now {name_of(own[path])}" for path in plan.search),
        "objectives: " + ", ".join(f"{goal.metric} ({goal.mode})" for goal in plan.objectives),
        _method_words(plan),
        *(f"tried first: {words_of(point) or 'drawn'}" for point in plans.first_points),
        _room_words(plans),
        f"study: {storage_address(plan)}",
        *_earlier(plan),
    ]  # fmt: skip


def _axis_words(plan: SweepPlan, path: str) -> str:
    axis = plan.search[path]
    if isinstance(axis, ChoiceAxis):
        return f"one of {', '.join(str(name_of(value)) for value in axis.choices)}"
    spread = "over the logarithm" if axis.log else f"in steps of {axis.step:g}" if axis.step else ""
    words = f"{'whole numbers ' if axis.is_whole else ''}{axis.low:g} to {axis.last:g} {spread}"
    return words.strip()


def _method_words(plan: SweepPlan) -> str:
    trials = min(plan.trials, plan.grid_points) if plan.sampler == "grid" else plan.trials
    pruner = plan.pruner
    stopped = (
        "none is stopped early"
        if pruner.kind == "none"
        else f"{pruner.kind} from epoch {pruner.first_epochs} on"
    )
    limit = "" if plan.seconds_per_trial is None else f", each at most {plan.seconds_per_trial:g} s"
    return f"{trials} trials by {plan.sampler}; {stopped}{limit}"


def _room_words(plans: TrialPlans) -> str:
    """Say what a trial takes and what there is, as far as it is known before Ray starts."""
    plan, training = plans.sweep, plans.plan_of(0, {}).training
    cpus = training.least_workers * training.cpus_per_worker
    gpus = training.least_workers * training.gpus_per_worker
    asked = f"{training.least_workers} worker(s), {cpus:g} CPUs" + (f", {gpus:g} GPUs" if gpus else "")
    epochs = f"a trial: {asked}, {training.max_epochs} epochs at most"
    if plan.at_once is not None:
        return f"{epochs}; {plan.at_once} at once, as far as Ray has places"
    if "RAY_ADDRESS" in os.environ:
        return f"{epochs}; as many at once as the cluster has places for, and memory by the first trial"
    places, memory = int((os.cpu_count() or 1) // cpus), psutil.virtual_memory().available / 2**30
    return (
        f"{epochs}; this machine has places for {places} and {memory:.1f} GB free: how many trials run at once follows "
        "from the memory of the first, which runs alone until its first epoch"
    )


def _earlier(plan: SweepPlan) -> list[str]:
    note = read_note(plan.output_dir)
    if note is None:
        return []
    ended = len(list(plan.output_dir.glob(f"trials/*/{SUMMARY_FILE}")))
    return [f"continues {note.run_id}: {ended} trials have ended already"]


class SweepProgress:
    """Shows trials as they start and end; use as a context.

    Args:
        sweep: resumed from earlier starts.
    """

    def __init__(self, sweep: Sweep) -> None:
        self._sweep = sweep
        self._progress = Progress("trials", sweep.study.trials, len(sweep.ends), counts=False)

    def __enter__(self) -> Self:
        self._progress.__enter__()
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self._progress.__exit__(kind, error, trace)

    def started(self, trial: NextTrial) -> None:
        """Show a trial that starts."""
        self._progress.line(f"trial {trial.number} starts: {words_of(trial.point)}")

    def ended(self, end: TrialEnd) -> None:
        """Show how a trial ended, the best so far, and the time left."""
        done, best = len(self._sweep.ends), self._best()
        self._progress.update(done, note=best)
        values = self._sweep.values_of(end)
        scores = "no score" if values is None else ", ".join(f"{value:.3f}" for value in values)
        reason = f" ({end.reason.splitlines()[0]})" if end.reason else ""
        left = f"; {self._progress.left}" if self._progress.left else ""
        self._progress.line(
            f"trial {end.number} {end.state}{reason}: {scores} in {end.epochs_run} of {end.epochs_full} epochs, "
            f"{end.seconds:.0f} s; {done} of {self._sweep.study.trials} done, {best}{left}"
        )

    def _best(self) -> str:
        best = best_of(self._sweep.plan, list(self._sweep.ends.values()))
        if best is None:
            return "none finished yet"
        values = self._sweep.values_of(best) or []
        return f"best {', '.join(f'{value:.3f}' for value in values)} (trial {best.number})"

"""What a person sees of a sweep: its space and its room before it starts, a line per trial while it goes on."""

from __future__ import annotations

import logging
import os
import time
from types import TracebackType
from typing import Self

import psutil
from rich.console import Console
from rich.progress import TaskID

from vavl.config.progress import progress_bar
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
        sweep: taken up.
    """

    def __init__(self, sweep: Sweep) -> None:
        self._sweep = sweep
        self._kept, self._start = len(sweep.ends), time.monotonic()
        console = Console(stderr=True)
        self._bar = progress_bar(console, "note") if console.is_terminal else None
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        if self._bar:
            self._bar.start()
            self._task = self._bar.add_task(
                "trials", total=self._sweep.study.trials, completed=self._kept, note=self._best()
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()

    def started(self, trial: NextTrial) -> None:
        """Show a trial that starts."""
        self._print(f"trial {trial.number} starts: {words_of(trial.point)}")

    def ended(self, end: TrialEnd) -> None:
        """Show how a trial ended, the best so far, and the time left."""
        values = self._sweep.values_of(end)
        scores = "no score" if values is None else ", ".join(f"{value:.3f}" for value in values)
        reason = f" ({end.reason.splitlines()[0]})" if end.reason else ""
        self._print(
            f"trial {end.number} {end.state}{reason}: {scores} in {end.epochs_run} of {end.epochs_full} epochs, "
            f"{end.seconds:.0f} s; {len(self._sweep.ends)} of {self._sweep.study.trials} done, "
            f"{self._best()}{self._left()}"
        )
        if self._bar and self._task is not None:
            self._bar.update(self._task, completed=len(self._sweep.ends), note=self._best())

    def _best(self) -> str:
        best = best_of(self._sweep.plan, list(self._sweep.ends.values()))
        if best is None:
            return "none finished yet"
        values = self._sweep.values_of(best) or []
        return f"best {', '.join(f'{value:.3f}' for value in values)} (trial {best.number})"

    def _left(self) -> str:
        done, rest = len(self._sweep.ends) - self._kept, self._sweep.left
        if not rest or not done:
            return ""
        minutes = (time.monotonic() - self._start) / done * rest / 60
        return f"; about {minutes:.0f} min left" if minutes >= 1 else "; less than a minute left"

    def _print(self, line: str) -> None:
        if self._bar:
            self._bar.console.print(line, highlight=False, markup=False)
        else:
            _log.info(line)

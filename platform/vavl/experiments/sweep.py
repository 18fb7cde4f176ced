"""A sweep: which trial is next, when one is stopped, and what was found; it knows neither Ray nor MLflow.

The truth lies in the Optuna study and in the directories of the trials, so a killed driver loses nothing: a trial
with an end is recorded, one without is resumed from its checkpoint.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from vavl.config.changes import with_changes
from vavl.config.files import make_folder, write_json
from vavl.config.snapshot import resolved_settings
from vavl.errors import ConfigError, InputError
from vavl.experiments.study import BASE_TRIAL, Drawn, Judge, SweepStudy, score_of
from vavl.experiments.sweep_settings import Point, SweepPlan, Value
from vavl.experiments.trial import TrialEnd, TrialLog, read_end, trial_memory_gb, write_end
from vavl.experiments.trial_plans import (
    SWEEP_FILE,
    TRIALS_FOLDER,
    TrialPlans,
    folder_of,
    note_of,
    plans_of,
    read_note,
)
from vavl.training.settings import TrainingPlan
from vavl.training.stop import ask_to_stop

_LOCK_FILE = "sweep.lock"
_log = logging.getLogger(__name__)


class NextTrial(NamedTuple):
    """A trial that may start: its number, its values, and the plan of its training run."""

    number: int
    point: Point
    plan: TrainingPlan


@contextlib.contextmanager
def open_sweep(plan: SweepPlan) -> Iterator[Sweep]:
    """Take the directory of a sweep, whose lock ends with the process, and make its study or open it again.

    Raises:
        InputError: another process works in the directory, or the storage cannot be opened; or the directory
            holds trials of a study that is gone: new ones would take their numbers and their scores.
        ConfigError: see ``plans_of``.
    """
    plans = plans_of(plan)
    folder = make_folder(plan.output_dir)
    with (folder / _LOCK_FILE).open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                str(folder), "output_dir", "another process works on this sweep", "wait for it, or stop it"
            ) from None
        note = read_note(folder) or note_of(plans)
        write_json(folder / SWEEP_FILE, note._asdict())
        study = SweepStudy(plan, f"{folder.name} {note.run_id}")
        if study.is_new:
            if any((folder / TRIALS_FOLDER).glob("*")):
                problem = "holds trials, but their study is gone or empty"
                fix = "choose another output_dir, or bring the study back"
                raise InputError(str(folder / TRIALS_FOLDER), "", problem, fix)
            study.try_first(plans.first_points)
        yield Sweep(plans, study, note.run_id)


class Sweep:
    """Hands out trials, judges their epochs, and takes in their ends."""

    def __init__(self, plans: TrialPlans, study: SweepStudy, run_id: str) -> None:
        self.plan, self.plans, self.study, self.run_id = plans.sweep, plans, study, run_id
        self._judge = Judge(self.plan)
        self._waiting: deque[Drawn] = deque()
        self._failed_in_a_row = 0
        self.ends: dict[int, TrialEnd] = {}  # of the trials that have ended, by number
        self.memory_gb: float | None = None  # most that a trial was seen to take

    @property
    def left(self) -> int:
        """Trials that have not ended yet."""
        return max(0, self.study.trials - len(self.ends))

    @property
    def gave_up(self) -> bool:
        """True when too many trials failed one after the other."""
        return self._failed_in_a_row >= self.plan.give_up_after

    def resume(self, log_of: Callable[[int], TrialLog]) -> None:
        """Take in what earlier starts left: their ends, their epochs, and the trials that they did not finish.

        Args:
            log_of: gives the log of a trial.
        """
        for drawn in self.study.interrupted():
            end = read_end(self.folder_of(drawn.number))
            if end is None:
                self._waiting.append(drawn)
            else:
                self._record(end)  # the driver was killed between the two
        for number, state in sorted(self.study.ended().items()):
            end = read_end(self.folder_of(number))
            self.ends[number] = end or TrialEnd(number, state, "its directory is gone")
        for number in sorted({*self.ends, *(drawn.number for drawn in self._waiting)}):
            epochs, end = log_of(number).epochs(), self.ends.get(number)
            for record in epochs:
                self._judge.stops(number, int(record["epoch"]), record["metrics"])
            if end is not None:
                self._judge.ended(number, is_finished=end.state == "finished")
            self._note_memory(trial_memory_gb(epochs) if end is None else end.memory_gb)
        if self.ends or self._waiting:
            _log.info("%d trials have ended already, %d go on", len(self.ends), len(self._waiting))

    def next_trial(self, running: int) -> NextTrial | None:
        """Return the trial to start now, None when the sweep needs no further one.

        Args:
            running: trials that have started and not ended.
        """
        while self.left > running and not self.gave_up:
            number, point = self._waiting.popleft() if self._waiting else self.study.draw()
            try:
                return NextTrial(number, point, self.plans.plan_of(number, point))
            except ConfigError as error:
                reason = f"these values do not go together: {error.problem}"
                self._record(TrialEnd(number, "failed", reason), write=True)
        return None

    def epoch_ended(self, number: int, record: Mapping[str, Any]) -> None:
        """Take in an epoch; ask the trial to stop when others did better."""
        epoch = int(record["epoch"])
        self._note_memory(trial_memory_gb([record]))
        if self._judge.stops(number, epoch, record["metrics"]):
            rule = f"{self.plan.pruner.kind}: stopped after epoch {epoch}"
            ask_to_stop(self.folder_of(number), "stop", rule)
        if number in self._judge.best:
            self.study.note_epoch(number, epoch, self._judge.best[number] * self.plan.objectives[0].sign)

    def trial_ended(self, number: int, lost: str = "") -> TrialEnd:
        """Take in the end of a trial.

        Args:
            number: of the trial.
            lost: what is known when its process died without leaving an end.
        """
        end = read_end(self.folder_of(number))
        if end is not None:
            return self._record(end)
        reason = lost or "its process left no end; does its machine share output_dir?"
        return self._record(TrialEnd(number, "failed", reason), write=True)

    def folder_of(self, number: int) -> Path:
        """Return the directory of a trial."""
        return folder_of(self.plan.output_dir, number)

    def values_of(self, end: TrialEnd) -> list[float] | None:
        """Return the values of the objectives, None where one was not measured."""
        values = [end.metrics.get(objective.metric) for objective in self.plan.objectives]
        known = [float(value) for value in values if value is not None]
        return known if len(known) == len(values) else None

    def _record(self, end: TrialEnd, *, write: bool = False) -> TrialEnd:
        values = self.values_of(end)
        if end.state == "finished" and values is None:
            names = [goal.metric for goal in self.plan.objectives if goal.metric not in end.metrics]
            end, write = replace(end, state="failed", reason=f"{', '.join(names)} is not measured"), True
        if write:
            write_end(make_folder(self.folder_of(end.number)), end)
        self.study.tell(end.number, end.state, values, end.reason)
        self._judge.ended(end.number, is_finished=end.state == "finished")
        self._failed_in_a_row = self._failed_in_a_row + 1 if end.state == "failed" else 0
        self.ends[end.number] = end
        self._note_memory(end.memory_gb)
        return end

    def _note_memory(self, taken_gb: float | None) -> None:
        if taken_gb is not None:
            self.memory_gb = max(taken_gb, self.memory_gb or 0.0)


class SweepResult:
    """What a sweep has found so far: its ends, and the points of all trials by number.

    ``front`` are the finished trials that no other beats in every objective, ``best`` the one of them with the best
    mean, ``base`` the trial with the training configuration's own values, if it finished, and ``importances`` the
    share of each setting in what the first objective varies by, stopped trials included.
    """

    def __init__(self, sweep: Sweep) -> None:
        self.plan, self.plans, self.run_id, self.gave_up = (
            sweep.plan,
            sweep.plans,
            sweep.run_id,
            sweep.gave_up,
        )
        self.ends = [sweep.ends[number] for number in sorted(sweep.ends)]
        self.points = sweep.study.points()
        self.front = [number for number in sweep.study.front() if number in sweep.ends]
        self.best = best_of(self.plan, [sweep.ends[number] for number in self.front])
        base = sweep.ends.get(BASE_TRIAL) if self.plan.has_base else None
        self.base = base if base and base.state == "finished" else None
        goal = self.plan.objectives[0]
        scored = [end for end in self.ends if end.state != "failed" and goal.metric in end.metrics]
        self.importances = sweep.study.importances(
            {end.number: goal.sign * end.metrics[goal.metric] for end in scored}
        )

    def count(self, state: str) -> int:
        """Count the trials that ended like this."""
        return sum(end.state == state for end in self.ends)

    @property
    def epochs(self) -> tuple[int, int]:
        """Epochs that the trials were trained, and that they would have had without a stop; failed ones left out."""
        counted = [end for end in self.ends if end.state != "failed"]
        return sum(end.epochs_run for end in counted), sum(end.epochs_full for end in counted)

    @property
    def saved_share(self) -> float:
        """Share of the epochs that stopping early has saved."""
        run, full = self.epochs
        return 1 - run / full if full else 0.0


def best_of(plan: SweepPlan, ends: Sequence[TrialEnd]) -> TrialEnd | None:
    """Return the finished trial with the best mean of the objectives, the first of equals."""
    scored = [
        (score, -end.number, end)
        for end in ends
        if end.state == "finished" and (score := score_of(plan.objectives, end.metrics)) is not None
    ]
    return max(scored, key=lambda entry: entry[:2])[2] if scored else None


def winning_settings(result: SweepResult, tracking: Mapping[str, object]) -> dict[str, object]:
    """Return the configuration of the best trial as ``train_model`` reads it, to be trained in its own directory.

    Args:
        result: with a best trial.
        tracking: where to track where the training configuration does not say.
    """
    assert result.best is not None
    plans = result.plans
    plan = plans.plan_of(result.best.number, result.points[result.best.number])
    plan = plan.model_copy(update={"output_dir": plans.sweep.output_dir / "winner"})
    test = bool((plans.base.get("evaluation") or {}).get("test", False))
    content = with_changes(resolved_settings(plan), {"evaluation.test": test}, "the winner")
    return {**content, "tracking": dict(plans.tracking or tracking)}


def words_of(point: Point) -> str:
    """Write the values of a trial in one line, the last part of each path alone."""

    def short(value: Value) -> str:
        if isinstance(value, float):
            return f"{value:.4g}"
        return value if isinstance(value, str) else json.dumps(value)

    return ", ".join(f"{path.rpartition('.')[2]}={short(value)}" for path, value in point.items())

"""A sweep: its points as plans of training runs, which trial is next, and when one is stopped.

The truth lies in the Optuna study and in the directories of the trials, so a killed driver loses nothing: a trial
with an end is recorded, one without is resumed from its checkpoint.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
import random
import secrets
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from vavl.audit.audit import pass_audit
from vavl.config.files import make_directory, read_json, sha256_of_json, write_json
from vavl.config.load import read_yaml_mapping, validate, value_at, with_changes
from vavl.config.places import anchored, root_directory
from vavl.errors import ConfigError, InputError
from vavl.experiments.study import Drawn, Judge, SweepStudy, best_of, storage_address, study_name
from vavl.experiments.sweep_settings import TRIALS_DIRECTORY, Point, SweepPlan, Value, name_of, words_of
from vavl.experiments.trials import Trial, TrialEnd, TrialLogs, end_of, read_end, trial_memory_gb, write_end
from vavl.store.store_versions import pinned_store
from vavl.training.driver_lock import only_driver
from vavl.training.launch import workers_that_fit
from vavl.training.run_data import PlanNotes, check_plan
from vavl.training.run_directory import with_store
from vavl.training.settings import TrainingPlan, TrainingSettings
from vavl.training.stop import ask_to_stop

SWEEP_FILE = "sweep.json"
_MOST_CORNERS = 64
_NO_NOTES = PlanNotes(())
_MEMORY_SHARE = 0.85  # of Ray's memory that all trials may take together
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrialPlans:
    """Makes the plan of a trial from the values that were drawn."""

    sweep: SweepPlan
    base: Mapping[str, Any]  # content of the training configuration with the overrides, without its tracking
    tracking: Mapping[str, Any]  # of the training configuration
    # Version that every trial reads; None: as the training configuration says
    store: Path | str | None = None
    notes: PlanNotes = _NO_NOTES  # what every trial is trained on

    def plan_of(self, number: int, point: Point) -> TrainingPlan:
        """Return the plan of trial ``number`` at a point.

        Raises:
            ConfigError: these values do not go together.
        """
        own = {"output_dir": str(self.sweep.trial_directory(number)), "evaluation.test": False}
        own |= {"training.launcher": "ray", "training.resume": "auto"}
        # A section is one value: it replaces what was there.
        cleared = with_changes(with_changes(self.base, own, "sweep"), dict.fromkeys(point), "search")
        content = with_changes(cleared, point, "search")
        plan = anchored(validate(TrainingPlan, content, f"{self.sweep.training} with search"), root_directory())
        return plan if self.store is None else with_store(plan, self.store)

    @property
    def first_points(self) -> list[dict[str, Value]]:
        """The points to try before any is drawn; on a grid every point has its turn."""
        return [*([self.own_point] if self.sweep.has_base else []), *self.sweep.first_points]

    @property
    def own_point(self) -> dict[str, Value]:
        """What the training configuration itself has at the searched paths."""
        content = self.plan_of(0, {}).model_dump(mode="json")
        return {path: value_at(content, path) for path in self.sweep.search}


class SweepNote(NamedTuple):
    """What a directory says of its sweep."""

    run_id: str  # also part of the study's name
    identity: str  # hash of what makes trials comparable
    store: str  # version that all trials read
    storage: str = ""  # address of the study


def read_note(directory: Path) -> SweepNote | None:
    """Return what the directory says of its sweep, None where it holds none."""
    path = directory / SWEEP_FILE
    return SweepNote(**read_json(path)) if path.exists() else None


def check_sweep(sweep: SweepPlan) -> TrialPlans:
    """Do what ``plans_of`` does, and apply the store's audit.

    Raises:
        ConfigError: also where a check of the audit failed that is not waived.
        InputError: see ``plans_of``.
    """
    plans = plans_of(sweep)
    data = plans.plan_of(0, {}).data
    pass_audit(data.store, data.labels, data.waive_audit)
    return plans


def plans_of(sweep: SweepPlan) -> TrialPlans:
    """Check everything that can be checked before a trial starts; continue with the store that was begun with.

    Raises:
        ConfigError: a searched path or a value on it is none that a training takes, all of them are named; or the
            directory holds a sweep of something else.
        InputError: the store or the fold cannot be used.
    """
    note, content = read_note(sweep.output_dir), read_yaml_mapping(sweep.training)
    tracking = content.pop("tracking", None) or {}
    plans = TrialPlans(sweep, with_changes(content, sweep.overrides, "overrides"), tracking)
    store = plans.plan_of(0, {}).data.store
    check_space(plans)
    plans = replace(plans, store=type(store)(note.store) if note else pinned_store(store))
    checked = plans.plan_of(0, {})
    if checked.training.refit:
        problem = "has no validation clips that trials could be chosen by"
        raise ConfigError(str(sweep.training), "training.refit", problem, "set overrides: {training.refit: false}")
    _check_base(plans, checked)
    # The check of what is selected by speaks of the objectives too.
    wanted = [objective.metric for objective in sweep.objectives if objective.mode == "max"]
    names = tuple(dict.fromkeys([*checked.evaluation.select_by, *wanted]))
    evaluation = checked.evaluation.model_copy(update={"select_by": names})
    plans = replace(plans, notes=check_plan(checked.model_copy(update={"evaluation": evaluation})))
    if note is not None and note.identity != note_of(plans).identity:
        problem = "holds a sweep of other axes, objectives or training settings; their trials cannot be told apart"
        fix = "choose another output_dir, or take the changes back (trials, sampler, pruner and limits may change)"
        raise ConfigError(str(sweep.output_dir), "output_dir", problem, fix)
    if note is not None and note.storage not in ("", storage_address(sweep)):
        problem = f"the study of this directory lies in {note.storage}"
        fix = "choose another output_dir, or the same storage"
        raise ConfigError(str(sweep.output_dir), "storage", problem, fix)
    return plans


def note_of(plans: TrialPlans) -> SweepNote:
    """Return the note of a new sweep."""
    content = plans.sweep.model_dump(mode="json", include={"search", "objectives", "base_first"})
    hashed = {**content, "training": plans.plan_of(0, {}).config_hash, "store": str(plans.store)}
    run_id, identity = f"sweep-{secrets.token_hex(4)}", sha256_of_json(hashed)[:16]
    return SweepNote(run_id, identity, str(plans.store), storage_address(plans.sweep))


def check_space(plans: TrialPlans) -> None:
    """Validate every end of every axis alone, then the corners of the whole space.

    Raises:
        ConfigError: names every path that is wrong.
    """
    search, problems = plans.sweep.search, dict[str, str]()
    for path, value in ((path, value) for path, axis in search.items() for value in axis.ends):
        if problem := _problem_at(plans, {path: value}):
            problems.setdefault(path, f"search.{path}: {problem}")
    for corner in corners(plans.sweep) if not problems else ():
        if problem := _problem_at(plans, corner):
            words = ", ".join(f"{path}={name_of(value)}" for path, value in corner.items())
            problems["corner"] = f"search: {words} do not go together: {problem}"
            break
    if problems:
        fix = "correct the paths and values above"
        raise ConfigError(str(plans.sweep.training), "search", "\n".join(problems.values()), fix)


def _problem_at(plans: TrialPlans, point: Point) -> str:
    """Say why no trial can have these values, in one line; "" where one can."""
    try:
        found = plans.plan_of(0, point).model_dump(mode="json")
    except ConfigError as error:
        lines = [line.strip(" -") for line in error.problem.splitlines()]
        first = lines[1] if len(lines) > 1 else lines[0]
        return f"{name_of(*point.values())}: {first}" if len(point) == 1 else first
    for path, value in point.items():
        # The settings may take a value for another one, e.g. 0.5 for a whole number.
        if not isinstance(value, (dict, list, tuple)) and value_at(found, path) != value:
            return f"{value!r} becomes {value_at(found, path)!r}"
    return ""


def corners(sweep: SweepPlan) -> Iterator[dict[str, Value]]:
    """Yield the corners of the search space; of very many the first, the last and a fixed draw."""
    ends = [axis.ends for axis in sweep.search.values()]
    if math.prod(map(len, ends)) <= _MOST_CORNERS:
        chosen = list(itertools.product(*ends))
    else:
        draw = random.Random(0)  # noqa: S311  no secret
        chosen = [tuple(values[0] for values in ends), tuple(values[-1] for values in ends)]
        chosen += [tuple(draw.choice(values) for values in ends) for _ in range(_MOST_CORNERS - 2)]
    for corner in chosen:
        yield dict(zip(sweep.search, corner, strict=True))


def _check_base(plans: TrialPlans, plan: TrainingPlan) -> None:
    training = str(plans.sweep.training)
    if plan.training.least_workers != plan.training.most_workers:
        fix = f"write e.g. overrides: {{training.workers: {plan.training.least_workers}}}"
        raise ConfigError(training, "training.workers", "a range; trials of a sweep share the cluster", fix)
    for point in plans.first_points:
        for path, value in point.items():
            if not plans.sweep.search[path].contains(value):
                problem = f"{value} of the training configuration does not lie on its axis"
                raise ConfigError(training, path, problem, f"widen search.{path}, or write base_first: false")


@contextlib.contextmanager
def open_sweep(plan: SweepPlan) -> Iterator[Sweep]:
    """Take the directory of a sweep and make its study or open it again.

    Raises:
        InputError: another driver works in the directory, or the storage cannot be opened; or the directory
            holds trials of a study that is gone: new ones would take their numbers and their scores.
        ConfigError: see ``plans_of``.
    """
    plans = plans_of(plan)
    directory = make_directory(plan.output_dir)
    with only_driver(directory):
        note = read_note(directory) or note_of(plans)
        write_json(directory / SWEEP_FILE, note._asdict())
        study = SweepStudy(plan, study_name(plan, note.run_id))
        if study.is_new:
            if any((directory / TRIALS_DIRECTORY).glob("*")):
                problem = "holds trials, but their study is gone or empty"
                fix = "choose another output_dir, or bring the study back"
                raise InputError(str(directory / TRIALS_DIRECTORY), "", problem, fix)
            study.try_first(plans.first_points)
        yield Sweep(plans, study, note.run_id)


class Sweep:
    """Hands out trials, judges their epochs, and takes in their ends."""

    def __init__(self, plans: TrialPlans, study: SweepStudy, run_id: str) -> None:
        self.plan, self.plans, self.study, self.run_id = plans.sweep, plans, study, run_id
        self.training = plans.plan_of(0, {}).training
        self._judge = Judge(self.plan)
        self._waiting: deque[Drawn] = deque()
        self._failed_in_a_row = self._at_once = 0
        self.ends: dict[int, TrialEnd] = {}  # of the trials that have ended, by number
        self.memory_gb: float | None = None  # most that a trial was seen to take

    @property
    def total(self) -> int:
        """Trials in all; a grid may have fewer than were asked for, and an earlier start may have had more."""
        return max(self.plan.most_trials, self.done)

    @property
    def done(self) -> int:
        """Trials that have ended."""
        return len(self.ends)

    @property
    def standing(self) -> str:
        """The best trial so far in words."""
        best = best_of(self.plan, list(self.ends.values()))
        if best is None:
            return "none finished yet"
        return f"best {self.plan.scores_in_words(best.metrics)} (trial {best.number})"

    @property
    def gave_up(self) -> bool:
        """True when too many trials failed one after the other."""
        return self._failed_in_a_row >= self.plan.give_up_after

    def at_once(self, machines: Sequence[Mapping[str, float]], *, is_shared: bool) -> int:
        """Return how many trials may run at the same time; see ``trials_at_once``."""
        before, memory_gb = self._at_once, self.memory_gb
        self._at_once = trials_at_once(machines, self.training, self.plan, memory_gb, is_shared=is_shared)
        if self._at_once != before:
            known = "unknown yet" if memory_gb is None else f"{memory_gb:.2f} GB"
            _log.info("%d trial(s) at once (memory of a trial: %s)", self._at_once, known)
        return self._at_once

    def resume(self, logs: TrialLogs) -> None:
        """Take in what earlier starts left: their ends, their epochs, and the trials that they did not finish."""
        for drawn in self.study.interrupted():
            end = read_end(self.plan.trial_directory(drawn.number))
            if end is None:
                self._waiting.append(drawn)
            else:
                self._record(end)  # the driver was killed between the two
        for number, state in sorted(self.study.ended().items()):
            end = read_end(self.plan.trial_directory(number))
            self.ends[number] = end or TrialEnd(number, state, "its directory is gone")
        for number in sorted({*self.ends, *(drawn.number for drawn in self._waiting)}):
            epochs, end = logs.of(self.plan.trial_directory(number).name, {}).epochs(), self.ends.get(number)
            for record in epochs:
                self._judge.stops(number, int(record["epoch"]), record["metrics"])
            if end is not None:
                self._judge.ended(number, is_finished=end.state == "finished")
            self._note_memory(trial_memory_gb(epochs) if end is None else end.memory_gb)
        if self.ends or self._waiting:
            _log.info("%d trials have ended already, %d continue", len(self.ends), len(self._waiting))

    def next_trial(self, running: int) -> Trial | None:
        """Return the trial to start now, None when the sweep needs no further one."""
        while self.total - self.done > running and not self.gave_up:
            number, point = self._waiting.popleft() if self._waiting else self.study.draw()
            try:
                plan = self.plans.plan_of(number, point)
            except ConfigError as error:
                reason = f"these values do not go together: {error.problem}"
                self._record(TrialEnd(number, "failed", reason), write=True)
                continue
            _log.info("trial %d starts: %s", number, words_of(point))
            return Trial(number, plan.directory.name, plan, {"sweep.trial": str(number)})
        return None

    def epoch_ended(self, number: int, record: Mapping[str, Any]) -> None:
        """Take in an epoch; ask the trial to stop when others did better."""
        epoch = int(record["epoch"])
        self._note_memory(trial_memory_gb([record]))
        if self._judge.stops(number, epoch, record["metrics"]):
            rule = f"{self.plan.pruner.kind}: stopped after epoch {epoch}"
            ask_to_stop(self.plan.trial_directory(number), "stop", rule)
        if number in self._judge.best:
            self.study.note_epoch(number, epoch, self._judge.best[number] * self.plan.objectives[0].sign)

    def trial_ended(self, number: int, lost: str = "") -> TrialEnd:
        """Take in the end of a trial; ``lost`` is what is known when its process died without leaving one."""
        return self._record(end_of(self.plan.trial_directory(number), number, lost))

    def line_of(self, end: TrialEnd) -> str:
        """Return the end of a trial as a line of the log."""
        reason = f" ({end.reason.splitlines()[0]})" if end.reason else ""
        scores = self.plan.scores_in_words(end.metrics) or "no score"
        epochs = f"{end.epochs_run} of {end.epochs_full} epochs, {end.seconds:.0f} s"
        return f"trial {end.number} {end.state}{reason}: {scores} in {epochs}"

    def _record(self, end: TrialEnd, *, write: bool = False) -> TrialEnd:
        wanted = [goal.metric for goal in self.plan.objectives]
        missing = [name for name in wanted if name not in end.metrics]
        if end.state == "finished" and missing:
            end, write = replace(end, state="failed", reason=f"{', '.join(missing)} is not measured"), True
        if write:
            write_end(self.plan.trial_directory(end.number), end)
        self.study.tell(end.number, end.state, [end.metrics.get(name) for name in wanted], end.reason)
        self._judge.ended(end.number, is_finished=end.state == "finished")
        self._failed_in_a_row = self._failed_in_a_row + 1 if end.state == "failed" else 0
        self.ends[end.number] = end
        self._note_memory(end.memory_gb)
        return end

    def _note_memory(self, taken_gb: float | None) -> None:
        if taken_gb is not None:
            self.memory_gb = max(taken_gb, self.memory_gb or 0.0)


def trials_at_once(
    machines: Sequence[Mapping[str, float]],
    settings: TrainingSettings,
    plan: SweepPlan,
    memory_gb: float | None,
    *,
    is_shared: bool,
) -> int:
    """Return how many trials may run at the same time; at least one, or the sweep would never end.

    The user's number wins over memory, but not over resources; without one the first trial runs alone until its memory
    is known. Where machines may be added, one trial more than there are resources for waits for its workers, which is
    what an autoscaler acts on; not under a time limit, of which the waiting would be a part. ``machines`` and
    ``is_shared`` are as of ``Work.at_once``; ``memory_gb`` is the most that a trial was seen to take, None before that
    is known.
    """
    trials = workers_that_fit(machines, settings) // settings.least_workers
    trials += int(is_shared and plan.seconds_per_trial is None)
    if plan.at_once is not None:
        return max(1, min(plan.at_once, trials))
    if memory_gb is None:
        return 1
    memory = sum(machine.get("memory", 0.0) for machine in machines) * _MEMORY_SHARE
    return max(1, min(trials, math.floor(memory / max(memory_gb * 2**30, 1.0))))

"""A sweep: which trial is next, when one is stopped, and what became of all; it knows neither Ray nor MLflow.

The truth lies in the Optuna study and in the folders of the trials, so a killed driver loses nothing: a trial
with an end is told, one without goes on from its checkpoint.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import secrets
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vavl.config.files import make_folder, read_json, sha256_of_json, write_json
from vavl.errors import ConfigError, InputError
from vavl.training.settings import TrainingPlan
from vavl.training.stop import ask_to_stop
from vavl.tuning.axes import Value
from vavl.tuning.plans import TRIALS_FOLDER, TrialPlans, folder_of, trial_plans
from vavl.tuning.pruning import Judge
from vavl.tuning.settings import SweepPlan
from vavl.tuning.study import Drawn, SweepStudy, notes_of, storage_address
from vavl.tuning.trial import TrialEnd, TrialLog, read_end, trial_memory_gb, write_end

SWEEP_FILE = "sweep.json"
_LOCK_FILE = "sweep.lock"
BASE_TRIAL = 0
"""Number of the trial with the training configuration's own values, where there is one."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class NextTrial:
    """A trial that may start.

    Attributes:
        number: of the trial.
        point: values by dotted path.
        plan: of its training.
    """

    number: int
    point: Mapping[str, Value]
    plan: TrainingPlan


@dataclass(frozen=True)
class SweepNote:
    """What a folder says of its sweep.

    Attributes:
        run_id: of the sweep; also the name of the study.
        identity: hash of what makes trials comparable.
        store: version of the store that all trials read.
        storage: address of the study.
    """

    run_id: str
    identity: str
    store: str
    storage: str = ""


def read_note(folder: Path) -> SweepNote | None:
    """Return what the folder says of its sweep, None where it holds none."""
    path = folder / SWEEP_FILE
    return SweepNote(**read_json(path)) if path.exists() else None


def plans_of(sweep: SweepPlan) -> TrialPlans:
    """Check everything that can be checked before a trial starts; continue with the store that was begun with.

    Raises:
        ConfigError: see ``trial_plans``; or the folder holds a sweep of something else.
        InputError: the store or the fold cannot be used.
    """
    note = read_note(sweep.output_dir)
    plans = trial_plans(sweep, None if note is None else note.store)
    if note is not None and note.identity != identity_of(plans):
        raise ConfigError(
            str(sweep.output_dir), "output_dir",
            "holds a sweep of other axes, objectives or training settings; their trials cannot be told apart",
            "choose another output_dir, or take the changes back (trials, sampler, pruner and limits may change)",
        )  # fmt: skip
    if note is not None and note.storage not in ("", storage_address(sweep)):
        raise ConfigError(
            str(sweep.output_dir), "storage", f"the study of this folder lies in {note.storage}",
            "choose another output_dir, or the same storage",
        )  # fmt: skip
    return plans


def identity_of(plans: TrialPlans) -> str:
    """Return a hash of what makes the trials of a sweep comparable."""
    sweep = plans.sweep
    content = {
        "training": plans.plan_of(0, {}).config_hash,
        "store": str(plans.store),
        "search": {path: axis.model_dump(mode="json") for path, axis in sweep.search.items()},
        "objectives": [objective.model_dump() for objective in sweep.objectives],
        "base_first": sweep.base_first,
    }
    return sha256_of_json(content)[:16]


@contextlib.contextmanager
def open_sweep(plan: SweepPlan) -> Iterator[Sweep]:
    """Take the folder of a sweep, and make its study or take it up.

    Raises:
        InputError: another process works in the folder, or the storage cannot be opened.
        ConfigError: see ``plans_of``.
    """
    plans = plans_of(plan)
    folder = make_folder(plan.output_dir)
    with _only_driver(folder):
        note = read_note(folder)
        if note is None:
            note = SweepNote(
                f"sweep-{secrets.token_hex(4)}", identity_of(plans), str(plans.store), storage_address(plan)
            )
            write_json(folder / SWEEP_FILE, note.__dict__)
        study = SweepStudy(plan, f"{folder.name} {note.run_id}")
        if study.is_new:
            _refuse_strangers(folder)
            study.try_first(plans.first_points)
        yield Sweep(plans, study, note.run_id)


def _refuse_strangers(folder: Path) -> None:
    """Refuse the trials of a study that is gone: new ones would take their places and their scores."""
    if any((folder / TRIALS_FOLDER).glob("*")):
        raise InputError(
            str(folder / TRIALS_FOLDER), "", "holds trials, but their study is gone or empty",
            "choose another output_dir, or bring the study back",
        )  # fmt: skip


@contextlib.contextmanager
def _only_driver(folder: Path) -> Iterator[None]:
    """Hold the lock of the folder; it ends with the process, however that ends."""
    file = os.open(folder / _LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                str(folder), "output_dir", "another process works on this sweep", "wait for it, or stop it"
            ) from None
        yield
    finally:
        os.close(file)


class Sweep:
    """Hands out trials, judges their epochs, and takes in their ends.

    Args:
        plans: make the plan of a trial.
        study: draws points.
        run_id: of the sweep.
    """

    def __init__(self, plans: TrialPlans, study: SweepStudy, run_id: str) -> None:
        self.plan, self.plans, self.study, self.run_id = plans.sweep, plans, study, run_id
        self.has_base = bool(plans.sweep.base_first and plans.sweep.sampler != "grid")
        exempt = frozenset({BASE_TRIAL}) if self.has_base else frozenset()
        self._judge = Judge(self.plan.pruner, self.plan.objectives, exempt)
        self._waiting: deque[Drawn] = deque()
        self._drawn: dict[int, Drawn] = {}
        self.ends: dict[int, TrialEnd] = {}
        self.memory_gb: float | None = None
        self._failed_in_a_row = 0

    @property
    def kept(self) -> int:
        """Trials that have ended so far."""
        return len(self.ends)

    @property
    def left(self) -> int:
        """Trials that have not ended yet."""
        return max(0, self.study.trials - len(self.ends))

    @property
    def gave_up(self) -> bool:
        """True when too many trials failed one after the other."""
        return self._failed_in_a_row >= self.plan.give_up_after

    def take_up(self, log_of: Callable[[int], TrialLog]) -> None:
        """Take in what earlier starts left: their ends, their epochs, and the trials that they did not finish.

        Args:
            log_of: gives the log of a trial.
        """
        self.study.drop_half_drawn()
        for drawn in self.study.interrupted():
            end = read_end(self.folder_of(drawn.number))
            self._drawn[drawn.number] = drawn
            if end is None:
                self._waiting.append(drawn)
            else:
                self._tell(end)  # the driver was killed between the two
        for number, state in sorted(self.study.ended().items()):
            self.ends[number] = read_end(self.folder_of(number)) or TrialEnd(
                number, state, "its folder is gone"
            )
        for number in sorted({*self.ends, *(drawn.number for drawn in self._waiting)}):
            for record in log_of(number).epochs():
                self._judge.stops(number, int(record["epoch"]), record["metrics"])
            if number in self.ends:
                self._judge.ended(number, is_finished=self.ends[number].state == "finished")
        self._note_memory(*(end.memory_gb for end in self.ends.values()))
        self._note_memory(*(trial_memory_gb(log_of(drawn.number).epochs()) for drawn in self._waiting))
        if self.ends or self._waiting:
            _log.info("%d trials have ended already, %d go on", len(self.ends), len(self._waiting))

    def next_trial(self, running: int) -> NextTrial | None:
        """Return the trial to start now, None when the sweep needs no further one.

        Args:
            running: trials that have started and not ended.
        """
        while self.left > running and not self.gave_up:
            drawn = self._waiting.popleft() if self._waiting else self.study.draw()
            self._drawn[drawn.number] = drawn
            try:
                return NextTrial(drawn.number, drawn.point, self.plans.plan_of(drawn.number, drawn.point))
            except ConfigError as fault:
                end = TrialEnd(drawn.number, "failed", f"these values do not go together: {fault.problem}")
                write_end(make_folder(self.folder_of(drawn.number)), end)
                self._tell(end)
        return None

    def epoch_ended(self, number: int, record: Mapping[str, Any]) -> None:
        """Take in an epoch; ask the trial to stop when others did better."""
        epoch = int(record["epoch"])
        self._note_memory(trial_memory_gb([record]))
        if self._judge.stops(number, epoch, record["metrics"]):
            rule = f"{self.plan.pruner.kind}: stopped after epoch {epoch}"
            ask_to_stop(self.folder_of(number), "stop", rule)
        best = self._judge.best(number)
        if best is not None:
            self.study.note_epoch(number, epoch, best * self.plan.objectives[0].sign)

    def trial_ended(self, number: int, lost: str = "") -> TrialEnd:
        """Take in the end of a trial.

        Args:
            number: of the trial.
            lost: what is known when its process died without leaving an end.
        """
        end = read_end(self.folder_of(number))
        if end is None:
            end = TrialEnd(
                number, "failed", lost or "its process left no end; does its machine share output_dir?"
            )
            write_end(make_folder(self.folder_of(number)), end)
        return self._tell(end)

    def point_of(self, number: int) -> Mapping[str, Value]:
        """Return the values of a trial that was drawn."""
        return self._drawn[number].point if number in self._drawn else self.study.points()[number]

    def folder_of(self, number: int) -> Path:
        """Return the folder of a trial."""
        return folder_of(self.plan.output_dir, number)

    def values_of(self, end: TrialEnd) -> list[float] | None:
        """Return the values of the objectives, None where one was not measured."""
        names = [objective.metric for objective in self.plan.objectives]
        if any(end.metrics.get(name) is None for name in names):
            return None
        return [float(end.metrics[name]) for name in names]

    def _tell(self, end: TrialEnd) -> TrialEnd:
        values = self.values_of(end)
        if end.state == "finished" and values is None:
            missing = [goal.metric for goal in self.plan.objectives if goal.metric not in end.metrics]
            end = TrialEnd(
                **{**end.__dict__, "state": "failed", "reason": f"{', '.join(missing)} is not measured"}
            )
            write_end(self.folder_of(end.number), end)
        self.study.tell(end.number, end.state, values, notes_of(self.point_of(end.number), end.reason))
        self._judge.ended(end.number, is_finished=end.state == "finished")
        self._failed_in_a_row = self._failed_in_a_row + 1 if end.state == "failed" else 0
        self.ends[end.number] = end
        self._note_memory(end.memory_gb)
        return end

    def _note_memory(self, *taken: float | None) -> None:
        known = [value for value in (self.memory_gb, *taken) if value is not None]
        self.memory_gb = max(known, default=None)

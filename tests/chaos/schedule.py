"""Which faults hit which runs; the forked ones."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import injections
import store_injections
from faults import BITWISE, OTHER_WORKERS
from forked import ForkedRun, finished
from plans import make_bad_store, make_store, plan_of
from scenario import Planned, Scenario, not_disturbed
from selection import PlannedRun

from vavl.training.settings import TrainingPlan

STEPS_PER_FAULT = 24
FROZEN_AFTER_SECONDS = 12
"""Of a step in the runs that are frozen; a step that measures gradient norms on a busy machine took more than 6."""
_PATIENT_SECONDS = 300

Maker = Callable[[str, Sequence[Planned]], Scenario]

WORKER = Planned("worker killed", injections.kill_worker)
DRIVER = Planned("driver killed", injections.kill_driver)
WRITING = Planned("killed while writing a checkpoint", injections.kill_while_writing)
SIGTERM = Planned("SIGTERM to the driver", injections.send_sigterm)
STOP_FILE = Planned("stop file", injections.write_stop_file)
FROZEN = Planned("worker frozen", injections.freeze_worker)
TRUNCATED = Planned("newest checkpoint truncated", injections.truncate_newest)
FLIPPED = Planned("newest checkpoint with a flipped bit", injections.flip_byte_of_newest)
NO_ENTRY = Planned("newest checkpoint without a rank", injections.remove_entry_of_newest)
FULL = Planned("disk full", injections.fill_disk)
LIMITED = Planned("disk full (RLIMIT_FSIZE)", injections.limit_writes)
SECOND = Planned("second driver in the directory", injections.start_second_driver, not_disturbed)
CUT = Planned("store cut under the run", store_injections.cut_store, store_injections.goes_on_once_put_back)
CHANGED, NAN = (
    Planned(kind, store_injections.spoil_store(value), store_injections.goes_on_once_put_back)
    for kind, value in (("store changed without a change of size", 0.123), ("NaN in clips of the store", math.nan))
)


def other_workers(workers: int) -> Planned:
    """Return a resumption with another number of workers."""
    return Planned("other number of workers", injections.go_on_with(workers=workers))


def other_stage(stage: int) -> Planned:
    """Return a resumption with another ZeRO stage."""
    return Planned("other ZeRO stage", injections.go_on_with(zero_stage=stage))


class Runs:
    """Makes scenarios in a directory, and each undisturbed run once.

    Args:
        folder: of all runs.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store, self.bad_store = make_store(folder / "store"), make_bad_store(folder / "store_with_nan")
        self._undisturbed: dict[str, Path] = {}

    def undisturbed(self, plan: TrainingPlan) -> Path:
        """Train the plan without faults, once for all runs that compute the same in the same way."""
        settings = plan.training
        is_bad = plan.data.store == self.bad_store
        how = (
            plan.config_hash, is_bad, settings.most_workers, settings.zero_stage, settings.engine,
            settings.clips_per_forward,
        )  # fmt: skip
        key = "-".join(map(str, how))
        if key not in self._undisturbed:
            self._undisturbed[key] = self.folder / f"undisturbed_{len(self._undisturbed)}"
            # The same features, also where a run had a store of its own to be damaged.
            data = plan.data.model_copy(update={"store": self.bad_store if is_bad else self.store})
            # Nothing freezes there: a busy machine is not taken for it.
            faults = settings.faults.model_copy(update={"step_timeout_seconds": _PATIENT_SECONDS})
            training = settings.model_copy(update={"faults": faults})
            finished(plan.model_copy(update={"output_dir": self._undisturbed[key], "data": data, "training": training}))
        return self._undisturbed[key]

    def forked(self, name: str, hits: Sequence[Planned], **options: Any) -> Scenario:
        """Return a scenario of forked processes.

        Args:
            name: of the run.
            hits: the faults.
            options: ``allowed``, ``bad_clip``, ``place`` and ``own_store``, else settings of the training.
        """
        allowed, place = options.pop("allowed", BITWISE), options.pop("place", self.folder)
        bad_clip = options.pop("bad_clip", False)
        steps = STEPS_PER_FAULT * (len(hits) + 1)
        store, hidden_share = (self.bad_store, 0.0) if bad_clip else (self.store, 0.15)
        if options.pop("own_store", False):
            store = Path(shutil.copytree(store, self.folder / f"{name}.store"))
        plan = plan_of(place / name, store, steps, hidden_share=hidden_share, **options)
        return Scenario(name, self._command, plan, self.undisturbed, hits, allowed, skips=bad_clip)

    def _command(self, plan: TrainingPlan) -> ForkedRun:
        return ForkedRun(plan, self.folder)


def forked_scenarios(runs: Runs, small_disk: Path | None) -> list[PlannedRun]:
    """Return the runs of forked processes; ``small_disk`` is a file system that one of them may fill."""
    norms = {"gradient_norms_every_steps": 20}
    alone = {"launcher": "in_process", "engine": "torch", **norms}
    quick = {"faults": {"step_timeout_seconds": FROZEN_AFTER_SECONDS}, **norms}

    def two(stage: int, **more: Any) -> Maker:
        return lambda name, faults: runs.forked(name, faults, workers=2, zero_stage=stage, **more)

    def one(**more: Any) -> Maker:
        return lambda name, faults: runs.forked(name, faults, **alone, **more)

    table: list[tuple[str, list[Planned], Maker]] = [
        ("one-process", [
            DRIVER, WRITING, TRUNCATED, SIGTERM, DRIVER, FLIPPED, LIMITED, WRITING, NO_ENTRY, STOP_FILE, DRIVER,
        ], one()),
        ("two-ranks-zero-1", [WORKER, FROZEN, WRITING, WORKER, DRIVER, FLIPPED, SIGTERM, WORKER], two(1, **quick)),
        ("reading", [CUT, CHANGED, SECOND, NAN, CUT, SECOND, CHANGED, NAN], one(own_store=True)),
        ("reading-by-two", [CUT, NAN, SECOND, CHANGED, CUT], two(1, own_store=True)),
        ("two-ranks-zero-3", [WORKER, WRITING, TRUNCATED, DRIVER, STOP_FILE, WORKER], two(3)),
        ("two-ranks-zero-2", [FROZEN, WORKER, LIMITED, NO_ENTRY, WORKER], two(2, **quick)),
        ("one-process-again", [
            WRITING, NO_ENTRY, TRUNCATED, DRIVER, FLIPPED, STOP_FILE, WRITING, LIMITED, SIGTERM, TRUNCATED, DRIVER,
        ], one()),
        ("nan", [WORKER, DRIVER], two(0, bad_clip=True)),
        ("four-two-four", [other_workers(2), WORKER, other_workers(4)],
         lambda name, faults: runs.forked(name, faults, workers=4, zero_stage=1, allowed=OTHER_WORKERS)),
        ("two-four-two", [other_workers(4), DRIVER, other_workers(2)], two(2, allowed=OTHER_WORKERS)),
        ("other-stages", [other_stage(3), WORKER, other_stage(2), other_stage(0)], two(1, allowed=OTHER_WORKERS)),
    ]  # fmt: skip
    if small_disk is not None:
        table.append(("small-disk", [FULL, DRIVER, FULL], one(place=small_disk)))
    return [PlannedRun(*row) for row in table]

"""The training plan of any point of the search space; the space is checked before the first trial starts."""

from __future__ import annotations

import itertools
import math
import random
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from vavl.audit.gate import pass_audit
from vavl.config.changes import with_changes
from vavl.config.files import read_json, sha256_of_json
from vavl.config.load import read_yaml_mapping, validate
from vavl.config.places import anchored, root_folder
from vavl.errors import ConfigError
from vavl.experiments.study import storage_address
from vavl.experiments.sweep_settings import Point, SweepPlan, Value, name_of
from vavl.store.store_versions import pinned_store
from vavl.training.run_data import check_plan
from vavl.training.run_folder import with_store
from vavl.training.settings import TrainingPlan

SWEEP_FILE, TRIALS_FOLDER = "sweep.json", "trials"
_MOST_CORNERS = 64


@dataclass(frozen=True)
class TrialPlans:
    """Makes the plan of a trial from the values that were drawn."""

    sweep: SweepPlan
    base: Mapping[str, Any]  # content of the training configuration with the overrides, without its tracking
    tracking: Mapping[str, Any]  # of the training configuration
    store: Path | str | None = (
        None  # version that every trial reads; None: as the training configuration says
    )

    def plan_of(self, number: int, point: Point) -> TrainingPlan:
        """Return the plan of trial ``number`` at a point.

        Raises:
            ConfigError: these values do not go together.
        """
        own = {
            "output_dir": str(folder_of(self.sweep.output_dir, number)), "evaluation.test": False,
            "training.launcher": "ray", "training.resume": "auto",
        }  # fmt: skip
        # A section is one value: it replaces what was there.
        cleared = with_changes(with_changes(self.base, own, "sweep"), dict.fromkeys(point), "search")
        content = with_changes(cleared, point, "search")
        plan = anchored(validate(TrainingPlan, content, f"{self.sweep.training} with search"), root_folder())
        return plan if self.store is None else with_store(plan, self.store)

    @property
    def first_points(self) -> list[dict[str, Value]]:
        """The points to try before any is drawn; on a grid every point has its turn."""
        return [*([self.own_point] if self.sweep.has_base else []), *self.sweep.first_points]

    @property
    def own_point(self) -> dict[str, Value]:
        """What the training configuration itself has at the searched paths."""
        content = self.plan_of(0, {}).model_dump(mode="json")
        return {path: _at(content, path) for path in self.sweep.search}


def folder_of(output_dir: Path, number: int) -> Path:
    """Return the directory of a trial."""
    return output_dir / TRIALS_FOLDER / f"trial-{number:04d}"


class SweepNote(NamedTuple):
    """What a directory says of its sweep."""

    run_id: str  # also part of the study's name
    identity: str  # hash of what makes trials comparable
    store: str  # version that all trials read
    storage: str = ""  # address of the study


def read_note(folder: Path) -> SweepNote | None:
    """Return what the directory says of its sweep, None where it holds none."""
    path = folder / SWEEP_FILE
    return SweepNote(**read_json(path)) if path.exists() else None


def plans_of(sweep: SweepPlan) -> TrialPlans:
    """Check everything that can be checked before a trial starts; continue with the store that was begun with.

    Raises:
        ConfigError: a searched path or a value on it is none that a training takes, all of them are named; or the
            directory holds a sweep of something else.
        InputError: the store or the fold cannot be used.
    """
    note = read_note(sweep.output_dir)
    content = read_yaml_mapping(sweep.training)
    tracking = content.pop("tracking", None) or {}
    plans = TrialPlans(sweep, with_changes(content, sweep.overrides, "overrides"), tracking)
    store = plans.plan_of(0, {}).data.store
    check_space(plans)
    plans = replace(plans, store=type(store)(note.store) if note else pinned_store(store))
    checked = plans.plan_of(0, {})
    _check_base(plans, checked)
    # The check of what is selected by speaks of the objectives too.
    wanted = [objective.metric for objective in sweep.objectives if objective.mode == "max"]
    names = tuple(dict.fromkeys([*checked.evaluation.select_by, *wanted]))
    evaluation = checked.evaluation.model_copy(update={"select_by": names})
    check_plan(checked.model_copy(update={"evaluation": evaluation}))
    pass_audit(checked.data.store, checked.data.labels, checked.data.waive_audit)
    if note is not None and note.identity != note_of(plans).identity:
        raise ConfigError(
            str(sweep.output_dir), "output_dir",
            "holds a sweep of other axes, objectives or training settings; their trials cannot be told apart",
            "choose another output_dir, or take the changes back (trials, sampler, pruner and limits may change)",
        )  # fmt: skip
    if note is not None and note.storage not in ("", storage_address(sweep)):
        raise ConfigError(
            str(sweep.output_dir), "storage", f"the study of this directory lies in {note.storage}",
            "choose another output_dir, or the same storage",
        )  # fmt: skip
    return plans


def note_of(plans: TrialPlans) -> SweepNote:
    """Return the note of a new sweep."""
    content = plans.sweep.model_dump(mode="json", include={"search", "objectives", "base_first"})
    hashed = {**content, "training": plans.plan_of(0, {}).config_hash, "store": str(plans.store)}
    identity = sha256_of_json(hashed)[:16]
    return SweepNote(
        f"sweep-{secrets.token_hex(4)}", identity, str(plans.store), storage_address(plans.sweep)
    )


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
        raise ConfigError(
            str(plans.sweep.training),
            "search",
            "\n".join(problems.values()),
            "correct the paths and values above",
        )


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
        if not isinstance(value, (dict, list, tuple)) and _at(found, path) != value:
            return f"{value!r} becomes {_at(found, path)!r}"
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


def _at(content: Mapping[str, Any], path: str) -> Any:
    value: Any = content
    for key in path.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value

"""The trainings of a sweep: the plan of any point, checked at the corners before the first one starts."""

from __future__ import annotations

import copy
import itertools
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vavl.audit.gate import pass_audit
from vavl.config.changes import with_changes
from vavl.config.load import read_yaml_mapping, validate
from vavl.config.places import anchored, root_folder
from vavl.data.store_versions import pinned_store
from vavl.errors import ConfigError
from vavl.training.run_data import check_plan
from vavl.training.settings import TrainingPlan
from vavl.tuning.axes import Value, name_of
from vavl.tuning.settings import SweepPlan, lies_on

TRIALS_FOLDER = "trials"
_MOST_CORNERS = 64

Point = Mapping[str, Value]
"""Values by dotted path."""


@dataclass(frozen=True)
class TrialPlans:
    """Makes the plan of a trial from the values that were drawn.

    Attributes:
        sweep: settings of the sweep.
        base: content of the training configuration with the overrides, without its tracking.
        tracking: what the training configuration says of tracking.
        store: version of the store that every trial reads.
    """

    sweep: SweepPlan
    base: Mapping[str, Any]
    tracking: Mapping[str, Any]
    store: Path | str

    def plan_of(self, number: int, point: Point) -> TrainingPlan:
        """Return the plan of trial ``number`` at a point.

        Raises:
            ConfigError: these values do not go together.
        """
        plan = plan_at(self.sweep, self.base, point, folder_of(self.sweep.output_dir, number))
        return plan.model_copy(update={"data": plan.data.model_copy(update={"store": self.store})})

    @property
    def first_points(self) -> list[dict[str, Value]]:
        """The points to try before any is drawn; on a grid every point has its turn."""
        own = [self.own_point] if self.sweep.base_first and self.sweep.sampler != "grid" else []
        return [*own, *self.sweep.first_points]

    @property
    def own_point(self) -> dict[str, Value]:
        """What the training configuration itself has at the searched paths."""
        content = plan_at(self.sweep, self.base, {}, self.sweep.output_dir).model_dump(mode="json")
        return {path: _at(content, path) for path in self.sweep.search}


def folder_of(output_dir: Path, number: int) -> Path:
    """Return the folder of a trial."""
    return output_dir / TRIALS_FOLDER / f"trial-{number:04d}"


def trial_plans(sweep: SweepPlan, begun_store: Path | str | None = None) -> TrialPlans:
    """Read the training configuration, and check the search space and the data.

    Args:
        sweep: its settings.
        begun_store: version of the store that an interrupted sweep began with, whatever is ``latest`` by now.

    Raises:
        ConfigError: a searched path or a value on it is none that a training takes; all faults are named.
        InputError: the store or the fold cannot be used.
    """
    base, tracking = _read_base(sweep)
    check_space(sweep, base)
    plan = plan_at(sweep, base, {}, sweep.output_dir)
    _check_workers(sweep, plan)
    store = plan.data.store
    plans = TrialPlans(
        sweep, base, tracking, pinned_store(store) if begun_store is None else type(store)(begun_store)
    )
    _check_first_points(plans)
    checked = plans.plan_of(0, {})
    check_plan(_selecting_by_objectives(sweep, checked))
    pass_audit(checked.data.store, checked.data.labels, checked.data.waive_audit)
    return plans


def check_space(sweep: SweepPlan, base: Mapping[str, Any]) -> None:
    """Validate every end of every axis alone, then the corners of the whole space.

    Raises:
        ConfigError: names every path that is wrong.
    """
    plan_at(sweep, base, {}, sweep.output_dir)
    faults: dict[str, str] = {}
    for path, axis in sweep.search.items():
        for value in axis.ends:
            try:
                found = plan_at(sweep, base, {path: value}, sweep.output_dir)
            except ConfigError as fault:
                faults.setdefault(path, f"search.{path}: {name_of(value)}: {_first_line(fault)}")
                continue
            _must_arrive(found, path, value, faults)
    if not faults:
        for corner in corners(sweep):
            try:
                plan_at(sweep, base, corner, sweep.output_dir)
            except ConfigError as fault:
                faults[str(corner)] = f"search: {_words(corner)} do not go together: {_first_line(fault)}"
                break
    if faults:
        raise ConfigError(
            str(sweep.training), "search", "\n".join(faults.values()), "correct the paths and values above"
        )


def corners(sweep: SweepPlan) -> Iterator[dict[str, Value]]:
    """Yield the corners of the search space; of very many the first, the last and a fixed draw."""
    ends = [axis.ends for axis in sweep.search.values()]
    paths = list(sweep.search)
    count = 1
    for values in ends:
        count *= len(values)
    if count <= _MOST_CORNERS:
        drawn: list[tuple[Value, ...]] = list(itertools.product(*ends))
    else:
        draw = random.Random(0)  # noqa: S311  no secret
        drawn = [tuple(values[0] for values in ends), tuple(values[-1] for values in ends)]
        drawn += [tuple(draw.choice(values) for values in ends) for _ in range(_MOST_CORNERS - 2)]
    for corner in drawn:
        yield dict(zip(paths, corner, strict=True))


def plan_at(sweep: SweepPlan, base: Mapping[str, Any], point: Point, folder: Path) -> TrainingPlan:
    """Return the plan of a training at a point of the search space.

    Raises:
        ConfigError: the values are none that a training takes.
    """
    own = {
        "output_dir": str(folder), "evaluation.test": False, "training.launcher": "ray", "training.resume": "auto",
    }  # fmt: skip
    content = with_changes(base, own, "sweep")
    for path, value in point.items():
        content = _with_value(content, path, value)
    return anchored(validate(TrainingPlan, content, f"{sweep.training} with search"), root_folder())


def _read_base(sweep: SweepPlan) -> tuple[dict[str, Any], dict[str, Any]]:
    content = read_yaml_mapping(sweep.training)
    tracking = content.pop("tracking", None) or {}
    return with_changes(content, sweep.overrides, "overrides"), tracking


def _with_value(content: dict[str, Any], path: str, value: Value) -> dict[str, Any]:
    """Set one value; a section stays one value, it is not merged into what is there."""
    *above, last = path.split(".")
    changed = with_changes(content, {".".join((*above, last)): None}, "search")
    place = changed
    for key in above:
        place = place[key]
    place[last] = copy.deepcopy(list(value) if isinstance(value, tuple) else value)
    return changed


def _check_first_points(plans: TrialPlans) -> None:
    for point in plans.first_points:
        for path, value in point.items():
            if not lies_on(plans.sweep.search[path], value):
                raise ConfigError(
                    str(plans.sweep.training), path, f"{value} of the training configuration does not lie on its axis",
                    f"widen search.{path}, or write base_first: false",
                )  # fmt: skip


def _must_arrive(plan: TrainingPlan, path: str, value: Value, faults: dict[str, str]) -> None:
    """Refuse a value that the settings take for another one, e.g. 0.5 for a whole number."""
    found = _at(plan.model_dump(mode="json"), path)
    if not isinstance(value, (dict, list, tuple)) and found != value:
        faults.setdefault(path, f"search.{path}: {value!r} becomes {found!r}")


def _selecting_by_objectives(sweep: SweepPlan, plan: TrainingPlan) -> TrainingPlan:
    """Return the plan with the objectives among its metrics, so that the check of those speaks of both."""
    wanted = [objective.metric for objective in sweep.objectives if objective.mode == "max"]
    names = tuple(dict.fromkeys([*plan.evaluation.select_by, *wanted]))
    return plan.model_copy(update={"evaluation": plan.evaluation.model_copy(update={"select_by": names})})


def _check_workers(sweep: SweepPlan, plan: TrainingPlan) -> None:
    if plan.training.least_workers != plan.training.most_workers:
        raise ConfigError(
            str(sweep.training), "training.workers", "a range; trials of a sweep share the cluster",
            f"write e.g. overrides: {{training.workers: {plan.training.least_workers}}}",
        )  # fmt: skip


def _at(content: Mapping[str, Any], path: str) -> Any:
    value: Any = content
    for key in path.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _first_line(fault: ConfigError) -> str:
    lines = [line.strip(" -") for line in fault.problem.splitlines()]
    return lines[1] if len(lines) > 1 else lines[0]


def _words(point: Point) -> str:
    return ", ".join(f"{path}={name_of(value)}" for path, value in point.items())

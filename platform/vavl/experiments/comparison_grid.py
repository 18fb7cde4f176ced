"""The runs of a comparison, checked before the first one starts."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any, NamedTuple

from vavl.audit.gate import pass_audit
from vavl.config.changes import with_changes
from vavl.config.load import read_yaml_mapping, validate
from vavl.config.places import anchored, root_folder
from vavl.errors import ConfigError
from vavl.experiments.comparison_settings import SINGLE_PROCESS, ComparisonPlan
from vavl.store.store_versions import pinned_store
from vavl.training.run_data import check_plan
from vavl.training.run_folder import begun_store, with_store
from vavl.training.settings import TrainingPlan

RUNS_FOLDER = "runs"


@dataclass(frozen=True)
class Cell:
    """One cell of the grid."""

    objective_set: str
    labelled_fraction: float  # of the training clips
    unpaired_share: float  # of the training pairs, half audio-only and half video-only
    fold: int
    seed: int

    @property
    def name(self) -> str:
        """``<set>/labels-10_unpaired-00/fold-0_seed-1``: directory and name of the run."""
        labels, unpaired = (
            f"{100 * share:g}".zfill(2) for share in (self.labelled_fraction, self.unpaired_share)
        )
        return f"{self.objective_set}/labels-{labels}_unpaired-{unpaired}/fold-{self.fold}_seed-{self.seed}"


@dataclass(frozen=True)
class PlannedRun:
    """One run, and the cells of the grid that it answers: equal settings are trained once."""

    plan: TrainingPlan
    cells: tuple[Cell, ...]

    @property
    def name(self) -> str:
        """Name of its first cell."""
        return self.cells[0].name


class LeftOut(NamedTuple):
    """A cell that cannot be trained, and why."""

    cell: Cell
    reason: str


@dataclass(frozen=True)
class Grid:
    """All cells of a comparison: runs in the order of starting, and what is left out."""

    runs: tuple[PlannedRun, ...]
    left_out: tuple[LeftOut, ...]

    @property
    def plans(self) -> dict[str, TrainingPlan]:
        """Plans by name of the run."""
        return {run.name: run.plan for run in self.runs}


def plan_grid(comparison: ComparisonPlan) -> Grid:
    """Validate the settings of every cell, and look whether its data allow a run.

    Seeds and folds change slowest, so that an unfinished comparison has all sets of the first ones.

    Raises:
        ConfigError: wrong settings of any set, no cell can be run, or a failed audit that is not waived.
        InputError: store or fold cannot be used.
    """
    first: dict[str, TrainingPlan] = {}
    cells: dict[str, list[Cell]] = {}
    reasons: dict[str, str | None] = {}
    left_out: list[LeftOut] = []
    with _each_warning_once(logging.getLogger(check_plan.__module__)):
        for cell, plan in _with_pinned_stores(cell_plans(comparison)):
            # The hash of the settings leaves the address of the store out.
            key = f"{plan.config_hash} {plan.data.store}"
            if key not in first:
                first[key], reasons[key] = plan, _reason_against(plan)
            if (reason := reasons[key]) is not None:
                left_out.append(LeftOut(cell, reason))
            else:
                cells.setdefault(key, []).append(cell)
    if not cells:
        raise ConfigError(
            str(comparison.training), "", f"no run of the comparison is possible; the first: {left_out[0].reason}",
            "correct the settings above",
        )  # fmt: skip
    runs = tuple(PlannedRun(first[key], tuple(answered)) for key, answered in cells.items())
    # A failed audit stops the comparison, not only the runs on its store.
    for store, labels, waive in dict.fromkeys(
        (data.store, data.labels, data.waive_audit) for data in (run.plan.data for run in runs)
    ):
        pass_audit(store, labels, waive)
    return Grid(runs, tuple(left_out))


def _with_pinned_stores(plans: list[tuple[Cell, TrainingPlan]]) -> list[tuple[Cell, TrainingPlan]]:
    """Name the version of every store in full, the same for all cells, as long as the directory is the same."""
    # Of several versions that were begun with the first run's counts.
    begun = {
        plan.data.store: begun_store(plan) for _, plan in reversed(plans) if begun_store(plan) is not None
    }
    pinned = {
        store: begun.get(store) or pinned_store(store) for store in {plan.data.store for _, plan in plans}
    }
    return [(cell, with_store(plan, pinned[plan.data.store])) for cell, plan in plans]


def cell_plans(comparison: ComparisonPlan) -> list[tuple[Cell, TrainingPlan]]:
    """Return the cells in the order of starting with their validated plans, without a look at the data.

    Raises:
        ConfigError: the settings of one or more sets are wrong; all of them are named.
    """
    path = comparison.training
    base = read_yaml_mapping(path)
    base.pop("tracking", None)  # the comparison has its own
    base = with_changes(base, comparison.overrides, "overrides")
    plans: list[tuple[Cell, TrainingPlan]] = []
    problems: dict[str, str] = {}
    for seed, fold, share, fraction, name in product(
        comparison.seeds, comparison.folds, comparison.unpaired_shares,
        comparison.labelled_fractions, comparison.objective_sets,
    ):  # fmt: skip
        cell, source = Cell(name, fraction, share, fold, seed), f"objective_sets.{name}"
        try:
            plan = validate(TrainingPlan, _content(comparison, base, cell), f"{path} with {source}")
            plans.append((cell, anchored(plan, root_folder())))
        except ConfigError as error:
            problems.setdefault(name, f"{source}: {error.problem}")
    if problems:
        raise ConfigError(str(path), "", "\n".join(problems.values()), "correct the keys above")
    return plans


def _content(comparison: ComparisonPlan, base: Mapping[str, Any], cell: Cell) -> dict[str, Any]:
    partition_seed = cell.seed if comparison.partition_seed is None else comparison.partition_seed
    grid = {
        "data.partitions.labelled_fraction": cell.labelled_fraction,
        "data.partitions.audio_only_share": cell.unpaired_share / 2,
        "data.partitions.video_only_share": cell.unpaired_share / 2,
        "data.partitions.seed": partition_seed,
    }
    own = {
        "output_dir": str(comparison.output_dir / RUNS_FOLDER / cell.name),
        "data.fold": cell.fold,
        "training.seed": cell.seed,
        "evaluation.test": comparison.test,
        **SINGLE_PROCESS,
    }
    changes = comparison.objective_sets[cell.objective_set]
    content = with_changes(
        with_changes(base, grid, "comparison"), changes, f"objective_sets.{cell.objective_set}"
    )
    return with_changes(content, own, "comparison")


def _reason_against(plan: TrainingPlan) -> str | None:
    """Say why the run is impossible with these data; a missing store or fold is an error of all."""
    try:
        check_plan(plan)
    except ConfigError as error:
        return ": ".join(part for part in (error.file, error.field, error.problem) if part)
    return None


@contextlib.contextmanager
def _each_warning_once(log: logging.Logger) -> Iterator[None]:
    """Let each warning of ``log`` through once, and nothing below: hundreds of runs would repeat themselves."""
    seen: dict[str, logging.LogRecord] = {}

    def is_news(record: logging.LogRecord) -> bool:
        return record.levelno >= logging.WARNING and seen.setdefault(record.getMessage(), record) is record

    log.addFilter(is_news)
    try:
        yield
    finally:
        log.removeFilter(is_news)

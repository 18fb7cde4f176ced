"""The runs of a comparison, checked before the first one starts."""

from __future__ import annotations

import logging
import secrets
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from vavl.audit.audit import pass_audit
from vavl.config.files import read_json, write_json
from vavl.config.load import read_yaml_mapping, validate, with_changes
from vavl.config.places import anchored, root_directory
from vavl.config.progress import in_words
from vavl.errors import ConfigError
from vavl.experiments.comparison_settings import SINGLE_PROCESS, ComparisonPlan
from vavl.experiments.trials import SUMMARY_FILE, Trial, TrialEnd, end_of
from vavl.metrics.names import CONDITIONS, metric_name
from vavl.store.store_versions import pinned_store
from vavl.training.launch import log_capacity
from vavl.training.run_data import check_plan
from vavl.training.run_directory import begun_store, is_finished, with_store
from vavl.training.settings import TrainingPlan, TrainingSettings

RUNS_DIRECTORY, COMPARISON_FILE = "runs", "comparison.json"
_log = logging.getLogger(__name__)


class Group(NamedTuple):
    """What a score of a comparison belongs to."""

    objective_set: str
    labelled_fraction: float  # of the training clips
    unpaired_share: float  # of the training pairs, half audio-only and half video-only


@dataclass(frozen=True)
class Cell:
    """One cell of the grid."""

    objective_set: str
    labelled_fraction: float
    unpaired_share: float
    fold: int
    seed: int

    @property
    def group(self) -> Group:
        """The cell without fold and seed."""
        return Group(self.objective_set, self.labelled_fraction, self.unpaired_share)

    @property
    def name(self) -> str:
        """``<set>/labels-10_unpaired-00/fold-0_seed-1``: directory and name of the run."""
        labels, unpaired = (f"{100 * share:g}".zfill(2) for share in (self.labelled_fraction, self.unpaired_share))
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


class Grid:
    """All runs of a comparison in the order of starting, handed out one after the other."""

    standing = ""

    def __init__(
        self,
        runs: Sequence[PlannedRun],
        left_out: Sequence[LeftOut],
        comparison: ComparisonPlan,
        warnings: Sequence[str] = (),
    ) -> None:
        self.runs, self.left_out, self.warnings = tuple(runs), tuple(left_out), warnings
        self.split, self._at_once = comparison.split, comparison.at_once
        self.kept = tuple(number for number, run in enumerate(self.runs) if is_finished(run.plan))
        self.ends: dict[int, TrialEnd] = {}
        self._waiting = deque(number for number in range(len(self.runs)) if number not in self.kept)

    @property
    def total(self) -> int:
        """Runs in all."""
        return len(self.runs)

    @property
    def done(self) -> int:
        """Runs that are kept or have ended."""
        return len(self.kept) + len(self.ends)

    @property
    def training(self) -> TrainingSettings:
        """What every run asks Ray for: the most that any of them does."""
        return max((run.plan.training for run in self.runs), key=lambda one: (one.gpus_per_worker, one.cpus_per_worker))

    def at_once(self, machines: Sequence[Mapping[str, float]], *, is_shared: bool) -> int:  # noqa: ARG002
        """Return the user's number, or all: Ray holds back what it has no resources for, and an autoscaler sees it."""
        return self._at_once or self.total

    def next_trial(self, running: int) -> Trial | None:  # noqa: ARG002
        """Return the run to start now, None when all have started."""
        if not self._waiting:
            return None
        number = self._waiting.popleft()
        run = self.runs[number]
        (run.plan.directory / SUMMARY_FILE).unlink(missing_ok=True)  # the end of an attempt that failed
        tags = {f"comparison.{name}": str(value) for name, value in asdict(run.cells[0]).items()}
        return Trial(number, run.name, run.plan, tags)

    def epoch_ended(self, number: int, record: Mapping[str, Any]) -> None:
        """Stop nothing: every run of a comparison is trained to its end."""

    def trial_ended(self, number: int, lost: str = "") -> TrialEnd:
        """Take in the end of a run; ``lost`` is what is known when its process died without leaving one."""
        self.ends[number] = end_of(self.runs[number].plan.directory, number, lost)
        return self.ends[number]

    def line_of(self, end: TrialEnd) -> str:
        """Return the end of a run as a line of the log: its scores, the best condition first."""
        name = self.runs[end.number].name
        if end.state == "failed":
            return f"{name} FAILED: {end.reason}"
        scores = [
            f"{condition} {end.metrics[metric]:.3f}"
            for condition in CONDITIONS
            for measure in ("accuracy", "ccc_mean")
            if (metric := metric_name(self.split, condition, measure)) in end.metrics
        ]
        return f"{name}: {self.split} {'  '.join(scores)}  ({end.seconds:.0f} s)"


def check_grid(comparison: ComparisonPlan) -> Grid:
    """Do what ``plan_grid`` does, and apply the audit of every store.

    Raises:
        ConfigError: also where a check of an audit failed that is not waived: that stops the whole comparison.
        InputError: see ``plan_grid``.
    """
    grid = plan_grid(comparison)
    for store, labels, waive in dict.fromkeys(
        (data.store, data.labels, data.waive_audit) for data in (run.plan.data for run in grid.runs)
    ):
        pass_audit(store, labels, waive)
    return grid


def plan_grid(comparison: ComparisonPlan) -> Grid:
    """Validate the settings of every cell, and look whether its data allow a run.

    Seeds and folds change slowest, so that an unfinished comparison has all sets of the first ones.

    Raises:
        ConfigError: wrong settings of any set, or no cell can be run.
        InputError: store or fold cannot be used.
    """
    first: dict[str, TrainingPlan] = {}
    cells: dict[str, list[Cell]] = {}
    reasons: dict[str, str | None] = {}
    left_out: list[LeftOut] = []
    warnings: dict[str, None] = {}  # in order, each once: hundreds of runs would repeat themselves
    for cell, plan in _with_pinned_stores(cell_plans(comparison)):
        # The hash of the settings leaves the address of the store out.
        key = f"{plan.config_hash} {plan.data.store}"
        if key not in first:
            first[key], reasons[key] = plan, _reason_against(plan, warnings)
        if (reason := reasons[key]) is not None:
            left_out.append(LeftOut(cell, reason))
        else:
            cells.setdefault(key, []).append(cell)
    if not cells:
        problem = f"no run of the comparison is possible; the first: {left_out[0].reason}"
        raise ConfigError(str(comparison.training), "", problem, "correct the settings above")
    runs = tuple(PlannedRun(first[key], tuple(answered)) for key, answered in cells.items())
    return Grid(runs, left_out, comparison, tuple(warnings))


def _with_pinned_stores(plans: list[tuple[Cell, TrainingPlan]]) -> list[tuple[Cell, TrainingPlan]]:
    """Name the version of every store in full, the same for all cells, as long as the directory is the same."""
    # Of several versions that were begun with, the first run's counts.
    begun = {plan.data.store: store for _, plan in reversed(plans) if (store := begun_store(plan)) is not None}
    pinned = {store: begun.get(store) or pinned_store(store) for store in {plan.data.store for _, plan in plans}}
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
    sets, fractions = comparison.objective_sets, comparison.labelled_fractions
    slowest_first = (comparison.seeds, comparison.folds, comparison.unpaired_shares, fractions, sets)
    for seed, fold, share, fraction, name in product(*slowest_first):
        cell, source = Cell(name, fraction, share, fold, seed), f"objective_sets.{name}"
        try:
            plan = validate(TrainingPlan, _content(comparison, base, cell), f"{path} with {source}")
            if plan.training.refit and (plan.training.refit_from or not plan.evaluation.test):
                problem = "training.refit: no run can be named, and nothing is measured on validation clips"
                raise ConfigError("comparison", "training.refit", problem, "set training.max_steps and test: true")
            plans.append((cell, anchored(plan, root_directory())))
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
        "output_dir": str(comparison.output_dir / RUNS_DIRECTORY / cell.name),
        "data.fold": cell.fold,
        "training.seed": cell.seed,
        "evaluation.test": comparison.test,
        **SINGLE_PROCESS,
    }
    changes = comparison.objective_sets[cell.objective_set]
    content = with_changes(with_changes(base, grid, "comparison"), changes, f"objective_sets.{cell.objective_set}")
    return with_changes(content, own, "comparison")


def _reason_against(plan: TrainingPlan, warnings: dict[str, None]) -> str | None:
    """Say why the run is impossible with its data, and add its warnings; a missing store or fold is an error of all."""
    try:
        warnings |= dict.fromkeys(check_plan(plan).warnings)
    except ConfigError as error:
        return ": ".join(part for part in (error.file, error.field, error.problem) if part)
    return None


def run_id_of(directory: Path) -> str:
    """Return the id of the directory's comparison, made once."""
    file = directory / COMPARISON_FILE
    if not file.exists():
        write_json(file, {"run_id": f"comparison-{secrets.token_hex(4)}"})
    return str(read_json(file)["run_id"])


def log_grid(comparison: ComparisonPlan, grid: Grid) -> None:
    """Log what is going to be compared: the grid, its number of runs, what is there already, what is left out."""
    titles = ("labeled fractions", "unpaired shares", "folds", "seeds")
    values = (comparison.labelled_fractions, comparison.unpaired_shares, comparison.folds, comparison.seeds)
    forced = ", ".join(f"{key}={value}" for key, value in SINGLE_PROCESS.items())
    left_out: dict[str, None] = {}  # in order, each once
    for cell, reason in grid.left_out:
        name, fraction, share = cell.group
        place = f"labels {100 * fraction:g} %, unpaired {100 * share:g} %"
        left_out[f"left out: {name}, {place}: {reason}"] = None
    for line in (
        f"objective sets: {', '.join(comparison.objective_sets)} (reference {comparison.reference_set})",
        " x ".join(
            f"{title} {'/'.join(f'{one:g}' for one in ones)}" for title, ones in zip(titles, values, strict=True)
        ),
        f"measured on {comparison.split}; every run is forced to: {forced}",
        _amount(grid),
        *left_out,
    ):
        _log.info(line)
    for warning in grid.warnings:
        _log.warning(warning)
    log_capacity(grid.training, "runs")


def _amount(grid: Grid) -> str:
    cells = sum(len(run.cells) for run in grid.runs)
    same = f" for {cells} cells, equal ones are trained once" if cells > len(grid.runs) else ""
    line = f"{len(grid.runs)} runs{same}; {len(grid.kept)} are finished already"
    if grid.kept:
        seconds = [read_json(grid.runs[number].plan.directory / SUMMARY_FILE)["seconds"] for number in grid.kept]
        mean, rest = sum(seconds) / len(seconds), grid.total - grid.done
        line += f"; a run took {mean:.0f} s, the {rest} left need about {in_words(rest * mean)} of one CPU"
    return line

"""What is going to be compared, before anything starts."""

from __future__ import annotations

import logging

from vavl.experiments.comparison_grid import Grid
from vavl.experiments.comparison_settings import SINGLE_PROCESS, ComparisonPlan
from vavl.experiments.many import is_finished, read_summary

_log = logging.getLogger(__name__)


def log_grid(comparison: ComparisonPlan, grid: Grid) -> None:
    """Log the grid, its number of runs, what is there already, and what is left out."""
    for line in grid_lines(comparison, grid):
        _log.info(line)


def grid_lines(comparison: ComparisonPlan, grid: Grid) -> list[str]:
    """Return the grid as lines of text."""
    forced = ", ".join(f"{key}={value}" for key, value in SINGLE_PROCESS.items())
    return [
        f"objective sets: {', '.join(comparison.objective_sets)} (reference {comparison.reference_set})",
        " x ".join(
            f"{title} {'/'.join(f'{value:g}' for value in values)}"
            for title, values in (
                ("labelled fractions", comparison.labelled_fractions),
                ("unpaired shares", comparison.unpaired_shares),
                ("folds", comparison.folds),
                ("seeds", comparison.seeds),
            )
        ),
        f"measured on {comparison.split}",
        f"every run is forced to: {forced}",
        _amount(grid),
        *_left_out(grid),
    ]


def _amount(grid: Grid) -> str:
    cells = sum(len(run.cells) for run in grid.runs)
    done = [run for run in grid.runs if is_finished(run.plan)]
    same = f" for {cells} cells, equal ones are trained once" if cells > len(grid.runs) else ""
    line = f"{len(grid.runs)} runs{same}; {len(done)} are finished already"
    if done:
        mean = sum(read_summary(run.plan.directory)["seconds"] for run in done) / len(done)
        rest = len(grid.runs) - len(done)
        line += (
            f"; a run took {mean:.0f} s, the {rest} left need about {rest * mean / 60:.0f} minutes of one CPU"
        )
    return line


def _left_out(grid: Grid) -> list[str]:
    """One line per set, fraction, share and reason."""
    lines = []
    for entry in grid.left_out:
        cell = entry.cell
        place = f"labels {100 * cell.labelled_fraction:g} %, unpaired {100 * cell.unpaired_share:g} %"
        lines.append(f"left out: {cell.objective_set}, {place}: {entry.reason}")
    return list(dict.fromkeys(lines))

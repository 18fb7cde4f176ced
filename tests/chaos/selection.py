"""Chooses faults from the whole schedule."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from scenario import Planned, Scenario


@dataclass(frozen=True)
class PlannedRun:
    """A run of the schedule.

    Attributes:
        name: of the run.
        faults: that are to hit it.
        make: makes the scenario of name and faults.
    """

    name: str
    faults: Sequence[Planned]
    make: Callable[[str, Sequence[Planned]], Scenario]


def choose(schedule: Sequence[PlannedRun], faults: int | None, only: str | None, runs: str | None) -> list[PlannedRun]:
    """Return the runs with the faults that are wanted.

    Args:
        schedule: of all runs, the most telling ones first.
        faults: how many; a few hit few runs, more than the schedule has repeat it; None = all.
        only: a kind of fault.
        runs: a part of the names of the runs.
    """
    fitting = [
        PlannedRun(run.name, [one for one in run.faults if only in (None, one.kind)], run.make)
        for run in schedule
        if runs is None or runs in run.name
    ]
    fitting = [run for run in fitting if run.faults]
    if not fitting:
        kinds = sorted({one.kind for run in schedule for one in run.faults})
        raise SystemExit(f"error: no run has such a fault; kinds: {', '.join(kinds)}")
    return fitting if faults is None else _limited(fitting, faults)


def _limited(schedule: Sequence[PlannedRun], faults: int) -> list[PlannedRun]:
    chosen: list[PlannedRun] = []
    left, turn = faults, 0
    while left > 0:
        turn += 1
        counts = _shares([len(run.faults) for run in schedule[: max(1, left // 2)]], left)
        suffix = "" if turn == 1 else f"-{turn}"
        chosen += [
            PlannedRun(f"{run.name}{suffix}", run.faults[:count], run.make)
            for run, count in zip(schedule, counts, strict=False)
            if count
        ]
        left -= sum(counts)
    return chosen


def _shares(most: Sequence[int], faults: int) -> list[int]:
    """Deal faults to runs in turn, to each as many as it can take."""
    counts = [0] * len(most)
    while faults > 0 and counts != list(most):
        for place, limit in enumerate(most):
            if faults > 0 and counts[place] < limit:
                counts[place] += 1
                faults -= 1
    return counts

"""What a person sees of a comparison while it goes on: a bar on a terminal, a line per finished run."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator

from rich.console import Console

from vavl.config.progress import progress_bar
from vavl.experiments.many import RunEnd
from vavl.metrics.names import CONDITIONS, metric_name

_log = logging.getLogger(__name__)


def show_runs(ends: Iterable[RunEnd], total: int, split: str) -> Iterator[RunEnd]:
    """Yield how runs end and show them.

    Args:
        ends: in the order of ending; kept ones first.
        total: number of runs.
        split: whose score is shown.
    """
    console = Console(stderr=True)
    bar = progress_bar(console) if console.is_terminal else None
    clock = _Clock(total)
    try:
        task = bar.add_task("training", total=total) if bar else None
        if bar:
            bar.start()
        for end in ends:
            clock.tick(end)
            if bar and task is not None:
                bar.advance(task)
            if end.state != "kept":
                line = f"run {clock.done}/{total} {_line(end, split)}{clock.left()}"
                if bar:
                    bar.console.print(line, highlight=False, markup=False)
                else:
                    _log.info(line)
            yield end
    finally:
        if bar:
            bar.stop()


class _Clock:
    """Counts runs and says how long the rest may take, from the runs that were trained now."""

    def __init__(self, total: int) -> None:
        self._total, self._start = total, time.monotonic()
        self.done = self._trained = 0

    def tick(self, end: RunEnd) -> None:
        """Count one run."""
        self.done += 1
        self._trained += end.state != "kept"

    def left(self) -> str:
        """Return the time left as text."""
        rest = self._total - self.done
        if not rest:
            return ""
        minutes = (time.monotonic() - self._start) / max(1, self._trained) * rest / 60
        return f"; about {minutes:.0f} min left" if minutes >= 1 else "; less than a minute left"


def _line(end: RunEnd, split: str) -> str:
    if end.state == "failed":
        return f"{end.name} FAILED: {end.reason}"
    scores = "  ".join(
        f"{condition} {end.metrics[name]:.3f}"
        for condition in CONDITIONS
        for name in (metric_name(split, condition, measure) for measure in ("accuracy", "ccc_mean"))
        if name in end.metrics
    )
    return f"{end.name}: {split} {scores}  ({end.seconds:.0f} s)"

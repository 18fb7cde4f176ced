"""What a person sees of a comparison while it goes on: a bar on a terminal, a line per finished run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from vavl.config.progress import Progress
from vavl.experiments.many import RunEnd
from vavl.metrics.names import CONDITIONS, metric_name


def show_runs(ends: Iterable[RunEnd], total: int, split: str) -> Iterator[RunEnd]:
    """Yield how runs end and show them.

    Args:
        ends: in the order of ending; kept ones first.
        total: number of runs.
        split: whose score is shown.
    """
    with Progress("training", total, counts=False) as progress:
        for end in ends:
            progress.advance()
            if end.state != "kept":
                left = f"; {progress.left}" if progress.left else ""
                progress.line(f"run {progress.done}/{total} {_line(end, split)}{left}")
            yield end


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

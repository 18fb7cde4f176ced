"""What a person sees in the terminal: what was found, and for a few clips the predictions themselves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa
from rich.console import Console
from rich.table import Table

from vavl.metrics.names import CONDITIONS
from vavl.models.settings import ClassTask
from vavl.prediction.plan import PredictionPlan
from vavl.prediction.rows import value_columns
from vavl.reports.theme import CONDITION_TITLES

_MOST_CLIPS = 3
_MOST_PROBLEMS = 5


def plan_rows(plan: PredictionPlan, model_title: str) -> list[tuple[str, str]]:
    """Return what is about to be predicted, for a table of two columns."""
    found = plan.found
    rows = [("model", f"{model_title} ({plan.model_hash})"), (found.kind, f"{len(found.clips)} clips")]
    # A store knows its sides when its features are opened.
    known = {
        sides: count for sides, count in found.counts.items() if (found.kind, sides) != ("store", "neither")
    }
    rows += [(sides, f"{count} clips, as far as names say") for sides, count in known.items()]
    wanted = plan.conditions or ("what each clip has",)
    rows.append(("conditions", ", ".join(CONDITION_TITLES.get(name, name) for name in wanted)))
    rows += [("not looked at", f"{count} {what}") for what, count in found.left_out.items()]
    rows += [
        ("left out", f"{side} of every clip: its features {why}") for side, why in plan.unavailable.items()
    ]
    rows += [("problem", line) for line in _problems(plan)]
    return rows


def print_predictions(table: pa.Table, plan: PredictionPlan) -> None:
    """Print the predictions of few clips: a column for each condition, a row for each class or attribute."""
    if len(plan.found.clips) > _MOST_CLIPS:
        return
    console = Console(highlight=False)
    for clip in plan.found.clips:
        rows = [row for row in table.to_pylist() if row["clip_id"] == clip.clip_id]
        told = {row["condition"]: row for row in rows if row["condition"] is not None}
        if told:
            console.print(_table(clip.clip_id, told, plan))
        if rows[0]["error"]:
            console.print(f"{clip.clip_id}: {rows[0]['error']}", markup=False)


def _table(clip_id: str, told: Mapping[str, Mapping[str, Any]], plan: PredictionPlan) -> Table:
    drawn = Table(title=f"\n{clip_id}", title_justify="left", title_style="bold", box=None, padding=(0, 2))
    drawn.add_column("")
    conditions = [name for name in CONDITIONS if name in told]
    for name in conditions:
        drawn.add_column(CONDITION_TITLES[name], justify="right")
    is_classes = isinstance(plan.model.task, ClassTask)
    if is_classes:
        drawn.add_row("label", *(f"[bold]{told[name]['label']}[/bold]" for name in conditions))
    for column in value_columns(plan.model.task):
        numbers = (_number(told[name][column], is_share=is_classes) for name in conditions)
        drawn.add_row(column.removeprefix("probability_"), *numbers)
    return drawn


def _number(value: float, *, is_share: bool) -> str:
    return f"{100 * value:.1f} %" if is_share else f"{value:.3f}"


def _problems(plan: PredictionPlan) -> Iterator[str]:
    bad = [clip for clip in plan.found.clips if clip.problem is not None]
    for clip in bad[:_MOST_PROBLEMS]:
        yield f"{clip.clip_id}: {clip.problem}"
    if len(bad) > _MOST_PROBLEMS:
        yield f"and {len(bad) - _MOST_PROBLEMS} more"

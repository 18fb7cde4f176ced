"""The results of a prediction as files: a row per clip, what failed, and what a program wants to know."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import csv
from rich.console import Console
from rich.table import Table

from vavl.config.files import written_beside
from vavl.errors import PredictionError
from vavl.metrics.names import CONDITIONS
from vavl.models.settings import AttributeTask, ClassTask
from vavl.prediction.plan import PredictionPlan
from vavl.prediction.predict import PredictionResult
from vavl.prediction.worker import FACE_COLUMNS, value_columns
from vavl.reports.theme import CONDITION_TITLES

PARQUET, CSV, FAILURES = "predictions.parquet", "predictions.csv", "failures.csv"
_FAILURE_SCHEMA = pa.schema([(name, pa.string()) for name in ("clip_id", "side", "file", "problem")])
_NUMBERS = re.compile(r"\d[\d.,]*")
_MOST_REASONS, _MOST_CLIPS, _MOST_PROBLEMS = 20, 3, 5


def result_table(result: PredictionResult) -> pa.Table:
    """Return the rows of all clips in the order of the input, conditions in the order of every table.

    Columns: clip_id, corpus, speaker, split, condition, label, one per class (``probability_<class>``) or
    attribute, error, audio_seconds, video_seconds, audio_path, video_path, out_of_distribution, distance, warning,
    start_s, end_s, face_track, face_start_s, face_end_s, face_box.
    """
    plan = result.plan
    joined = plan.found.table(plan.keys).join(result.rows, "key", join_type="inner")
    ordered = joined.sort_by([("place", "ascending"), ("rank", "ascending")])
    ordered = ordered.append_column("out_of_distribution", pc.greater(ordered["distance"], 1.0))
    first = ("clip_id", "corpus", "speaker", "split", "condition", "label", *value_columns(plan.model.task), "error")
    media = ("audio_seconds", "video_seconds", "audio_path", "video_path")
    rest = ("out_of_distribution", "distance", "warning", "start_s", "end_s")
    return ordered.select([*first, *media, *rest, *FACE_COLUMNS])


def write_results(result: PredictionResult, table: pa.Table) -> dict[str, str]:
    """Write the rows as Parquet and CSV, and the list of failures; return the files by kind."""
    names = {"parquet": PARQUET, "csv": CSV, "failures": FAILURES}
    files = {kind: result.directory / name for kind, name in names.items()}
    with written_beside(files["parquet"]) as partial:
        pq.write_table(table, partial)
    failures = pa.Table.from_pylist(list(_failures(result)), schema=_FAILURE_SCHEMA)
    for kind, content in (("csv", table), ("failures", failures)):
        with written_beside(files[kind]) as partial:
            csv.write_csv(content, partial)
    return {kind: str(file) for kind, file in files.items()}


def prediction_summary(
    result: PredictionResult, table: pa.Table, model: Mapping[str, Any], files: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the content of summary.json.

    Keys: ``input``, its kind; ``clips``; ``predicted``, clips with a prediction; ``failed``, clips without;
    ``one_side``, predicted clips of which a modality could not be read; ``failed_by_reason``, files by what is wrong
    with them, numbers as N; ``conditions`` -> rows; ``labels``: condition -> class -> rows (``attributes``:
    condition -> name -> mean); ``kept`` from earlier, ``worked_on`` this time, ``seconds`` and
    ``clips_per_second`` of this time; ``unavailable``: side whose features cannot be made here -> why;
    ``left_out`` of the directory -> files; ``warned``, where there are warnings: rows by
    warning; ``model``: ``address``, ``name``, ``version``, ``mlflow_run_id``, ``hash``; ``files``.
    """
    answered = table.filter(pc.is_valid(table["condition"]))
    clips = len(result.plan.found.clips)
    predicted = len(pc.unique(answered["clip_id"]))
    one_side = len(pc.unique(answered.filter(pc.is_valid(answered["error"]))["clip_id"]))
    is_attributes = isinstance(result.plan.model.task, AttributeTask)
    # Numbers stand in brackets behind what is unusual.
    given = (text for text in answered["warning"].to_pylist() if text)
    warned = Counter(warning.partition(" (")[0] for text in given for warning in text.split("; "))
    return {
        "input": result.plan.found.kind,
        "clips": clips,
        "predicted": predicted,
        "failed": clips - predicted,
        "one_side": one_side,
        "failed_by_reason": failures_by_reason(result),
        "conditions": _counts(answered["condition"], CONDITIONS),
        ("attributes" if is_attributes else "labels"): {
            condition: {name: float(pc.mean(rows[name]).as_py()) for name in value_columns(result.plan.model.task)}
            if is_attributes
            else _counts(rows["label"])
            for condition in CONDITIONS
            if len(rows := answered.filter(pc.equal(answered["condition"], condition)))
        },
        "kept": result.kept,
        "worked_on": result.worked_on,
        "seconds": round(result.seconds, 3),
        "clips_per_second": round(result.worked_on / max(result.seconds, 1e-6), 3),
        "unavailable": dict(result.plan.unavailable),
        "left_out": dict(result.plan.found.left_out),
        **({"warned": dict(warned.most_common(_MOST_REASONS))} if warned else {}),
        "model": {**model, "hash": result.plan.model_hash},
        "files": dict(files),
    }


def failures_by_reason(result: PredictionResult) -> dict[str, int]:
    """Return how many files have the same thing wrong with them; the most common first."""
    # What follows a colon is of one file: places, names, the words of a library.
    reasons = Counter(
        f"{failure['side']}: {_NUMBERS.sub('N', failure['problem'].partition(': ')[0])}".removeprefix(": ")
        for failure in _failures(result)
    )
    return dict(reasons.most_common(_MOST_REASONS))


def summary_rows(summary: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Return the rows of the table that the job prints."""
    rows: list[tuple[str, Any]] = [
        ("clips", "{clips}: {predicted} predicted, {failed} not, {one_side} by one modality alone".format(**summary)),
        ("this time", "{worked_on} in {seconds} s, {clips_per_second} per second; {kept} kept".format(**summary)),
    ]
    for condition, counts in summary.get("labels", {}).items():
        rows.append((condition, ", ".join(f"{label} {count}" for label, count in counts.items())))
    for condition, means in summary.get("attributes", {}).items():
        rows.append((condition, ", ".join(f"mean {name} {value:.2f}" for name, value in means.items())))
    rows += [(f"{count} rows", reason) for reason, count in summary.get("warned", {}).items()]
    rows += [(f"{count} failed", reason) for reason, count in list(summary["failed_by_reason"].items())[:5]]
    rows += [(kind, file) for kind, file in summary["files"].items() if not isinstance(file, list)]
    return rows


def refuse_nothing(result: PredictionResult, summary: Mapping[str, Any]) -> None:
    """End the job with exit code 1 where no clip at all could be predicted.

    Raises:
        PredictionError: with the most common reason.
    """
    if summary["predicted"]:
        return
    reason = next(iter(summary["failed_by_reason"]), "unknown")
    problem = f"none of {summary['clips']} clips could be predicted, e.g. {reason}"
    fix = "look at the files listed there; the same command then tries them again"
    raise PredictionError(str(result.directory / FAILURES), "", problem, fix)


def _failures(result: PredictionResult) -> Iterator[dict[str, str]]:
    """Yield what is wrong with clips and their sides, each once, in the order of the clips."""
    bad = result.rows.filter(pc.is_valid(result.rows["error"]))
    problems = dict(zip(bad["key"].to_pylist(), bad["problems"].to_pylist(), strict=True))
    for key, clip in zip(result.plan.keys, result.plan.found.clips, strict=True):
        for problem in json.loads(problems[key]) if key in problems else ():
            yield {"clip_id": clip.clip_id, **problem}


def _counts(values: pa.ChunkedArray, order: Sequence[str] = ()) -> dict[str, int]:
    counts = Counter(value for value in values.to_pylist() if value is not None)
    return {name: counts[name] for name in order if name in counts} or dict(counts.most_common())


def plan_rows(plan: PredictionPlan, model_title: str) -> list[tuple[str, str]]:
    """Return what is about to be predicted, for a table of two columns."""
    found = plan.found
    rows = [("model", f"{model_title} ({plan.model_hash})"), (found.kind, f"{len(found.clips)} clips")]
    # A store knows its sides when its features are opened.
    known = {sides: count for sides, count in found.counts.items() if (found.kind, sides) != ("store", "neither")}
    rows += [(sides, f"{count} clips, as far as names say") for sides, count in known.items()]
    wanted = plan.conditions or ("what each clip has",)
    rows.append(("conditions", ", ".join(CONDITION_TITLES.get(name, name) for name in wanted)))
    rows += [("not looked at", f"{count} {what}") for what, count in found.left_out.items()]
    rows += [("left out", f"{side} of every clip: its features {why}") for side, why in plan.unavailable.items()]
    bad = [clip for clip in found.clips if clip.problem is not None]
    rows += [("problem", f"{clip.clip_id}: {clip.problem}") for clip in bad[:_MOST_PROBLEMS]]
    return rows + [("problem", f"and {len(bad) - _MOST_PROBLEMS} more")] * (len(bad) > _MOST_PROBLEMS)


def print_predictions(table: pa.Table, plan: PredictionPlan) -> None:
    """Print the predictions of few clips: a column for each condition, a row for each class or attribute."""
    if len(plan.found.clips) > _MOST_CLIPS:
        return
    console = Console(highlight=False)
    for clip in plan.found.clips:
        rows = [row for row in table.to_pylist() if row["clip_id"] == clip.clip_id]
        for face in dict.fromkeys(row["face_track"] for row in rows):
            told = {row["condition"]: row for row in rows if row["condition"] and row["face_track"] == face}
            title = clip.clip_id if face is None else f"{clip.clip_id}, face {face}"
            if told:
                console.print(_table(title, told, plan))
        for text in dict.fromkeys((rows[0]["error"], *(row["warning"] for row in rows))):
            if text:
                console.print(f"{clip.clip_id}: {text}", markup=False)


def _table(clip_id: str, told: Mapping[str, Mapping[str, Any]], plan: PredictionPlan) -> Table:
    drawn = Table(title=f"\n{clip_id}", title_justify="left", title_style="bold", box=None, padding=(0, 2))
    drawn.add_column("")
    conditions = [name for name in CONDITIONS if name in told]
    for name in conditions:
        drawn.add_column(CONDITION_TITLES[name], justify="right")
    is_classes = isinstance(plan.model.task, ClassTask)
    if is_classes:
        drawn.add_row("label", *(f"[bold]{told[name]['label'] or 'none'}[/bold]" for name in conditions))
    for column in value_columns(plan.model.task):
        values = [told[name][column] for name in conditions]
        texts = [f"{100 * value:.1f} %" if is_classes else f"{value:.3f}" for value in values]
        drawn.add_row(column.removeprefix("probability_"), *texts)
    return drawn

"""What a sweep leaves: ``summary.json``, ``trials.csv``, ``best.yaml``, and the table on the screen."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, get_args

import psutil
import yaml

from vavl.config.base import FrozenConfig
from vavl.config.files import write_json, write_text
from vavl.config.snapshot import resolved_settings
from vavl.errors import TrainingError
from vavl.experiments.study import BASE_TRIAL, State, storage_address
from vavl.experiments.sweep import SweepResult, winning_settings, words_of
from vavl.experiments.sweep_settings import name_of
from vavl.experiments.trial import TrialEnd

SUMMARY_FILE, TABLE_FILE, BEST_FILE = "summary.json", "trials.csv", "best.yaml"
_STATES: tuple[State, ...] = get_args(State)


def sweep_summary(result: SweepResult) -> dict[str, Any]:
    """Return the content of ``summary.json`` but for what the tracking server adds.

    Keys: ``trials``, ``finished``, ``pruned`` (stopped before their end), ``failed``; ``failures``: number and
    reason of each; ``epochs_run``, ``epochs_full`` (without any stop; failed trials left out), ``epochs_saved``
    (share); ``best``: ``trial``, ``overrides`` (by dotted path), ``metrics`` (validation, of its best epoch),
    None without a finished trial; ``base``: likewise of the training configuration's own values; ``gain``: best
    minus base by objective; ``front``: trials that no other beats in every objective; ``importances``;
    ``winning_config``: path of ``best.yaml``; ``study``: ``name`` and ``storage``, as the Optuna dashboard wants them;
    ``seconds`` of this command so far, ``training_seconds`` of the last attempts of all trials together,
    ``memory_gb`` of the largest trial; ``gave_up``.
    """
    plan, (run, full) = result.plan, result.epochs
    best, base = result.best, result.base
    gain = {
        goal.metric: best.metrics[goal.metric] - base.metrics[goal.metric] for goal in plan.objectives
    } if best and base else {}  # fmt: skip
    return {
        "trials": len(result.ends),
        **{state: result.count(state) for state in _STATES},
        "failures": [
            {"trial": end.number, "reason": end.reason} for end in result.ends if end.state == "failed"
        ],
        "objectives": [goal.model_dump() for goal in plan.objectives],
        "epochs_run": run,
        "epochs_full": full,
        "epochs_saved": result.saved_share,
        "best": _entry(result, best),
        "base": _entry(result, base),
        "gain": gain,
        "front": list(result.front),
        "importances": dict(result.importances),
        "winning_config": str(plan.output_dir / BEST_FILE) if best else None,
        "study": {"name": f"{plan.output_dir.name} {result.run_id}", "storage": storage_address(plan)},
        "seconds": time.time() - psutil.Process().create_time(),
        "training_seconds": sum(end.seconds for end in result.ends),
        "memory_gb": max((end.memory_gb for end in result.ends if end.memory_gb), default=None),
        "gave_up": result.gave_up,
    }


def write_results(result: SweepResult, tracking: FrozenConfig, further: Mapping[str, Any]) -> list[Path]:
    """Write ``summary.json`` with ``further`` keys, ``trials.csv`` and ``best.yaml``; return the files."""
    folder = result.plan.output_dir
    write_json(folder / SUMMARY_FILE, {**sweep_summary(result), **further})
    write_text(folder / TABLE_FILE, _table(result))
    files = [folder / SUMMARY_FILE, folder / TABLE_FILE]
    if result.best is not None:
        content = winning_settings(result, resolved_settings(tracking))
        head = (
            f"# The best of {len(result.ends)} trials, trial {result.best.number} of {folder}: "
            f"{words_of(result.points[result.best.number])}\n# python jobs/train_model.py {folder / BEST_FILE}\n"
        )
        write_text(folder / BEST_FILE, head + yaml.safe_dump(content, sort_keys=False, allow_unicode=True))
        files.append(folder / BEST_FILE)
    return files


def result_rows(result: SweepResult, kept: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the rows of the table that the job prints."""
    run, full = result.epochs
    rows = [
        ("trials", f"{len(result.ends)}: {', '.join(f'{result.count(state)} {state}' for state in _STATES)}"),
        ("epochs", f"{run} of {full}, {100 * result.saved_share:.0f} % saved by early stopping"),
    ]  # fmt: skip
    for title, end in (("best", result.best), ("base", result.base)):
        if end is not None:
            rows.append(
                (
                    title,
                    f"{scores_in_words(result, end)}   trial {end.number}: {words_of(result.points[end.number])}",
                )
            )
    if result.best is None:
        rows.append(("best", "no trial has finished"))
    rows += [
        ("failed", f"trial {end.number}: {end.reason.splitlines()[0]}")
        for end in result.ends
        if end.state == "failed"
    ]
    if kept.get("model_name"):
        rows.append(
            ("model", f"{kept['model_name']}, version {kept.get('model_version') or 'not registered yet'}")
        )
    return [*rows, ("MLflow run", str(kept.get("mlflow_run_id") or "not written yet; the journal has it"))]


def scores_in_words(result: SweepResult, end: TrialEnd) -> str:
    """Write the objectives of a trial in one line."""
    return "  ".join(
        f"{goal.metric.partition('/')[2]} {end.metrics[goal.metric]:.3f}"
        for goal in result.plan.objectives
        if goal.metric in end.metrics
    )


def refuse_nothing_found(result: SweepResult) -> None:
    """Raise when no trial has finished; everything else is written by then.

    Raises:
        TrainingError: names the first failed trial and its reason.
    """
    if result.best is None:
        failed = next((end for end in result.ends if end.state == "failed"), None)
        why = (
            f"trial {failed.number}: {failed.reason}"
            if failed
            else "all trials were stopped before their end"
        )
        raise TrainingError(
            str(result.plan.output_dir / SUMMARY_FILE), "best", f"no trial has finished; {why}",
            "repair the cause and start with another output_dir, or with more trials",
        )  # fmt: skip


def _entry(result: SweepResult, end: TrialEnd | None) -> dict[str, Any] | None:
    if end is None:
        return None
    return {"trial": end.number, "overrides": dict(result.points[end.number]), "metrics": dict(end.metrics)}


def _table(result: SweepResult) -> str:
    """One row per trial."""
    text = io.StringIO()
    metrics = [goal.metric for goal in result.plan.objectives]
    columns = ["trial", "state", *metrics, *result.plan.search]
    columns += ["is_base", "epochs_run", "epochs_full", "seconds", "memory_gb", "reason"]
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(_rows(result, metrics))
    return text.getvalue()


def _rows(result: SweepResult, metrics: Iterable[str]) -> Iterable[dict[str, Any]]:
    names = list(metrics)
    for end in result.ends:
        point = result.points.get(end.number, {})
        yield {
            "trial": end.number, "state": end.state, **{name: end.metrics.get(name) for name in names},
            **{path: name_of(value) for path, value in point.items()},
            "is_base": result.base is not None and end.number == BASE_TRIAL, "epochs_run": end.epochs_run,
            "epochs_full": end.epochs_full, "seconds": round(end.seconds, 1), "memory_gb": end.memory_gb,
            "reason": end.reason,
        }  # fmt: skip

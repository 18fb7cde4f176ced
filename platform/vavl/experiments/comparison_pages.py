"""The report of a comparison, put together from its results."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

from vavl.experiments.comparison_content import ComparisonReport, ScorePoint
from vavl.experiments.comparison_report import PICTURES_FOLDER, write_comparison_report
from vavl.experiments.comparison_result import Comparison, waived_checks
from vavl.experiments.comparison_scores import GroupScore
from vavl.experiments.comparison_settings import SINGLE_PROCESS
from vavl.training.training_result import corpus_words, label_words


def write_pages(comparison: Comparison) -> list[Path]:
    """Write ``report.html`` and ``pictures/`` into the folder of the comparison; nothing without scores."""
    if not comparison.finished:
        return []
    folder = comparison.plan.output_dir
    report = write_comparison_report(comparison_report(comparison), folder)
    return [report, folder / PICTURES_FOLDER]


def comparison_report(comparison: Comparison) -> ComparisonReport:
    """Return what the report states."""
    plan, first = comparison.plan, comparison.finished[0].summary
    seconds = [entry.summary["seconds"] for entry in comparison.finished]
    return ComparisonReport(
        title=f"Objectives compared on {first['corpus']}",
        corpus=corpus_words(first),
        protocol=f"{first['protocol']}, folds {', '.join(str(fold) for fold in plan.folds)}",
        label_target=label_words(first),
        speaker_normalisation=first["speaker_normalisation"],
        waived_audit=waived_checks(comparison),
        split=plan.split,
        measure=comparison.main_measure.replace("_", " "),
        is_share=not comparison.main_measure.startswith("ccc"),
        reference=plan.reference_set,
        sets=list(plan.objective_sets),
        scores=list(_points(comparison.scores, comparison.main_measure)),
        differences=list(_points(comparison.differences, comparison.main_measure)),
        left_out={entry.cell.name: entry.reason for entry in comparison.left_out},
        failed={end.name: end.reason for end in comparison.failed},
        facts={
            "base configuration": plan.training,
            "folds": ", ".join(str(fold) for fold in plan.folds),
            "seeds": ", ".join(str(seed) for seed in plan.seeds),
            "runs": f"{len(seconds)}, {sum(seconds) / len(seconds):.0f} s each",
            "objective sets": "; ".join(
                f"{name}: {', '.join(f'{key}={value}' for key, value in changes.items()) or 'as the base'}"
                for name, changes in plan.objective_sets.items()
            ),
            "forced for every run": ", ".join(f"{key}={value}" for key, value in SINGLE_PROCESS.items()),
            "feature store hash": first["store_hash"],
        },
    )


def _points(entries: Iterable[GroupScore], measure: str) -> Iterable[ScorePoint]:
    for entry in entries:
        interval = entry.interval
        if entry.measure == measure and math.isfinite(interval.low):
            yield ScorePoint(
                *entry.group,
                entry.condition,
                interval.value,
                interval.low,
                interval.high,
                entry.runs,
                entry.against,
            )

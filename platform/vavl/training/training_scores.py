"""The scores of a training as tiles, table and bars."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

from vavl.metrics.names import CONDITIONS, SPLITS, TEST, metric_name
from vavl.reports import page
from vavl.reports.page import Bar, Html, Tile
from vavl.reports.theme import CONDITION_TITLES
from vavl.training.training_content import TrainingReport

# Metric, its title, and whether it is a share shown in percent. Only those that were measured appear.
_COLUMNS = (
    ("accuracy", "accuracy %", True),
    ("uar", "UAR %", True),
    ("f1_macro", "F1 %", True),
    ("ccc_mean", "CCC", False),
    ("ccc_arousal", "arousal", False),
    ("ccc_valence", "valence", False),
    ("ccc_dominance", "dominance", False),
    ("calibration_error", "ECE %", True),
    ("loss", "loss", False),
    ("clips", "clips", False),
)
_MEANINGS = {
    "uar": "UAR: mean recall over the classes.",
    "f1_macro": "F1: mean over the classes.",
    "calibration_error": "ECE: expected calibration error.",
    "ccc_mean": "CCC: concordance correlation.",
}
_HEADLINES = (("accuracy", "accuracy", True), ("ccc_mean", "mean CCC", False))


def tiles(report: TrainingReport) -> list[Tile]:
    """Return the main score of each condition on the headline split."""
    split = report.headline_split
    return [
        Tile(f"{100 * value:.1f} %" if is_share else f"{value:.3f}", f"{split}, {title}: {name}", condition)
        for condition, title in CONDITION_TITLES.items()
        for metric, name, is_share in _HEADLINES
        if split and (value := report.metrics.get(metric_name(split, condition, metric))) is not None
    ]


def score_table(report: TrainingReport) -> Html:
    """Return the table of all scores per split and condition."""
    shown = _shown_columns(report)
    rows: list[list[str | Html]] = []
    for split in SPLITS:
        cells = _condition_rows(report, split, shown)
        if cells:
            rows += [[split], *cells]
    return page.table(["", *(title for _, title, _ in shown)], rows)


def corpus_table(report: TrainingReport) -> Html:
    """Return the table of the scores of each corpus on the split of the confusion matrices."""
    shown = _shown_columns(report)
    rows: list[list[str | Html]] = []
    for corpus, metrics in report.by_corpus.items():
        own = replace(report, metrics=metrics, intervals={})
        rows += [[corpus], *_condition_rows(own, report.confusion_split, shown)]
    return page.table(["", *(title for _, title, _ in shown)], rows)


def score_note(report: TrainingReport) -> str:
    """Return what a reader of the table has to know."""
    sentences = []
    if report.best_epoch is not None:
        sentences.append(f"Epoch {report.best_epoch}, chosen on validation.")
    if report.headline_split != TEST:
        sentences.append("Test was not measured (evaluation.test: false).")
    if report.intervals:
        sentences.append("In small print: 95 % intervals.")
    names = {name.rsplit("/", 1)[-1] for name in report.metrics}
    sentences += [meaning for metric, meaning in _MEANINGS.items() if metric in names]
    return " ".join(sentences)


def comparison(report: TrainingReport) -> Html | None:
    """Return bars of the own accuracies beside chance and the yard-sticks; None without accuracies."""
    split = report.headline_split
    own = [
        Bar(f"this model, {CONDITION_TITLES[condition]}", 100 * value, condition)
        for condition in CONDITIONS
        if split and (value := report.metrics.get(metric_name(split, condition, "accuracy"))) is not None
    ]
    if not own:
        return None
    others = [Bar(stick.name, stick.accuracy_percent, note=stick.protocol) for stick in report.yardsticks]
    chance = [Bar("chance", 100 / len(report.classes))] if report.classes else []
    note = "A yard-stick compares only as far as its clips, folds and inputs are the same." if others else ""
    return page.section(
        f"Accuracy on {split} beside yard-sticks (%)", page.bars([*own, *others, *chance]), note=note
    )


def missing_conditions(report: TrainingReport) -> Iterator[str]:
    """Yield the titles of conditions that were not measured on the headline split."""
    for condition, title in CONDITION_TITLES.items():
        if not any(name.startswith(f"{report.headline_split}/{condition}/") for name in report.metrics):
            yield title


def _shown_columns(report: TrainingReport) -> list[tuple[str, str, bool]]:
    measured = {name.rsplit("/", 1)[-1] for name in report.metrics}
    return [column for column in _COLUMNS if column[0] in measured]


def _condition_rows(
    report: TrainingReport, split: str, shown: Sequence[tuple[str, str, bool]]
) -> list[list[str | Html]]:
    """Return the rows of the conditions that were measured on a split."""
    return [
        [
            CONDITION_TITLES[condition],
            *(
                _cell(report, metric_name(split, condition, metric), is_share)
                for metric, _, is_share in shown
            ),
        ]
        for condition in CONDITIONS
        if any(name.startswith(f"{split}/{condition}/") for name in report.metrics)
    ]


def _cell(report: TrainingReport, name: str, is_share: bool) -> str | Html:
    value = report.metrics.get(name)
    if value is None or math.isnan(value):
        return "-"
    if name.endswith("/clips"):
        return f"{value:.0f}"
    scale, digits = (100, 1) if is_share else (1, 3)
    text = f"{scale * value:.{digits}f}"
    if name in report.intervals:
        low, high = report.intervals[name]
        return page.with_small(text, f"{scale * low:.{digits}f} to {scale * high:.{digits}f}")
    return text

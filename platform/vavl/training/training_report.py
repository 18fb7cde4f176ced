"""The report of a training: what was measured on what, with pictures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from vavl.metrics.names import CONDITIONS, SPLITS, VALIDATION, metric_name
from vavl.reports import page
from vavl.reports.page import Html
from vavl.reports.pictures import (
    Curve,
    Picture,
    confusion_figure,
    curves_figure,
    reliability_figure,
    write_pictures,
)
from vavl.reports.theme import CONDITION_TITLES
from vavl.training.training_content import EventNote, TrainingReport
from vavl.training.training_scores import (
    comparison,
    corpus_table,
    missing_conditions,
    score_note,
    score_table,
    tiles,
)

# Metric over epochs, its title, and whether it is a share shown in percent.
_CURVES = (("accuracy", "accuracy", True), ("ccc_mean", "mean CCC", False), ("loss", "loss", False))
_TRAIN_LOSS = "train/loss/total"


def write_training_report(report: TrainingReport, folder: Path) -> Path:
    """Write ``report.html`` and ``pictures/*.png`` into ``folder``; returns the page's path."""
    drawn = report_pictures(report)
    write_pictures(drawn, folder / "pictures")
    subtitle = f"{report.corpus} · {report.protocol} · label target: {report.label_target}"
    return page.write_page(folder / "report.html", report.title, subtitle, _parts(report, drawn))


def report_pictures(report: TrainingReport) -> list[Picture]:
    """Return the pictures of a report: confusions, reliability, learning curves."""
    found = [
        Picture(
            f"confusion_{condition}",
            f"{CONDITION_TITLES[condition]}: percent of each true class",
            f"Confusion matrix of {CONDITION_TITLES[condition]} on {report.confusion_split}",
            partial(confusion_figure, report.confusion[condition], report.classes),
        )
        for condition in CONDITIONS
        if condition in report.confusion
    ]
    found += _curve_pictures(report)
    if report.reliability:
        found.append(
            Picture(
                "reliability",
                f"{report.confusion_split}: below the diagonal is overconfident, larger points hold more clips",
                "Stated confidence against the share of right predictions",
                partial(reliability_figure, report.reliability, titles=CONDITION_TITLES),
            )
        )
    return found


def _parts(report: TrainingReport, drawn: Sequence[Picture]) -> Iterator[Html]:
    yield from _marks(report)
    yield from _scores(report)
    beside = comparison(report)
    yield page.columns(_origin(report), *([beside] if beside else []))
    confusions = [picture for picture in drawn if picture.name.startswith("confusion_")]
    others = [picture for picture in drawn if picture not in confusions]
    if confusions:
        yield page.section(f"Confusions on {report.confusion_split}", page.pictures(confusions))
    if others:
        title = "Learning curves and reliability" if report.reliability else "Learning curves"
        yield page.section(title, page.pictures(others))
    if report.facts:
        yield page.section("Model and settings", page.facts(report.facts))
    if report.events:
        yield page.section("What happened to the run", _event_table(report.events))
    notes = [*report.notes, *(f"Not measured: {title}." for title in missing_conditions(report))]
    if notes:
        yield page.section("Notes", page.paragraphs(notes))


def _scores(report: TrainingReport) -> Iterator[Html]:
    if headlines := tiles(report):
        yield page.tiles(headlines)
    yield page.section("Scores", score_table(report), note=score_note(report))
    if report.by_corpus:
        yield page.section(f"Scores on {report.confusion_split} by corpus", corpus_table(report))


def _marks(report: TrainingReport) -> Iterator[Html]:
    if report.speaker_normalisation:
        yield page.speaker_normalisation_mark()
    if report.waived_audit:
        yield page.waived_audit_mark(report.waived_audit)


def _origin(report: TrainingReport) -> Html:
    normalisation = (
        "per speaker, test speakers included"
        if report.speaker_normalisation
        else "one, from the training speakers"
    )
    origin: dict[str, Any] = {
        "corpus": report.corpus,
        "split protocol": report.protocol,
        "label target": report.label_target,
        "feature normalisation": normalisation,
    }
    for split in SPLITS:
        who = report.speakers.get(split, ())
        if split in report.clips:
            origin[split] = f"{report.clips[split]:,} clips of {len(who)} speakers: {', '.join(who)}"
    return page.section("What was measured on what", page.facts(origin))


def _event_table(events: Sequence[EventNote]) -> Html:
    rows = [
        (
            event.moment,
            "" if event.step is None else event.step,
            page.with_small(event.text, event.facts) if event.facts else event.text,
        )
        for event in events
    ]
    return page.table(("UTC", "step", "event"), rows)


def _curve_pictures(report: TrainingReport) -> Iterator[Picture]:
    for metric, title, is_share in _CURVES:
        curves = [
            _curve(report, metric_name(VALIDATION, condition, metric), CONDITION_TITLES[condition], condition)
            for condition in CONDITIONS
        ]
        if metric == "loss":
            curves.append(_curve(report, _TRAIN_LOSS, "training, all objectives", ""))
        curves = [curve for curve in curves if curve.values]
        if curves:
            yield Picture(
                f"curve_{metric}",
                f"validation {title} by epoch",
                f"Curves of validation {title} over {len(report.history)} epochs",
                partial(curves_figure, curves, title, best_epoch=report.best_epoch, percent=is_share),
            )


def _curve(report: TrainingReport, name: str, label: str, condition: str) -> Curve:
    points = [(entry["epoch"], entry[name]) for entry in report.history if entry.get(name) is not None]
    return Curve(label, [epoch for epoch, _ in points], [value for _, value in points], condition)

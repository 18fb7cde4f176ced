"""The report of an evaluation as one HTML page."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from vavl.evaluation.evaluation_content import EvaluationReport
from vavl.evaluation.evaluation_pictures import evaluation_pictures
from vavl.metrics.paired import Interval
from vavl.reports import page
from vavl.reports.page import Bar, Html, Tile
from vavl.reports.pictures import Picture, write_pictures
from vavl.reports.theme import CONDITION_TITLES

# Metric, its title, and whether it is a share shown in percent. Only those that were measured appear.
_COLUMNS = (
    ("accuracy", "accuracy %", True),
    ("uar", "UAR %", True),
    ("f1_macro", "F1 %", True),
    ("calibration_error", "ECE %", True),
    ("brier", "Brier", False),
    ("ccc_mean", "CCC", False),
)
_PER_ATTRIBUTE = (("ccc", "CCC"), ("rmse", "RMSE"), ("mae", "MAE"))
_INTERVALS = (
    "In small print: 95 % percentile bootstraps over speakers, each with all of their clips. With few speakers they "
    "are rough."
)
_DEGRADATIONS = (
    "Each degradation by itself. Noise: added to the waveform at the stated ratio of powers over the clip, read again "
    "by the model's own extractor. Dropped frames: the last frame that arrived is shown again. Shift: the video comes "
    "late (early), its first (last) frame stands still where nothing was recorded. Noise on features is normal noise "
    "on normalised features and stands for no accident in the world. Changes are paired over speakers; bold where "
    "their interval excludes zero."
)


def write_evaluation_report(report: EvaluationReport, folder: Path) -> Path:
    """Write ``report.html`` and ``pictures/*.png`` into ``folder``; return the page's path."""
    drawn = list(evaluation_pictures(report))
    write_pictures(drawn, folder / "pictures")
    subtitle = (
        f"{report.split} clips of {report.corpus} · {report.protocol} · label target: {report.label_target}"
    )
    return page.write_page(folder / "report.html", report.model, subtitle, _parts(report, drawn))


def _parts(report: EvaluationReport, drawn: Sequence[Picture]) -> Iterator[Html]:
    if report.speaker_normalisation:
        yield page.speaker_normalisation_mark()
    for warning in report.warnings:
        yield page.mark("Read these scores with care", _sentence(warning))
    yield page.tiles([_tile(report, condition) for condition in report.conditions])
    yield page.section("Scores", _score_table(report), note=_score_note(report))
    beside = _comparison(report)
    origin = page.section("What was measured on what", page.facts(report.origin))
    yield page.columns(*([beside] if beside else []), origin)
    yield from _degraded(report, [picture for picture in drawn if picture.name.startswith("degraded_")])
    if report.confusion:
        yield _pictures(f"Confusions on {report.split}", drawn, "confusion_")
    if report.classes:
        yield page.section(f"Classes on {report.split}", _class_table(report))
    if report.values:
        pictures = [picture for picture in drawn if picture.name.startswith("values_")]
        yield page.section("Predicted and true values", page.pictures(pictures, large=True))
    yield _pictures(
        "Speakers" + (" and reliability" if report.reliability else ""), drawn, "speakers", "reliability"
    )
    yield page.section(f"Speakers on {report.split}", _speaker_table(report))
    notes = [
        *report.notes,
        *(f"{name} is not measured: {reason}" for name, reason in report.not_measured.items()),
    ]
    if notes:
        yield page.section("Notes", page.paragraphs(map(_sentence, notes)))
    if report.facts:
        yield page.section("Model and files", page.facts(report.facts))


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}" + ("" if text.endswith((".", "!", "?")) else ".")


def _pictures(title: str, drawn: Sequence[Picture], *names: str) -> Html:
    return page.section(
        title, page.pictures([picture for picture in drawn if picture.name.startswith(names)])
    )


def _tile(report: EvaluationReport, condition: str) -> Tile:
    main = report.main(condition)
    bounds = _bounds(main, report.is_share)
    value = f"{100 * main.value:.1f} %" if report.is_share else f"{main.value:.3f}"
    return Tile(
        value,
        f"{CONDITION_TITLES[condition]}: {report.measure_title}{f', {bounds}' if bounds else ''}",
        condition,
    )


def _score_table(report: EvaluationReport) -> Html:
    first = next(iter(report.scores.values()))
    shown = [column for column in _COLUMNS if column[0] in first]
    attributes = report.outputs if report.values else ()
    shown += [
        (f"{kind}_{name}", f"{name} {title}", False) for name in attributes for kind, title in _PER_ATTRIBUTE
    ]
    if not attributes:
        shown.append(("loss", "NLL", False))
    rows = [
        [
            CONDITION_TITLES[condition],
            *(_cell(scores[metric], is_share) for metric, _, is_share in shown),
            f"{scores['clips'].value:.0f}",
            f"{scores['speakers'].value:.0f}",
        ]
        for condition, scores in report.scores.items()
    ]
    return page.table(["", *(title for _, title, _ in shown), "clips", "speakers"], rows)


def _score_note(report: EvaluationReport) -> str:
    if report.values:
        return (
            f"CCC: concordance correlation; RMSE, MAE: root mean square and mean absolute error. {_INTERVALS}"
        )
    return (
        "UAR: mean recall over the classes. F1: mean over the classes. ECE: expected calibration error over "
        f"{report.bins} equal bins of confidence. Brier: squared distance to the truth, 0 to 2. NLL: mean negative "
        f"log likelihood in nats. {_INTERVALS}"
    )


def _comparison(report: EvaluationReport) -> Html | None:
    if not report.is_share:
        return None
    own = [
        Bar(f"this model, {CONDITION_TITLES[name]}", 100 * report.main(name).value, name)
        for name in report.conditions
    ]
    others = [Bar(stick.name, stick.accuracy_percent, note=stick.protocol) for stick in report.yardsticks]
    return page.section(
        f"Accuracy on {report.split} beside yard-sticks (%)", page.bars([*own, *others]),
        note="A yard-stick compares only as far as its clips, folds and inputs are the same.",
    )  # fmt: skip


def _degraded(report: EvaluationReport, drawn: Sequence[Picture]) -> Iterator[Html]:
    if not report.degraded:
        return
    rows: list[list[str | Html]] = []
    for kind in dict.fromkeys(score.kind for score in report.degraded):
        rows.append([kind])
        own = [score for score in report.degraded if score.kind == kind]
        for level in dict.fromkeys(score.level for score in own):
            cells = {score.condition: score for score in own if score.level == level}
            row: list[str | Html] = [level]
            for condition in report.conditions:
                found = cells.get(condition)
                row.append("-" if found is None else _cell(found.score, report.is_share))
                row.append("" if found is None else _change(found.difference, report.is_share))
            rows.append(row)
    header = ["", *(text for name in report.conditions for text in (CONDITION_TITLES[name], "change"))]
    yield page.section(
        f"Degraded inputs: {report.measure_title}{' in %' if report.is_share else ''}",
        page.pictures(drawn), page.table(header, rows), note=_DEGRADATIONS,
    )  # fmt: skip


def _class_table(report: EvaluationReport) -> Html:
    rows: list[list[str | Html]] = []
    for condition, scores in report.classes.items():
        rows.append([CONDITION_TITLES[condition]])
        for name, one in zip(report.outputs, scores, strict=True):
            shares = [_percent(value) for value in (one.precision, one.recall, one.f1)]
            rows.append([name, *shares, str(one.clips), str(one.predicted)])
    return page.table(["", "precision %", "recall %", "F1 %", "clips", "predicted"], rows)


def _speaker_table(report: EvaluationReport) -> Html:
    title = f"{report.measure_title} %" if report.is_share else report.measure_title
    rows = [
        [
            name,
            *(
                _number(report.speakers.get(condition, {}).get(name, float("nan")), report.is_share)
                for condition in report.conditions
            ),
            str(clips),
        ]
        for name, clips in report.speaker_clips.items()
    ]
    header = [f"speaker, {title}", *(CONDITION_TITLES[name] for name in report.conditions), "clips"]
    return page.table(header, rows)


def _percent(value: float) -> str:
    return "-" if math.isnan(value) else f"{100 * value:.1f}"


def _number(value: float, is_share: bool) -> str:
    return _percent(value) if is_share or math.isnan(value) else f"{value:.3f}"


def _cell(score: Interval, is_share: bool) -> str | Html:
    value, bounds = _number(score.value, is_share), _bounds(score, is_share)
    return page.with_small(value, bounds) if bounds else value


def _bounds(score: Interval, is_share: bool) -> str:
    if math.isnan(score.low) or score.low == score.high:
        return ""
    return f"{_number(score.low, is_share)} to {_number(score.high, is_share)}"


def _change(difference: Interval, is_share: bool) -> str | Html:
    value = f"{100 * difference.value:+.1f}" if is_share else f"{difference.value:+.3f}"
    below = _bounds(difference, is_share)
    shown = Html(f"<b>{value}</b>") if difference.excludes_zero else value
    return (
        Html(f"{shown.text if isinstance(shown, Html) else shown}<small>{below}</small>") if below else shown
    )

"""The report of a comparison as one HTML page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path

from vavl.experiments.comparison_content import ComparisonReport, ScorePoint
from vavl.experiments.comparison_pictures import comparison_pictures
from vavl.reports import page
from vavl.reports.page import Html
from vavl.reports.pictures import Picture, write_pictures
from vavl.reports.theme import CONDITION_TITLES

PICTURES_FOLDER = "pictures"
_TITLES = {"label": "Label efficiency", "unpaired": "Unpaired clips", "differences": "Differences"}
_METHOD = (
    "Intervals are 95 % percentile bootstraps over speakers, each with all of their clips; within a fold the "
    "seeds are drawn with replacement too. Differences are paired: both sets are drawn with the same speakers "
    "and seeds. One interval in twenty excludes zero by chance alone, so a table of many differences will hold some."
)


def write_comparison_report(report: ComparisonReport, folder: Path) -> Path:
    """Write ``report.html`` and ``pictures/*.png`` into ``folder``; return the page's path."""
    drawn = list(comparison_pictures(report))
    write_pictures(drawn, folder / PICTURES_FOLDER)
    subtitle = f"{report.measure} on {report.split}, {report.corpus}, {report.protocol}"
    return page.write_page(folder / "report.html", report.title, subtitle, _parts(report, drawn))


def _parts(report: ComparisonReport, drawn: Sequence[Picture]) -> Iterator[Html]:
    if report.speaker_normalisation:
        yield page.speaker_normalisation_mark()
    if report.waived_audit:
        yield page.waived_audit_mark(report.waived_audit)
    if report.split != "test":
        yield page.mark(
            "Measured on validation",
            "The epoch of every run was chosen on the same clips, so the scores are optimistic; the test split "
            "was not measured.",
        )
    yield page.section("Differences that exclude zero", _verdicts(report), note=_METHOD)
    for picture in drawn:
        yield page.section(_TITLES[picture.name.split("_")[0]], page.pictures([picture], large=True))
    for fraction, share in product(report.fractions, report.shares):
        yield page.section(_place(fraction, share), _table(report, fraction, share))
    origin = {"corpus": report.corpus, "protocol": report.protocol, "labels": report.label_target}
    yield page.section("What was compared", page.facts({**origin, **report.facts}))
    for title, entries in (("Left out", report.left_out), ("Failed", report.failed)):
        if entries:
            yield page.section(title, page.facts(entries))


def _verdicts(report: ComparisonReport) -> Html:
    """List the differences whose interval excludes zero, by place of the grid."""
    found: dict[str, list[list[str | Html]]] = {}
    for point in sorted(report.differences, key=lambda point: (point.fraction, point.share)):
        if point.excludes_zero:
            value, interval = report.text(point)
            found.setdefault(_place(point.fraction, point.share), []).append(
                [
                    point.name, "better" if point.low > 0 else "worse", f"than {point.against}",
                    CONDITION_TITLES[point.condition], page.with_small(value, interval),
                ]
            )  # fmt: skip
    if not found:
        return page.paragraphs(["None."])
    rows: list[list[str | Html]] = []
    for place, entries in found.items():
        rows += [[place], *entries]
    return page.table(["", "", "", "", f"{report.measure} {'points' if report.is_share else ''}"], rows)


def _place(fraction: float, share: float) -> str:
    return f"{100 * fraction:g} % labels" + (f", {100 * share:g} % of the pairs taken apart" if share else "")


def _table(report: ComparisonReport, fraction: float, share: float) -> Html:
    columns = list(product(report.conditions, ("", report.reference)))
    header = [
        "",
        *(f"against {other}" if other else CONDITION_TITLES[condition] for condition, other in columns),
    ]
    points = (*report.scores, *report.differences)
    here = [point for point in points if (point.fraction, point.share) == (fraction, share)]
    rows: list[list[str | Html]] = []
    for name in report.sets:
        own = [point for point in here if point.name == name]
        if own:
            runs = max(point.runs for point in own)
            rows.append(
                [page.with_small(name, f"{runs} runs"), *(_cell(report, own, *column) for column in columns)]
            )
    return page.table(header, rows)


def _cell(report: ComparisonReport, points: Sequence[ScorePoint], condition: str, against: str) -> str | Html:
    for point in points:
        if (point.condition, point.against) == (condition, against):
            value, interval = report.text(point)
            return page.with_small(f"{value} *" if against and point.excludes_zero else value, interval)
    return "-"

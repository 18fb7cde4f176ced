"""The report of a promotion as one HTML page with a forest plot."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from vavl.promotion.promotion_content import PromotionReport, PromotionRow
from vavl.reports import page
from vavl.reports.page import Html
from vavl.reports.pictures import Picture, style_axes, write_pictures
from vavl.reports.theme import CONDITION_TITLES, Theme

PICTURES_FOLDER = "pictures"
_ROW_HEIGHT = 0.55
_METHOD = (
    "Challenger minus champion on the same clips. Intervals are percentile bootstraps over speakers, each with all of "
    "their clips, and both models under the same draws. The rule looks at the lower end of an interval: what "
    "is not sure does not promote. All conditions that are asked must hold."
)
_VERDICTS = {True: "holds", False: "fails", None: "not asked"}


def write_promotion_report(report: PromotionReport, folder: Path) -> Path:
    """Write ``report.html`` and ``pictures/*.png`` into ``folder``; return the page's path."""
    drawn = list(promotion_pictures(report))
    write_pictures(drawn, folder / PICTURES_FOLDER)
    return page.write_page(folder / "report.html", report.title, report.subtitle, _parts(report, drawn))


def promotion_pictures(report: PromotionReport) -> Iterator[Picture]:
    """Yield the forest plot, unless nothing could be measured."""
    rows = [row for row in report.rows if row.difference is not None]
    if rows:
        yield Picture(
            "difference",
            f"{report.challenger} minus {report.champion}; a bracket marks what the interval must lie right of, "
            "a filled point holds",
            "Differences between challenger and champion as points with intervals, one row per condition",
            partial(forest_figure, rows),
        )


def forest_figure(rows: list[PromotionRow], theme: Theme) -> Figure:
    """Draw the difference of every row with its interval, and what was asked of it.

    Args:
        rows: with a difference each.
        theme: colours.
    """
    figure = Figure(figsize=(7.2, 0.9 + _ROW_HEIGHT * len(rows)), facecolor=theme.surface)
    axes = figure.subplots()
    style_axes(axes, theme)
    axes.axvline(0, color=theme.quiet, linewidth=1)
    for place, row in enumerate(rows):
        _draw_row(axes, place, row, theme)
    axes.set_yticks(range(len(rows)), [f"{CONDITION_TITLES[row.condition]}\n{row.metric}" for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color=theme.line, linewidth=0.8)
    axes.set_xlabel("points" if all(row.is_share for row in rows) else "difference")
    return figure


def _draw_row(axes: Any, place: int, row: PromotionRow, theme: Theme) -> None:
    assert row.difference is not None
    value, low, high = (part * (100 if row.is_share else 1) for part in row.difference)
    colour = theme.of_condition(row.condition)
    axes.plot([low, high], [place, place], color=colour, linewidth=2)
    face = colour if row.holds else theme.surface
    axes.plot(value, place, "o", color=colour, markerfacecolor=face, markersize=7)
    if row.threshold is not None:
        asked = row.threshold * (100 if row.is_share else 1)
        axes.plot(asked, place, marker="$[$", color=theme.text, markersize=13, linestyle="none")


def _parts(report: PromotionReport, drawn: list[Picture]) -> Iterator[Html]:
    for title, text in report.marks.items():
        yield page.mark(title, text)
    kind = "audio_video" if report.is_promoted else "other"
    yield page.tiles([page.Tile(report.decision, f"{report.challenger} against {report.champion}", kind)])
    if report.reasons:
        yield page.section("Why", page.paragraphs(report.reasons))
    for picture in drawn:
        yield page.section("Differences", page.pictures([picture], large=True), note=_METHOD)
    yield page.section("The rule, condition by condition", _rule_table(report))
    if report.differences:
        yield page.section("All measures", _measure_table(report), note="Only the rows of the rule decide.")
    yield page.section("What was compared", page.facts(report.facts))


def _rule_table(report: PromotionReport) -> Html:
    header = ["", report.challenger, report.champion, "difference", "asked", "verdict", "clips", "speakers"]
    return page.table(
        header,
        [
            [
                page.with_small(CONDITION_TITLES[row.condition], row.metric),
                *_scores(row),
                row.threshold_text(),
                page.prose(_VERDICTS[row.holds], row.reason),
                str(row.clips),
                str(row.speakers),
            ]
            for row in report.rows
        ],
    )


def _measure_table(report: PromotionReport) -> Html:
    header = ["", report.challenger, report.champion, "difference"]
    rows: list[list[str | Html]] = []
    condition = ""
    for row in report.differences:
        if row.condition != condition:
            condition = row.condition
            rows.append([CONDITION_TITLES[condition]])
        rows.append([row.metric, *_scores(row)])
    return page.table(header, rows)


def _scores(row: PromotionRow) -> list[str | Html]:
    other = page.with_small(*row.score_text(row.other))
    if row.against == "constant" and row.other is not None:
        value, interval = row.score_text(row.other)
        other = page.with_small(value, f"{interval}, one constant answer")
    return [page.with_small(*row.score_text(row.challenger)), other, page.with_small(*row.difference_text())]

"""The report of a comparison: what it states, its plots, and its HTML page."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, NullLocator

from vavl.experiments.comparison_result import Comparison, GroupScore
from vavl.experiments.comparison_settings import SINGLE_PROCESS
from vavl.reports import page
from vavl.reports.page import Html
from vavl.reports.pictures import Picture, style_axes, write_pictures
from vavl.reports.theme import CONDITION_TITLES, Theme
from vavl.training.training_result import corpus_words, label_words

PICTURES_FOLDER = "pictures"
_TITLES = {"label": "Label efficiency", "unpaired": "Unpaired clips", "differences": "Differences"}
_MARKERS = "osD^vPX*"
_LOG_SPAN, _PANEL_WIDTH, _ROW_HEIGHT = 4, 3.4, 0.24
_METHOD = (
    "Intervals are 95 % percentile bootstraps over speakers, each with all of their clips; within a fold the "
    "seeds are drawn with replacement too. Differences are paired: both sets are drawn with the same speakers "
    "and seeds. One interval in twenty excludes zero by chance alone, so a table of many differences will hold some."
)


@dataclass(frozen=True)
class ComparisonReport:
    """Everything that the report of a comparison shows.

    Attributes:
        title: of the page.
        corpus: name of the corpus.
        protocol: name of the split protocol.
        label_target: what the labels mean.
        speaker_normalisation: features were normalised by unlabelled clips of each speaker.
        split: that was measured.
        measure: title of the main measure.
        is_share: the measure is a share, shown in percent.
        reference: set that the others are compared with.
        sets: all objective sets, in the order of every table and legend.
        scores: of the main measure.
        differences: of the main measure, to the reference and between further pairs.
        left_out: places of the grid that cannot be trained -> reason.
        failed: runs that failed -> reason.
        facts: what else to state, in this order.
        waived_audit: checks of the store's audit that were waived; marked at the top of the page.
    """

    title: str
    corpus: str
    protocol: str
    label_target: str
    speaker_normalisation: bool
    split: str
    measure: str
    is_share: bool
    reference: str
    sets: Sequence[str]
    scores: Sequence[GroupScore]
    differences: Sequence[GroupScore]
    left_out: Mapping[str, str] = field(default_factory=dict)
    failed: Mapping[str, str] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    waived_audit: Sequence[str] = ()

    @property
    def fractions(self) -> list[float]:
        """Labelled fractions that have a score, ascending."""
        return sorted({point.group.labelled_fraction for point in self.scores})

    @property
    def shares(self) -> list[float]:
        """Unpaired shares that have a score, ascending."""
        return sorted({point.group.unpaired_share for point in self.scores})

    @property
    def conditions(self) -> list[str]:
        """Conditions that have a score, in the order of every table."""
        return list(dict.fromkeys(point.condition for point in self.scores))


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
        waived_audit=comparison.waived_audit,
        split=plan.split,
        measure=comparison.main_measure.replace("_", " "),
        is_share=not comparison.main_measure.startswith("ccc"),
        reference=plan.reference_set,
        sets=list(plan.objective_sets),
        scores=_known(comparison.scores, comparison.main_measure),
        differences=_known(comparison.differences, comparison.main_measure),
        left_out={entry.cell.name: entry.reason for entry in comparison.grid.left_out},
        failed=comparison.failed,
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


def _known(scores: Sequence[GroupScore], measure: str) -> list[GroupScore]:
    return [score for score in scores if score.measure == measure and math.isfinite(score.interval.low)]


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
    for point in sorted(report.differences, key=lambda point: point.group[1:]):
        if point.interval.excludes_zero:
            verdict = "better" if point.interval.low > 0 else "worse"
            condition = CONDITION_TITLES[point.condition]
            row: list[str | Html] = [
                point.group.objective_set,
                verdict,
                f"than {point.against}",
                condition,
                _text(point),
            ]
            found.setdefault(_place(*point.group[1:]), []).append(row)
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
    here = [point for point in points if point.group[1:] == (fraction, share)]
    rows: list[list[str | Html]] = []
    for name in report.sets:
        own = [point for point in here if point.group.objective_set == name]
        if own:
            runs = max(point.runs for point in own)
            rows.append([page.with_small(name, f"{runs} runs"), *(_cell(own, *column) for column in columns)])
    return page.table(header, rows)


def _cell(points: Sequence[GroupScore], condition: str, against: str) -> str | Html:
    for point in points:
        if (point.condition, point.against) == (condition, against):
            return _text(point, " *" if against and point.interval.excludes_zero else "")
    return "-"


def _text(point: GroupScore, mark: str = "") -> Html:
    value, low, high = point.words
    return page.with_small(f"{value}{mark}", f"{low} to {high}")


def comparison_pictures(report: ComparisonReport) -> Iterator[Picture]:
    """Yield the pictures that the points of a comparison allow."""
    fractions, shares = report.fractions, report.shares
    if len(fractions) > 1:
        for share in shares:
            note = f", {100 * share:g} % of the pairs taken apart" if len(shares) > 1 or share else ""
            points = [point for point in report.scores if point.group.unpaired_share == share]
            yield Picture(
                "label_efficiency" + (f"_unpaired_{100 * share:g}" if share else ""),
                f"{report.split} {report.measure} over the labelled share of the training clips{note}; bars: 95 %",
                f"Curves of {report.measure} over the labelled fraction, one per objective set",
                partial(curve_figure, report, points, "labelled_fraction"),
            )
    if len(shares) > 1:
        for fraction in fractions:
            points = [point for point in report.scores if point.group.labelled_fraction == fraction]
            yield Picture(
                f"unpaired_labels_{100 * fraction:g}",
                f"{report.split} {report.measure} over the share of pairs taken apart, {100 * fraction:g} % labels",
                f"Curves of {report.measure} over the unpaired share, one per objective set",
                partial(curve_figure, report, points, "unpaired_share"),
            )
    if report.differences:
        yield Picture(
            "differences",
            f"difference of {report.split} {report.measure}, paired over speakers and seeds; "
            "a filled point's 95 % interval excludes zero",
            "Differences between objective sets as points with intervals around a line at zero",
            partial(differences_figure, report),
        )


def curve_figure(report: ComparisonReport, points: Sequence[GroupScore], over: str, theme: Theme) -> Figure:
    """Draw scores over a part of the group: one panel per condition, one line per objective set."""
    figure, panels = _panels(len(report.conditions), theme, height=3.4)
    values = sorted({getattr(point.group, over) for point in points})
    is_log = over == "labelled_fraction" and values[-1] >= _LOG_SPAN * values[0]
    for axes, condition in zip(panels, report.conditions, strict=True):
        for place, name in enumerate(report.sets):
            own = sorted(
                (
                    point
                    for point in points
                    if (point.group.objective_set, point.condition) == (name, condition)
                ),
                key=lambda point: float(getattr(point.group, over)),
            )
            if own:
                x = _dodged(
                    [getattr(point.group, over) for point in own], place, len(report.sets), is_log=is_log
                )
                _line(axes, report, own, x, theme)
        axes.set_title(CONDITION_TITLES[condition], color=theme.text, fontsize=10)
        _share_axis(axes, values, is_log=is_log)
        axes.set_xlabel(
            "labelled training clips (%)" if over == "labelled_fraction" else "pairs taken apart (%)"
        )
        axes.grid(color=theme.line, linewidth=0.8)
    panels[0].set_ylabel(f"{report.measure} (%)" if report.is_share else report.measure)
    _legend(figure, panels, theme)
    return figure


def differences_figure(report: ComparisonReport, theme: Theme) -> Figure:
    """Draw every difference as a point with its interval: one panel per condition, one row per place."""
    ordered = sorted(report.differences, key=lambda point: point.group[1:])
    rows = list(dict.fromkeys(_row_of(report, point) for point in ordered))
    first_rows = {p.group[1:]: rows.index(_row_of(report, p)) for p in reversed(ordered)}
    conditions = [name for name in report.conditions if any(point.condition == name for point in ordered)]
    figure, panels = _panels(len(conditions), theme, height=0.9 + _ROW_HEIGHT * len(rows), share_rows=True)
    scale = 100 if report.is_share else 1
    for axes, condition in zip(panels, conditions, strict=True):
        axes.axvline(0, color=theme.quiet, linewidth=1)
        for row in first_rows.values():
            axes.axhline(row - 0.5, color=theme.line, linewidth=0.8)
        for point in report.differences:
            if point.condition == condition:
                row = rows.index(_row_of(report, point))
                color, marker = _look(report, point.group.objective_set, theme)
                axes.plot(
                    [scale * point.interval.low, scale * point.interval.high],
                    [row, row],
                    color=color,
                    linewidth=1.6,
                )
                face = color if point.interval.excludes_zero else theme.surface
                axes.plot(
                    scale * point.interval.value, row, marker, color=color, markerfacecolor=face, markersize=5
                )
        axes.set_title(CONDITION_TITLES[condition], color=theme.text, fontsize=10)
        axes.set_xlabel(f"{'points' if report.is_share else report.measure} more than {report.reference}")
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x", color=theme.line, linewidth=0.8)
    panels[0].set_yticks(range(len(rows)), rows)
    panels[0].set_ylim(len(rows) - 0.5, -0.5)
    return figure


def _row_of(report: ComparisonReport, point: GroupScore) -> str:
    name, fraction, share = point.group
    place = f"{100 * fraction:g} %" if len(report.fractions) > 1 else ""
    unpaired = f"unpaired {100 * share:g} %" if len(report.shares) > 1 else ""
    name = name if point.against == report.reference else f"{name} - {point.against}"
    return ", ".join(part for part in (name, place, unpaired) if part)


def _line(
    axes: Any, report: ComparisonReport, own: Sequence[GroupScore], x: Sequence[float], theme: Theme
) -> None:
    scale = 100 if report.is_share else 1
    value, low, high = (
        scale * np.array([getattr(point.interval, name) for point in own])
        for name in ("value", "low", "high")
    )
    color, marker = _look(report, own[0].group.objective_set, theme)
    axes.errorbar(
        x, value, yerr=(np.maximum(value - low, 0), np.maximum(high - value, 0)), color=color, marker=marker,
        markersize=4.5, linewidth=1.5, elinewidth=0.9, capsize=2, label=own[0].group.objective_set,
    )  # fmt: skip


def _look(report: ComparisonReport, name: str, theme: Theme) -> tuple[str, str]:
    """Colour and marker of an objective set; the reference is quiet."""
    if name == report.reference:
        return theme.quiet, "o"
    place = [other for other in report.sets if other != report.reference].index(name)
    return theme.series[place % len(theme.series)], _MARKERS[(place + 1) % len(_MARKERS)]


def _dodged(values: Sequence[float], place: int, sets: int, *, is_log: bool) -> list[float]:
    """Move the points of each set a little to the side, so that intervals do not cover each other."""
    steps = place - (sets - 1) / 2
    return [100 * value * 1.045**steps if is_log else 100 * value + 0.8 * steps for value in values]


def _share_axis(axes: Any, values: Sequence[float], *, is_log: bool) -> None:
    if is_log:
        axes.set_xscale("log")
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xticks([100 * value for value in values], [f"{100 * value:g}" for value in values])


def _panels(count: int, theme: Theme, height: float, *, share_rows: bool = False) -> tuple[Figure, list[Any]]:
    figure = Figure(figsize=(_PANEL_WIDTH * count, height), facecolor=theme.surface)
    panels = list(figure.subplots(1, count, sharey=share_rows, squeeze=False)[0])
    for axes in panels:
        style_axes(axes, theme)
    figure.subplots_adjust(wspace=0.08 if share_rows else 0.22)
    return figure, panels


def _legend(figure: Figure, panels: Sequence[Any], theme: Theme) -> None:
    """Name every set once, also one that the first panel lacks."""
    lines = {
        label: handle
        for axes in panels
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(
        lines.values(), lines.keys(), loc="upper center", bbox_to_anchor=(0.5, -0.02), ncols=min(4, len(lines)),
        frameon=False, labelcolor=theme.text, fontsize=9,
    )  # fmt: skip

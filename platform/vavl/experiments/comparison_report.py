"""What a person sees of a comparison: the table that the job prints, and the HTML page with its plots."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, NullLocator

from vavl.errors import TrainingError
from vavl.experiments.comparison_result import Comparison, GroupScore
from vavl.experiments.comparison_settings import SINGLE_PROCESS
from vavl.experiments.trials import SUMMARY_FILE
from vavl.metrics.names import CONDITIONS
from vavl.reports.plots import LEGEND, PLOTS_DIRECTORY, Plot, draw_intervals, style_axes, write_plots
from vavl.reports.render import is_share, number, write_page
from vavl.reports.theme import CONDITION_TITLES, LIGHT
from vavl.training.training_result import corpus_words, label_words

_TITLES = {"label": "Label efficiency", "unpaired": "Unpaired clips", "differences": "Differences"}
_MARKERS = "osD^vPX*"
_LOG_SPAN, _PANEL_WIDTH, _ROW_HEIGHT = 4, 3.4, 0.24


def main_metrics(comparison: Comparison) -> dict[str, float]:
    """Return the main measure and its differences by flat name, for the tracking server."""
    found = {}
    for score in (*comparison.scores, *comparison.differences):
        if score.measure == comparison.main_measure and math.isfinite(score.interval.value):
            name, fraction, share = score.group
            against = f"_minus_{score.against}" if score.against else ""
            place = f"labels-{100 * fraction:g}_unpaired-{100 * share:g}"
            found[f"{name}{against}/{place}/{score.condition}/{score.measure}"] = score.interval.value
    return found


def refuse_failures(comparison: Comparison) -> None:
    """Raise when runs failed; the results of the others are written by then.

    Raises:
        TrainingError: names the first failed run and its reason.
    """
    for name, reason in comparison.failed.items():
        problem = f"{len(comparison.failed)} run(s) failed; {name}: {reason}"
        fix = "repair the cause and start the same command again: finished runs are kept"
        raise TrainingError(str(comparison.plan.output_dir / SUMMARY_FILE), "failed", problem, fix)


def result_rows(comparison: Comparison) -> list[tuple[str, str]]:
    """Return the rows of the table that the job prints: the main measure by group, best condition first."""
    main, reference = comparison.main_measure, comparison.plan.reference_set
    differences = {
        (entry.group, entry.condition): entry
        for entry in comparison.differences
        if entry.measure == main and entry.against == reference
    }
    rows = []
    for condition, score in product(CONDITIONS, comparison.scores):
        if (score.condition, score.measure) == (condition, main):
            name, fraction, share = score.group
            text = f"{_shown(score)}  ({score.runs} runs)"
            if other := differences.get((score.group, condition)):
                mark = "  excludes zero" if other.interval.excludes_zero else ""
                text += f"   {_shown(other)} against {reference}{mark}"
            rows.append((f"{condition}  labels {100 * fraction:g} %  unpaired {100 * share:g} %  {name}", text))
    return rows


def _shown(score: GroupScore) -> str:
    in_percent, sign, interval = is_share(score.measure), "+" if score.against else "", score.interval
    value, low, high = (number(one, in_percent, sign) for one in (interval.value, interval.low, interval.high))
    return f"{value} [{low}, {high}]"


def write_pages(comparison: Comparison) -> list[Path]:
    """Write ``report.html`` and its plots into the directory of the comparison; nothing without scores."""
    if not comparison.finished:
        return []
    directory, first, facts = comparison.plan.output_dir, comparison.finished[0].summary, _facts(comparison)
    plots = list(comparison_plots(comparison))
    write_plots(plots, directory)
    ordered = sorted(comparison.main_differences, key=lambda point: point.group[1:])
    verdicts: dict[str, list[GroupScore]] = {}
    for point in ordered:
        if point.interval.excludes_zero:
            verdicts.setdefault(_place(*point.group[1:]), []).append(point)
    report = write_page(
        directory / "report.html",
        "experiments/comparison.html",
        f"Objectives compared on {first['corpus']}",
        f"{comparison.title} on {comparison.plan.split}, {facts['corpus']}, {facts['protocol']}",
        comparison=comparison,
        is_normalised_per_speaker=first["speaker_normalisation"],
        plots=[(_TITLES[plot.name.split("_")[0]], plot) for plot in plots],
        verdicts=verdicts,
        tables={
            _place(*place): _table(comparison, *place) for place in product(comparison.fractions, comparison.shares)
        },
        conditions=CONDITION_TITLES,
        facts=facts,
        left_out={entry.cell.name: entry.reason for entry in comparison.grid.left_out},
    )
    return [report, directory / PLOTS_DIRECTORY]


def _facts(comparison: Comparison) -> dict[str, Any]:
    plan, first = comparison.plan, comparison.finished[0].summary
    seconds = [entry.summary["seconds"] for entry in comparison.finished]
    sets = [f"{name}: {_pairs(changes) or 'as the base'}" for name, changes in plan.objective_sets.items()]
    folds = ", ".join(map(str, plan.folds))
    return {
        "corpus": corpus_words(first),
        "protocol": f"{first['protocol']}, folds {folds}",
        "labels": label_words(first),
        "base configuration": plan.training,
        "folds": folds,
        "seeds": ", ".join(map(str, plan.seeds)),
        "runs": f"{len(seconds)}, {sum(seconds) / len(seconds):.0f} s each",
        "objective sets": "; ".join(sets),
        "forced for every run": _pairs(SINGLE_PROCESS),
        "feature store hash": first["store_hash"],
    }


def _pairs(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in settings.items())


def _place(fraction: float, share: float) -> str:
    return f"{100 * fraction:g} % labels" + (f", {100 * share:g} % of the pairs taken apart" if share else "")


def _table(comparison: Comparison, fraction: float, share: float) -> dict[str, dict[tuple[str, str], GroupScore]]:
    """Return the points of a place of the grid by objective set, then by condition and what was subtracted."""
    table: dict[str, dict[tuple[str, str], GroupScore]] = {}
    points = (*comparison.main_scores, *comparison.main_differences)
    for name in comparison.plan.objective_sets:
        for point in points:
            if point.group == (name, fraction, share):
                table.setdefault(name, {})[point.condition, point.against] = point
    return table


def comparison_plots(comparison: Comparison) -> Iterator[Plot]:
    """Yield the plots that the points of a comparison allow."""
    fractions, shares = comparison.fractions, comparison.shares
    what = f"{comparison.plan.split} {comparison.title}"
    if len(fractions) > 1:
        for share in shares:
            note = f", {100 * share:g} % of the pairs taken apart" if len(shares) > 1 or share else ""
            points = [point for point in comparison.main_scores if point.group.unpaired_share == share]
            yield Plot(
                "label_efficiency" + (f"_unpaired_{100 * share:g}" if share else ""),
                f"{what} over the labeled share of the training clips{note}; bars: 95 %",
                f"Curves of {comparison.title} over the labeled fraction, one per objective set",
                curve_figure(comparison, points, "labelled_fraction"),
            )
    if len(shares) > 1:
        for fraction in fractions:
            points = [point for point in comparison.main_scores if point.group.labelled_fraction == fraction]
            yield Plot(
                f"unpaired_labels_{100 * fraction:g}",
                f"{what} over the share of pairs taken apart, {100 * fraction:g} % labels",
                f"Curves of {comparison.title} over the unpaired share, one per objective set",
                curve_figure(comparison, points, "unpaired_share"),
            )
    if comparison.main_differences:
        yield Plot(
            "differences",
            f"difference of {comparison.plan.split} {comparison.title}, paired over speakers and seeds; "
            "a filled point's 95 % interval excludes zero",
            "Differences between objective sets as points with intervals around a line at zero",
            differences_figure(comparison),
        )


def curve_figure(comparison: Comparison, points: Sequence[GroupScore], over: str) -> Figure:
    """Draw scores over a part of the group: one panel per condition, one line per objective set."""
    figure, panels = _panels(len(comparison.conditions), height=3.4)
    values = sorted({getattr(point.group, over) for point in points})
    is_log = over == "labelled_fraction" and values[-1] >= _LOG_SPAN * values[0]
    scale, sets = 100 if comparison.is_share else 1, comparison.plan.objective_sets
    for axes, condition in zip(panels, comparison.conditions, strict=True):
        for place, name in enumerate(sets):
            own = {
                100 * getattr(point.group, over): point.interval
                for point in points
                if (point.group.objective_set, point.condition) == (name, condition)
            }
            if own:
                # A little to the side, so that intervals of the sets do not cover each other.
                step = place - (len(sets) - 1) / 2
                x = [share * 1.045**step if is_log else share + 0.8 * step for share in sorted(own)]
                color, marker = _look(comparison, name)
                style = {"color": color, "marker": marker, "label": name}
                draw_intervals(axes, x, [own[share] for share in sorted(own)], scale, style)
        axes.set_title(CONDITION_TITLES[condition], color=LIGHT.text, fontsize=10)
        if is_log:
            axes.set_xscale("log")
            axes.xaxis.set_minor_locator(NullLocator())
            axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xticks([100 * value for value in values], [f"{100 * value:g}" for value in values])
        axes.set_xlabel("labeled training clips (%)" if over == "labelled_fraction" else "pairs taken apart (%)")
        axes.grid(color=LIGHT.line, linewidth=0.8)
    panels[0].set_ylabel(f"{comparison.title} (%)" if comparison.is_share else comparison.title)
    # Every set once, also one that the first panel lacks.
    lines = {label: handle for axes in panels for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    below = {"bbox_to_anchor": (0.5, -0.02), "ncols": min(4, len(lines)), **LEGEND}
    figure.legend(lines.values(), lines.keys(), **below)
    return figure


def differences_figure(comparison: Comparison) -> Figure:
    """Draw every difference as a point with its interval: one panel per condition, one row per place."""
    ordered = sorted(comparison.main_differences, key=lambda point: point.group[1:])
    rows = list(dict.fromkeys(_row_of(comparison, point) for point in ordered))
    first_rows = {p.group[1:]: rows.index(_row_of(comparison, p)) for p in reversed(ordered)}
    conditions = [name for name in comparison.conditions if any(point.condition == name for point in ordered)]
    figure, panels = _panels(len(conditions), height=0.9 + _ROW_HEIGHT * len(rows), share_rows=True)
    scale = 100 if comparison.is_share else 1
    for axes, condition in zip(panels, conditions, strict=True):
        axes.axvline(0, color=LIGHT.quiet, linewidth=1)
        for row in first_rows.values():
            axes.axhline(row - 0.5, color=LIGHT.line, linewidth=0.8)
        for point in ordered:
            if point.condition == condition:
                row, interval = rows.index(_row_of(comparison, point)), point.interval
                color, marker = _look(comparison, point.group.objective_set)
                axes.plot([scale * interval.low, scale * interval.high], [row, row], color=color, linewidth=1.6)
                face = color if interval.excludes_zero else LIGHT.surface
                axes.plot(scale * interval.value, row, marker, color=color, markerfacecolor=face, markersize=5)
        axes.set_title(CONDITION_TITLES[condition], color=LIGHT.text, fontsize=10)
        unit = "points" if comparison.is_share else comparison.title
        axes.set_xlabel(f"{unit} more than {comparison.plan.reference_set}")
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x", color=LIGHT.line, linewidth=0.8)
    panels[0].set_yticks(range(len(rows)), rows)
    panels[0].set_ylim(len(rows) - 0.5, -0.5)
    return figure


def _row_of(comparison: Comparison, point: GroupScore) -> str:
    name, fraction, share = point.group
    place = f"{100 * fraction:g} %" if len(comparison.fractions) > 1 else ""
    unpaired = f"unpaired {100 * share:g} %" if len(comparison.shares) > 1 else ""
    name = name if point.against == comparison.plan.reference_set else f"{name} - {point.against}"
    return ", ".join(part for part in (name, place, unpaired) if part)


def _look(comparison: Comparison, name: str) -> tuple[str, str]:
    """Color and marker of an objective set; the reference is quiet."""
    if name == comparison.plan.reference_set:
        return LIGHT.quiet, "o"
    place = [other for other in comparison.plan.objective_sets if other != comparison.plan.reference_set].index(name)
    return LIGHT.series[place % len(LIGHT.series)], _MARKERS[(place + 1) % len(_MARKERS)]


def _panels(count: int, height: float, *, share_rows: bool = False) -> tuple[Figure, list[Any]]:
    figure = Figure(figsize=(_PANEL_WIDTH * count, height), facecolor=LIGHT.surface)
    panels = list(figure.subplots(1, count, sharey=share_rows, squeeze=False)[0])
    for axes in panels:
        style_axes(axes)
    figure.subplots_adjust(wspace=0.08 if share_rows else 0.22)
    return figure, panels

"""A decision about a champion for people: the printed table, the summary, the page with a forest plot."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from vavl.errors import PromotionError
from vavl.metrics.names import TEST, VALIDATION
from vavl.promotion.contest import CONSTANT_ANSWER, ConditionVerdict, Difference
from vavl.promotion.decision import Decision
from vavl.promotion.settings import PromotionPlan
from vavl.reports.plots import PLOTS_DIRECTORY, Plot, new_figure, write_plots
from vavl.reports.render import bounds, is_share, number, write_page
from vavl.reports.theme import CONDITION_TITLES, LIGHT

_ROW_HEIGHT = 0.55
_WORDS = {
    "promoting": "Not finished",
    "promoted": "Promoted",
    "refused": "Refused",
    "compare_again": "The champion changed meanwhile: compare again",
    "already_champion": "It is champion already",
    "rolled_back": "Rolled back",
    "restored": "Champion again",
}
_DONE = ("promoted", "already_champion", "rolled_back")


def decision_rows(decision: Decision) -> list[tuple[str, str]]:
    """Return the rows of the table that the job prints."""
    rows = [("decision", _WORDS[decision.what])]
    if decision.clips is not None:
        rows.append(("clips", decision.clips.words))
    if decision.verdict is not None:
        against = f"version {decision.compared_with}" if decision.compared_with else "no champion yet"
        rows.append(("compared", f"version {decision.version} with {against}"))
        rows += [(CONDITION_TITLES[row.condition], _line(row)) for row in decision.verdict.conditions]
    rows += [("why" if not number else "", reason) for number, reason in enumerate(decision.reasons)]
    rows.append((decision.alias, f"version {decision.champion}" if decision.champion else "none"))
    rows.append(("rollback to", f"version {decision.previous}" if decision.previous else "nothing"))
    if decision.mlflow_run_id:
        rows.append(("MLflow run", decision.mlflow_run_id))
    return rows


def next_step(plan: PromotionPlan, decision: Decision) -> str:
    """Return what a person looks at or types next."""
    back = f"python jobs/promote_model.py {shlex.quote(f'models:/{plan.model_name}')} rollback=true"
    page = shlex.quote(f"{plan.output_dir}/report.html")
    lines = {
        "promoted": f"open {page}; to roll back: {back}",
        "compare_again": "start the same command again: it compares with the new champion",
        "refused": f"open {page}",
        "rolled_back": f'mlflow.pyfunc.load_model("{plan.champion}")',
    }
    return lines.get(decision.what, f'mlflow.pyfunc.load_model("{plan.champion}")')


def refuse(decision: Decision) -> None:
    """End the job with exit code 1 where the challenger did not become champion.

    Raises:
        PromotionError: with the reasons.
    """
    if decision.what not in _DONE:
        problem = f"did not become {decision.alias}: {'; '.join(decision.reasons)}"
        fix = "see the table and report.html for the reasons; bring a better model, or set another rule"
        raise PromotionError(f"models:/{decision.model}/{decision.version}", "", problem, fix)


def write_pages(decision: Decision, unknown: Sequence[str], directory: Path) -> list[Path]:
    """Write ``report.html`` and its plot, and return the page and the directory of the plot, if there is one.

    ``unknown`` are models that were trained on another corpus.
    """
    assert decision.verdict is not None
    assert decision.clips is not None
    challenger = f"version {decision.version}"
    champion = f"version {decision.compared_with}" if decision.compared_with else "one constant answer"
    plots = list(promotion_plots(decision.verdict.conditions, f"{challenger} minus {champion}"))
    write_plots(plots, directory)
    by_condition: dict[str, list[Difference]] = {}
    for row in decision.verdict.differences:
        by_condition.setdefault(row.condition, []).append(row)
    page = write_page(
        directory / "report.html",
        "promotion/report.html",
        f"{decision.model} version {decision.version} for {decision.alias}",
        f"{decision.verdict.conditions[0].metric} and others on {decision.clips.words}",
        decision=decision,
        decided=_WORDS[decision.what],
        challenger=challenger,
        champion=champion,
        plots=plots,
        differences=by_condition,
        facts=dict(_facts(decision)),
        marks=dict(_marks(unknown, decision)),
        conditions=CONDITION_TITLES,
        is_share=is_share,
        threshold=_threshold_text,
    )
    return [page, *([directory / PLOTS_DIRECTORY] if plots else [])]


def promotion_plots(rows: Sequence[ConditionVerdict], what: str) -> Iterator[Plot]:
    """Yield the forest plot of ``what``, unless nothing could be measured."""
    measured = [row for row in rows if row.measured is not None]
    if measured:
        yield Plot(
            "difference",
            f"{what}; a bracket marks what the interval must lie right of, a filled point holds",
            "Differences between challenger and champion as points with intervals, one row per condition",
            _forest_figure(measured),
        )


def _forest_figure(rows: Sequence[ConditionVerdict]) -> Figure:
    """Draw the difference of every row with its interval, and what was asked of it."""
    figure, axes = new_figure((7.2, 0.9 + _ROW_HEIGHT * len(rows)))
    axes.axvline(0, color=LIGHT.quiet, linewidth=1)
    for height, row in enumerate(rows):
        assert row.measured is not None
        difference, scale = row.measured.difference, 100 if is_share(row.metric) else 1
        color = LIGHT.of_condition(row.condition)
        face = color if row.holds else LIGHT.surface
        ends = [scale * difference.low, scale * difference.high]
        axes.plot(ends, [height, height], color=color, linewidth=2)
        axes.plot(scale * difference.value, height, "o", color=color, markerfacecolor=face, markersize=7)
        if row.threshold is not None:
            mark = {"marker": "$[$", "color": LIGHT.text, "markersize": 13, "linestyle": "none"}
            axes.plot(scale * row.threshold, height, **mark)
    axes.set_yticks(range(len(rows)), [f"{CONDITION_TITLES[row.condition]}\n{row.metric}" for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color=LIGHT.line, linewidth=0.8)
    axes.set_xlabel("points" if all(is_share(row.metric) for row in rows) else "difference")
    return figure


def _facts(decision: Decision) -> Iterator[tuple[str, Any]]:
    clips = decision.clips
    assert clips is not None
    yield "clips", clips.words
    yield "feature store", f"{clips.store} (hash {clips.store_hash})"
    yield "hash of clips and labels", clips.clips_hash
    yield "decisions on these clips before", clips.earlier_decisions
    yield "rule", _rule_words(decision.rule)
    champion = f"version {decision.champion}" if decision.champion else "none"
    yield decision.alias, f"{champion}; a rollback returns to {decision.previous or 'nothing'}"
    yield "who and when", f"{decision.by}, {decision.time}"
    yield "MLflow run", decision.mlflow_run_id


def _rule_words(rule: Mapping[str, Any]) -> str:
    plain = {name: value for name, value in rule.items() if value is not None}
    return "; ".join(
        f"{name}: " + ", ".join(f"{key} {part}" for key, part in value.items() if part is not None)
        if isinstance(value, Mapping)
        else f"{name}: {value}"
        for name, value in plain.items()
    )


def _marks(unknown: Sequence[str], decision: Decision) -> Iterator[tuple[str, str]]:
    assert decision.clips is not None
    if decision.clips.split == VALIDATION:
        text = (
            "Both models chose their epoch on these clips, and the winner of a search was chosen on them: a "
            "challenger out of many trials looks better here than it is."
        )
        yield "Measured on validation", text
    if decision.clips.split == TEST:
        text = (
            f"They have decided {decision.clips.earlier_decisions} times before. The champion's score on them is "
            "no longer that of an untouched test."
        )
        yield "The test clips chose between two models", text
    if unknown:
        text = "Whether these clips, or other clips of their speakers, were among its training clips is not known."
        yield f"Trained on another corpus: {', '.join(unknown)}", text
    conditions = decision.verdict.conditions if decision.verdict else ()
    if any(entry.measured and entry.measured.opponent == "constant" for entry in conditions):
        text = f"Where there is none the challenger is compared with {CONSTANT_ANSWER}."
        yield "No champion to compare with", text


def _threshold_text(row: ConditionVerdict) -> str:
    """Return what was asked as text."""
    if row.threshold is None:
        return "not asked"
    unit = " points" if is_share(row.metric) else ""
    return f"above {number(row.threshold, is_share(row.metric), '+')}{unit}" if row.threshold else "above 0"


def _line(row: ConditionVerdict) -> str:
    """Return one condition as a line of the printed table."""
    verdict = {True: "holds", False: "FAILS", None: "not asked"}[row.holds]
    if row.measured is None:
        return f"{row.metric}  {verdict}: {row.reason}"
    found, in_percent = row.measured, is_share(row.metric)
    difference = f"{number(found.difference.value, in_percent, '+')} ({bounds(found.difference, in_percent, '+')})"
    other = "champion" if found.opponent == "champion" else "constant answer"
    scores = f"{number(found.challenger.value, in_percent)} against {number(found.other.value, in_percent)} ({other})"
    return f"{row.metric} {scores}: {difference}, asked {_threshold_text(row)}: {verdict}"

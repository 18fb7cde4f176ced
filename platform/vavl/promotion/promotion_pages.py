"""A decision about a champion for people: the table, the summary, the report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vavl.errors import PromotionError
from vavl.metrics.names import TEST, VALIDATION
from vavl.metrics.paired import Interval
from vavl.promotion.contest import CONSTANT_ANSWER, ConditionVerdict, Difference
from vavl.promotion.promotion_content import Bounds, PromotionReport, PromotionRow
from vavl.promotion.promotion_record import Decision
from vavl.promotion.promotion_report import PICTURES_FOLDER, write_promotion_report
from vavl.promotion.same_clips import SameClips
from vavl.promotion.settings import PromotionPlan
from vavl.reports.theme import CONDITION_TITLES

_WORDS = {
    "promoting": "Not finished",
    "promoted": "Promoted",
    "refused": "Refused",
    "compare_again": "The champion changed meanwhile: compare again",
    "already_champion": "It is champion already",
    "rolled_back": "Rolled back",
    "restored": "Champion again",
}
_VERDICTS = {True: "holds", False: "FAILS", None: "not asked"}
_DONE = ("promoted", "already_champion", "rolled_back")


def summary_of(decision: Decision) -> dict[str, Any]:
    """Return the content of ``summary.json``.

    Keys: ``decision`` (``promoted``, ``refused``, ``compare_again``, ``already_champion`` or ``rolled_back``),
    ``model``, ``alias``, ``version``, ``compared_with``, ``champion`` and ``previous`` (afterwards), ``reasons``,
    ``holds``, ``is_first``, ``conditions`` (one each: ``metric``, ``challenger``, ``other`` and ``difference`` as
    value, lower and upper end, ``against``, ``threshold``, ``holds``, ``reason``, ``clips``, ``speakers``,
    ``confidence``), ``differences`` (all measures), ``clips`` (``clips_hash``, ``store_hash``, ``split``, ...),
    ``rule``, ``by``, ``time``, ``mlflow_run_id``.
    """
    return decision.as_dict()


def decision_rows(decision: Decision) -> list[tuple[str, str]]:
    """Return the rows of the table that the job prints."""
    rows = [("decision", _WORDS[decision.what])]
    if decision.clips is not None:
        rows.append(("clips", decision.clips.words))
    if decision.verdict is not None:
        against = f"version {decision.compared_with}" if decision.compared_with else "no champion yet"
        rows.append(("compared", f"version {decision.version} with {against}"))
        rows += [
            (CONDITION_TITLES[row.condition], _line(row)) for row in map(_row, decision.verdict.conditions)
        ]
    rows += [("why" if not place else "", reason) for place, reason in enumerate(decision.reasons)]
    rows.append((decision.alias, f"version {decision.champion}" if decision.champion else "none"))
    rows.append(("rollback to", f"version {decision.previous}" if decision.previous else "nothing"))
    if decision.mlflow_run_id:
        rows.append(("MLflow run", decision.mlflow_run_id))
    return rows


def next_step(plan: PromotionPlan, decision: Decision) -> str:
    """Return what a person looks at or types next."""
    back = f"python jobs/promote_model.py models:/{plan.model_name} rollback=true"
    lines = {
        "promoted": f"open {plan.output_dir}/report.html; the way back: {back}",
        "compare_again": "start the same command again: it compares with the new champion",
        "refused": f"open {plan.output_dir}/report.html",
        "rolled_back": f'mlflow.pyfunc.load_model("{plan.champion}")',
    }
    return lines.get(decision.what, f'mlflow.pyfunc.load_model("{plan.champion}")')


def refuse(decision: Decision) -> None:
    """End the job with exit code 1 where the challenger did not become champion.

    Raises:
        PromotionError: with the reasons.
    """
    if decision.what not in _DONE:
        raise PromotionError(
            f"models:/{decision.model}/{decision.version}", "", f"did not become {decision.alias}: "
            + "; ".join(decision.reasons), "the table and report.html say why; a better model, or another rule",
        )  # fmt: skip


def write_pages(plan: PromotionPlan, clips: SameClips, decision: Decision) -> list[Path]:
    """Write ``report.html`` and ``pictures/`` into the folder of the job."""
    report = write_promotion_report(promotion_report(clips, decision), plan.output_dir)
    pictures = plan.output_dir / PICTURES_FOLDER
    return [report, *([pictures] if pictures.exists() else [])]


def promotion_report(same: SameClips, decision: Decision) -> PromotionReport:
    """Return what the report of a comparison states."""
    assert decision.verdict is not None
    assert decision.clips is not None
    metric = decision.verdict.conditions[0].metric
    return PromotionReport(
        title=f"{decision.model} version {decision.version} for {decision.alias}",
        subtitle=f"{metric} and others on {decision.clips.words}",
        decision=_WORDS[decision.what],
        is_promoted=decision.what == "promoted",
        reasons=decision.reasons,
        challenger=f"version {decision.version}",
        champion=f"version {decision.compared_with}" if decision.compared_with else "one constant answer",
        rows=[_row(entry) for entry in decision.verdict.conditions],
        differences=[_difference_row(entry) for entry in decision.verdict.differences],
        facts=dict(_facts(decision)),
        marks=dict(_marks(same, decision)),
    )


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


def _marks(same: SameClips, decision: Decision) -> Iterator[tuple[str, str]]:
    assert decision.clips is not None
    if decision.clips.split == VALIDATION:
        yield (
            "Measured on validation",
            (
                "Both models chose their epoch on these clips, and the winner of a search was chosen on them: a "
                "challenger out of many trials looks better here than it is."
            ),
        )
    if decision.clips.split == TEST:
        yield (
            "The test clips chose between two models",
            (
                f"They have decided {decision.clips.earlier_decisions} times before. The champion's score on them is "
                "no longer that of an untouched test."
            ),
        )
    if same.unknown:
        yield (
            f"Trained on another corpus: {', '.join(same.unknown)}",
            (
                "Whether these clips, or other clips of their speakers, were among its training clips is not known."
            ),
        )
    if any(entry.measured and entry.measured.opponent == "constant" for entry in _verdicts(decision)):
        yield (
            "No champion to compare with",
            f"Where there is none the challenger is compared with {CONSTANT_ANSWER}.",
        )


def _verdicts(decision: Decision) -> tuple[ConditionVerdict, ...]:
    return decision.verdict.conditions if decision.verdict else ()


def _row(entry: ConditionVerdict) -> PromotionRow:
    measured = _difference_row(entry.measured) if entry.measured else None
    return PromotionRow(
        entry.condition,
        entry.metric,
        measured.challenger if measured else None,
        measured.other if measured else None,
        measured.difference if measured else None,
        measured.against if measured else "champion",
        entry.threshold,
        entry.holds,
        entry.reason,
        entry.clips,
        entry.speakers,
    )


def _difference_row(entry: Difference) -> PromotionRow:
    return PromotionRow(
        entry.condition, entry.metric, _bounds(entry.challenger), _bounds(entry.other), _bounds(entry.difference),
        entry.opponent,
    )  # fmt: skip


def _bounds(interval: Interval) -> Bounds:
    return interval.value, interval.low, interval.high


def _line(row: PromotionRow) -> str:
    """Return one condition as a line of the printed table."""
    verdict = _VERDICTS[row.holds]
    if row.difference is None:
        return f"{row.metric}  {verdict}: {row.reason}"
    value, interval = row.difference_text()
    other = "champion" if row.against == "champion" else "constant answer"
    scores = f"{row.score_text(row.challenger)[0]} against {row.score_text(row.other)[0]} ({other})"
    return f"{row.metric} {scores}: {value} ({interval}), asked {row.threshold_text()}: {verdict}"

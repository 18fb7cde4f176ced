"""An audit on the screen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vavl.audit.audit import Audit
from vavl.audit.finding import Check, State

_WIDTH = max(len(state) for state in State)


def finding_rows(audit: Audit) -> list[tuple[str, str]]:
    """Return one row per check for a table: its name, its state and its finding."""
    return [
        (
            finding.check.value + (f" ({finding.labels})" if finding.labels else ""),
            f"{finding.state:<{_WIDTH}}  {finding.text}",
        )
        for finding in audit.findings
    ]


def label_rows(audit: Audit) -> list[tuple[str, str]]:
    """Return rows on the label sets: what each holds, how they agree, and the yard-sticks that follow."""
    facts = next((finding.numbers for finding in audit.findings if finding.check == Check.LABEL_SETS), {})
    rows = []
    for found in facts.get("sets", ()):
        tied = f", {found['tied']:,} tied" if found["tied"] else ""
        rows.append(
            (
                found["name"],
                f"{found['with_class']:,} of {found['known']:,} clips with a class{tied}: {found['target']}",
            )
        )
    for pair in facts.get("agreements", ()):
        share = f"{100 * pair['equal'] / pair['clips']:.1f} %"
        rows.append((f"{pair['one']} = {pair['other']}", f"{share} of {pair['clips']:,} clips"))
    rows += [
        (f"{stick['prediction']} for {stick['truth']}", yardstick_words(stick))
        for stick in facts.get("yardsticks", ())
    ]
    for fold in facts.get("folds", ()):
        splits = ", ".join(
            f"{name} {fold['clips'][name]:,} ({fold['speakers'][name]})" for name in fold["clips"]
        )
        rows.append((f"fold {fold['fold']}", f"clips (speakers): {splits}"))
    return rows


def yardstick_words(stick: Mapping[str, Any]) -> str:
    """Say what one label set scores when it is taken for predictions of another."""
    means = {name: sum(stick[name].values()) / len(stick[name]) for name in ("f1_micro", "f1_macro")}
    scores = f"F1-micro {means['f1_micro']:.3f}, F1-macro {means['f1_macro']:.3f}"
    return f"{scores}, mean over {len(stick['f1_micro'])} test set(s)"


def verdict(audit: Audit) -> str:
    """Say in a line how the audit ended, and what a training makes of it."""
    counts = audit.counts()
    told = f"{counts['passed']} checks passed, {counts['warning']} warnings, {counts['failed']} failed"
    if audit.state != State.FAILED:
        return told
    names = ", ".join(dict.fromkeys(finding.check.value for finding in audit.of(State.FAILED)))
    return f"{told}: training refuses this store until that is repaired, or with data.waive_audit=[{names}]"


def failed_lines(audit: Audit) -> list[str]:
    """Return what failed and what to do about it, one line each."""
    return [f"{finding.title}: {finding.text}\n  fix: {finding.fix}" for finding in audit.of(State.FAILED)]

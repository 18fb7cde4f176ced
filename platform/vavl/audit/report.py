"""The page of an audit: what failed, every check, pictures, and the clips concerned."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vavl.audit.audit import Audit, audit_store, write_audit
from vavl.audit.finding import Finding, State
from vavl.audit.pictures import audit_pictures
from vavl.audit.settings import AuditSettings
from vavl.audit.words import label_rows
from vavl.reports import page
from vavl.reports.page import Html, Tile

REPORT_FILE = "audit.html"
_TILE_COLOURS = {State.PASSED: "video", State.WARNING: "audio", State.FAILED: "mark-line"}


def write_audit_report(audit: Audit, folder: Path) -> Path:
    """Write ``audit.html`` into ``folder``, whole and self-contained; return its path."""
    subtitle = f"{audit.clips:,} clips of {audit.speakers} speakers · {audit.protocol} · {_of_what(audit)}"
    return page.write_page(folder / REPORT_FILE, f"Audit of {audit.corpus}", subtitle, _parts(audit))


def audit_and_report(folder: Path) -> Audit:
    """Audit the store in ``folder`` by the default thresholds; leave record and page beside it.

    Raises:
        StoreError: the store is missing, incomplete or broken.
        InputError: the folder cannot be written.
    """
    audit = audit_store(folder, AuditSettings())
    write_audit(audit, folder)
    write_audit_report(audit, folder)
    return audit


def _parts(audit: Audit) -> Iterator[Html]:
    counts = audit.counts()
    yield page.tiles([Tile(str(counts[state]), _title(state), _TILE_COLOURS[state]) for state in State])
    for finding in audit.of(State.FAILED):
        yield page.mark(
            f"Failed: {finding.title}", f"{finding.text}. {_sentence(finding.fix)} Training refuses this store unless "
            f"data.waive_audit names {finding.check}."
        )  # fmt: skip
    note = "A check that could not be made is a warning. Thresholds: AuditSettings."
    yield page.section("Checks", _check_table(audit), note=note)
    drawn = list(audit_pictures(audit))
    if drawn:
        yield page.section("Pictures", page.pictures(drawn))
    if rows := label_rows(audit):
        yield page.section("Label sets", page.facts(dict(rows)))
    yield from _balance_sections(audit)
    for finding in audit.findings:
        if finding.examples:
            yield page.section(f"Clips: {finding.title}", _example_table(finding))
    targets = {f"labels {name}" if name else "labels": target for name, target in audit.label_sets.items()}
    yield page.section(
        "What was looked at", page.facts({"corpus": audit.corpus, **targets, **vars(audit.key)})
    )


def _of_what(audit: Audit) -> str:
    return f"store {audit.key.store_hash}" if audit.key.store_hash else "labels alone, no media"


def _check_table(audit: Audit) -> Html:
    rows = [
        [page.with_small(finding.title, finding.check), state.value, page.prose(finding.text, finding.fix)]
        for state in (State.FAILED, State.WARNING, State.PASSED)
        for finding in audit.of(state)
    ]
    return page.table(["check", "", page.prose("finding")], rows)


def _balance_sections(audit: Audit) -> Iterator[Html]:
    for finding in audit.findings:
        counts = finding.numbers.get("counts") if "classes" in finding.numbers else None
        if counts:
            rows: list[list[Any]] = []
            for fold, splits in counts.items():
                rows.append([f"fold {fold}"])
                rows += [[split, sum(found), *found] for split, found in splits.items()]
            yield page.section(
                f"Clips per class: {finding.title}",
                page.table(["", "all", *finding.numbers["classes"]], rows),
            )


def _example_table(finding: Finding) -> Html:
    names = list(dict.fromkeys(name for example in finding.examples for name in example))
    rows = [[_cell(example.get(name, "")) for name in names] for example in finding.examples]
    # A row of one cell would be a heading.
    return page.table([*names, ""], [[*row, ""] for row in rows])


def _cell(value: Any) -> str:
    return ", ".join(str(item) for item in value) if isinstance(value, list | tuple) else str(value)


def _title(state: State) -> str:
    return {State.PASSED: "checks passed", State.WARNING: "warnings", State.FAILED: "failed"}[state]


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}." if text else ""

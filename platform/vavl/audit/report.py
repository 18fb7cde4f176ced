"""An audit for people: the page with its plots, the summary, and what a job prints."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from vavl.audit.audit import Audit, audit_labels, audit_store, write_audit
from vavl.audit.finding import Check, Finding, State
from vavl.audit.settings import AuditSettings
from vavl.config.files import make_directory, write_json
from vavl.corpora.card import read_card
from vavl.corpora.manifest import listed_manifest
from vavl.errors import VavlError
from vavl.reports.plots import Plot, legend_below, new_figure
from vavl.reports.render import write_page
from vavl.reports.theme import CONDITION_TITLES, LIGHT
from vavl.store.store import FeatureStore
from vavl.store.store_cache import local_store

REPORT_FILE = "audit.html"
SUMMARY_FILE = "summary.json"
_SUMMARY_DIRECTORY = "audit"
_SIZE = (5.6, 3.4)
_MANY_CLASSES = 6
_HISTOGRAMS = {
    Check.DURATIONS: ("seconds", "durations of the clips"),
    Check.SILENCE: ("share of silence", "silence in each clip"),
    Check.CLIPPING: ("share of samples at full scale", "clipping in each clip"),
    Check.FACES: ("share of frames with a face", "faces in each clip"),
}


def audit_and_report(directory: Path) -> Audit:
    """Audit the store in ``directory`` by the default thresholds; leave record and page next to it.

    Raises:
        StoreError: the store is missing, incomplete or broken.
        InputError: the directory cannot be written.
    """
    audit = audit_store(directory, AuditSettings())
    write_results(audit, directory)
    return audit


def audit_place(place: Path | str, output_dir: Path | None, settings: AuditSettings) -> tuple[Audit, Path]:
    """Audit the store at ``place`` and write ``audit.json``, ``audit.html`` and ``summary.json``.

    The whole store is read and compared with its hashes first. Without ``output_dir`` the summary goes into ``audit/``
    of the store, the others next to the store if they are made by the default thresholds, which training judges by.

    Returns:
        The audit, and the path of its page.

    Raises:
        StoreError: the store is missing, incomplete or damaged.
        InputError: the store cannot be read, or a directory cannot be written.
    """
    start = time.monotonic()
    directory = local_store(place)
    FeatureStore.open(directory).verify()
    audit = audit_store(directory, settings)
    home = make_directory(output_dir or directory / _SUMMARY_DIRECTORY)
    is_record = output_dir is None and settings == AuditSettings()
    report = write_results(audit, directory if is_record else home)
    _write_summary(audit, home, time.monotonic() - start)
    return audit, report


def audit_card(card: Path, root: Path | None, output_dir: Path, settings: AuditSettings) -> tuple[Audit, Path]:
    """Audit labels and splits of a corpus from its tables alone; writes the same files into ``output_dir``.

    Raises:
        ConfigError, CorpusError: the card or a table is wrong, or the card names no list of clips.
        InputError: the directory cannot be written.
    """
    start = time.monotonic()
    audit = audit_labels(listed_manifest(read_card(card), root), settings)
    report = write_results(audit, make_directory(output_dir))
    _write_summary(audit, output_dir, time.monotonic() - start)
    return audit, report


def write_results(audit: Audit, directory: Path) -> Path:
    """Write ``audit.json`` and ``audit.html``, whole and self-contained; return the path of the page."""
    write_audit(audit, directory)
    source = f"store {audit.key.store_hash}" if audit.key.store_hash else "labels alone, no media"
    return write_page(
        directory / REPORT_FILE,
        "audit/report.html",
        f"Audit of {audit.corpus}",
        f"{audit.clips:,} clips of {audit.speakers} speakers · {audit.protocol} · {source}",
        audit=audit,
        counts=audit.counts(),
        by_severity=[finding for state in reversed(State) for finding in audit.of(state)],
        failed=audit.of(State.FAILED),
        plots=list(audit_plots(audit)),
        label_rows=dict(label_rows(audit)),
        balances=[finding for finding in audit.findings if finding.numbers.get("classes")],
        key=vars(audit.key),
    )


def refuse_failed(audit: Audit, place: Path | str) -> None:
    """Turn a failed audit into a failed job.

    Raises:
        VavlError: names the failed checks and what to do.
    """
    failed = audit.of(State.FAILED)
    if failed:
        fixes = "; ".join(dict.fromkeys(finding.fix for finding in failed))
        names = ", ".join(audit.checks(State.FAILED))
        raise VavlError(str(place), "audit", f"{len(failed)} check(s) failed: {names}", fixes)


def _write_summary(audit: Audit, directory: Path, seconds: float) -> None:
    findings = [
        {"check": one.check.value, "labels": one.labels, "state": one.state.value, "text": one.text}
        for one in audit.findings
    ]
    facts = {"clips": audit.clips, "speakers": audit.speakers, "store_hash": audit.key.store_hash}
    summary = {"corpus": audit.corpus, **audit.summary(), "findings": findings, **facts}
    write_json(directory / SUMMARY_FILE, {**summary, "seconds": round(seconds, 3)})


def finding_rows(audit: Audit) -> list[tuple[str, str]]:
    """Return one row per check for a table: its name, its state and its finding."""
    width = max(len(state) for state in State)
    return [
        (
            finding.check.value + (f" ({finding.labels})" if finding.labels else ""),
            f"{finding.state:<{width}}  {finding.text}",
        )
        for finding in audit.findings
    ]


def label_rows(audit: Audit) -> list[tuple[str, str]]:
    """Return rows on the label sets: what each holds, how they agree, what one scores as predictions of another."""
    facts = next((finding.numbers for finding in audit.findings if finding.check == Check.LABEL_SETS), {})
    rows = []
    for found in facts.get("sets", ()):
        tied = f", {found['tied']:,} tied" if found["tied"] else ""
        count = f"{found['with_class']:,} of {found['known']:,} clips with a class{tied}"
        rows.append((found["name"], f"{count}: {found['target']}"))
    for pair in facts.get("agreements", ()):
        share = f"{100 * pair['equal'] / pair['clips']:.1f} %"
        rows.append((f"{pair['one']} = {pair['other']}", f"{share} of {pair['clips']:,} clips"))
    for score in facts.get("yardsticks", ()):
        means = {name: float(np.mean(list(score[name].values()))) for name in ("f1_micro", "f1_macro")}
        scores = f"F1-micro {means['f1_micro']:.3f}, F1-macro {means['f1_macro']:.3f}"
        sets = len(score["f1_micro"])
        rows.append((f"{score['prediction']} for {score['truth']}", f"{scores}, mean over {sets} test set(s)"))
    for fold in facts.get("folds", ()):
        counts = (f"{name} {clips:,} ({fold['speakers'][name]})" for name, clips in fold["clips"].items())
        rows.append((f"fold {fold['fold']}", f"clips (speakers): {', '.join(counts)}"))
    return rows


def verdict(audit: Audit) -> str:
    """Say in a line how the audit ended, and what a training run makes of it."""
    counts = audit.counts()
    line = f"{counts['passed']} checks passed, {counts['warning']} warnings, {counts['failed']} failed"
    if audit.state != State.FAILED:
        return line
    names = ", ".join(audit.checks(State.FAILED))
    return f"{line}: training refuses this store until that is repaired, or with data.waive_audit=[{names}]"


def failed_lines(audit: Audit) -> list[str]:
    """Return what failed and what to do about it, one line each."""
    return [f"{finding.title}: {finding.text}\n  fix: {finding.fix}" for finding in audit.of(State.FAILED)]


def audit_plots(audit: Audit) -> Iterator[Plot]:
    """Yield the plots that the findings allow; what is not known has none."""
    for finding in audit.findings:
        if "classes" in finding.numbers:
            yield _class_plot(finding)
        if "histogram" not in finding.numbers:
            continue
        if finding.check == Check.NEAR_DUPLICATES:
            for modality, parts in finding.numbers["histogram"].items():
                caption = f"{modality}: a test clip left of all training clips would be a copy"
                label = "cosine distance to the nearest training clip"
                yield _histogram_plot(f"neighbours_{modality}", parts, label, caption)
        else:
            yield _histogram_plot(finding.check.value, finding.numbers["histogram"], *_HISTOGRAMS[finding.check])


def _class_plot(finding: Finding) -> Plot:
    fold, counts = next(iter(finding.numbers["counts"].items()))
    several = len(finding.numbers["counts"]) > 1
    return Plot(
        "classes" + (f"_{finding.labels}" if finding.labels else ""),
        finding.title + (f", fold {fold} (the others are in the table)" if several else ""),
        "Bars of the share of each class in training, validation and test",
        _classes_figure(counts, finding.numbers["classes"]),
    )


def _classes_figure(counts: Mapping[str, Sequence[int]], classes: Sequence[str]) -> Figure:
    """Draw the share of each class in every split: bars of one color belong to one split."""
    figure, axes = new_figure((max(_SIZE[0], 0.8 * len(classes)), _SIZE[1]))
    width = 0.8 / len(counts)
    for number, (split, found) in enumerate(counts.items()):
        share = 100 * np.asarray(found) / max(sum(found), 1)
        left = np.arange(len(classes)) + (number - (len(counts) - 1) / 2) * width
        axes.bar(left, share, 0.9 * width, color=LIGHT.series[number], label=f"{split}, {sum(found):,} clips")
    tilt = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"} if len(classes) > _MANY_CLASSES else {}
    axes.set_xticks(np.arange(len(classes)), classes, **tilt)
    axes.set_ylabel("clips of the split (%)")
    axes.grid(axis="y", color=LIGHT.line, linewidth=0.8)
    legend_below(axes, columns=3)
    return figure


def _histogram_plot(name: str, parts: Mapping[str, Mapping[str, Any]], label: str, caption: str) -> Plot:
    """Draw histograms over each other; several ones as shares of their own clips."""
    figure, axes = new_figure(_SIZE)
    for number, (title, part) in enumerate(parts.items()):
        counts = np.asarray(part["counts"], float)
        heights = 100 * counts / max(counts.sum(), 1) if len(parts) > 1 else counts
        color = LIGHT.of_condition(title) if title in CONDITION_TITLES else LIGHT.series[number]
        legend = f"{title}, {int(counts.sum()):,} clips"
        axes.stairs(heights, part["edges"], color=color, fill=True, alpha=0.35)
        axes.stairs(heights, part["edges"], color=color, linewidth=1.5, label=legend)
    axes.set_xlabel(label)
    axes.set_ylabel("clips (%)" if len(parts) > 1 else "clips")
    axes.grid(axis="y", color=LIGHT.line, linewidth=0.8)
    legend_below(axes, columns=3)
    return Plot(name, caption, f"Histogram: {label}", figure)

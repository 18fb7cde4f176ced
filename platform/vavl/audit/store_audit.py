"""The audit that a person asks for: record, report and summary, by thresholds of one's own."""

from __future__ import annotations

import time
from pathlib import Path

from vavl.audit.audit import Audit, audit_labels, audit_store, write_audit
from vavl.audit.finding import State
from vavl.audit.report import write_audit_report
from vavl.audit.settings import AuditSettings
from vavl.config.files import make_folder, write_json
from vavl.corpora.card import read_card
from vavl.corpora.manifest import listed_manifest
from vavl.errors import VavlError
from vavl.store.store_cache import local_store

SUMMARY_FILE = "summary.json"
_SUMMARY_FOLDER = "audit"


def audit_place(place: Path | str, output_dir: Path | None, settings: AuditSettings) -> tuple[Audit, Path]:
    """Audit the store at ``place`` and write ``audit.json``, ``audit.html`` and ``summary.json``.

    Args:
        place: folder or address of the store; an address is copied to this machine first.
        output_dir: folder of all three. None: the summary goes into ``audit/`` of the store, the others
            beside the store if they are made by the default thresholds, which training judges by.
        settings: thresholds.

    Returns:
        The audit, and the path of its page.

    Raises:
        StoreError, InputError: the store cannot be read, or a folder cannot be written.
    """
    start = time.monotonic()
    folder = local_store(place)
    audit = audit_store(folder, settings)
    home = make_folder(output_dir or folder / _SUMMARY_FOLDER)
    is_record = output_dir is None and settings == AuditSettings()
    report = _write(audit, folder if is_record else home)
    _summarise(audit, home, time.monotonic() - start)
    return audit, report


def audit_card(
    card: Path, root: Path | None, output_dir: Path, settings: AuditSettings
) -> tuple[Audit, Path]:
    """Audit labels and splits of a corpus from its tables alone; writes the same files into ``output_dir``.

    Raises:
        ConfigError, CorpusError: the card or a table is wrong, or the card names no list of clips.
        InputError: the folder cannot be written.
    """
    start = time.monotonic()
    audit = audit_labels(listed_manifest(read_card(card), root), settings)
    report = _write(audit, make_folder(output_dir))
    _summarise(audit, output_dir, time.monotonic() - start)
    return audit, report


def refuse_failed(audit: Audit, place: Path | str) -> None:
    """Turn a failed audit into a failed job.

    Raises:
        VavlError: names the failed checks and what to do.
    """
    failed = audit.of(State.FAILED)
    if failed:
        names = ", ".join(dict.fromkeys(finding.check.value for finding in failed))
        raise VavlError(
            str(place), "audit", f"{len(failed)} check(s) failed: {names}",
            "; ".join(dict.fromkeys(finding.fix for finding in failed)),
        )  # fmt: skip


def _write(audit: Audit, folder: Path) -> Path:
    write_audit(audit, folder)
    return write_audit_report(audit, folder)


def _summarise(audit: Audit, folder: Path, seconds: float) -> None:
    findings = [
        {
            "check": finding.check.value,
            "labels": finding.labels,
            "state": finding.state.value,
            "text": finding.text,
        }
        for finding in audit.findings
    ]
    summary = {
        "corpus": audit.corpus, **audit.summary(), "findings": findings, "clips": audit.clips,
        "speakers": audit.speakers, "store_hash": audit.key.store_hash, "seconds": round(seconds, 3),
    }  # fmt: skip
    write_json(folder / SUMMARY_FILE, summary)

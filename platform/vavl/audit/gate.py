"""Between a store and a training run: what the audit has to say, before anything heavy starts."""

from __future__ import annotations

import difflib
import json
import logging
import shlex
from collections.abc import Collection
from pathlib import Path

from vavl.audit.audit import RECORD_FILE, Audit, AuditKey, current_audit
from vavl.audit.finding import Check, Finding, State
from vavl.audit.settings import AuditSettings
from vavl.errors import ConfigError, VavlError
from vavl.store.remote_files import RemoteDirectory
from vavl.store.store_cache import is_at_hand, local_notes, local_store
from vavl.store.store_versions import split_version, store_directory

_KEY = "data.waive_audit"
_log = logging.getLogger(__name__)


def pass_audit(place: Path | str, labels: str | None, waived: Collection[str]) -> Audit:
    """Audit a store by the default thresholds, and refuse it when a check failed that is not waived.

    A current record is reused: that of the store's directory, or that which lies at its address. Without
    one the store is audited here, which needs its features.

    Args:
        place: directory or address of the store.
        labels: label set of the run; None is the default of the corpus.
        waived: names of checks that may fail.

    Raises:
        ConfigError: a check failed, or a waiver names no check.
        StoreError, InputError: the store cannot be read.
    """
    _check_waivers(waived)
    audit = audit_of(place)
    _refuse_failures(audit, place, labels, waived)
    return audit


def _check_waivers(waived: Collection[str]) -> None:
    known = [check.value for check in Check]
    for name in waived:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            meant = f"; did you mean `{close[0]}`?" if close else ""
            raise ConfigError(
                "configuration", _KEY, f"there is no check `{name}`", f"choose from {', '.join(known)}{meant}"
            )


def _refuse_failures(audit: Audit, place: Path | str, labels: str | None, waived: Collection[str]) -> None:
    """Refuse failed checks, with finding and fix of each; log what is waived, and the warnings."""
    standing = audit.failures(labels, waived)
    if standing:
        names = ", ".join(dict.fromkeys(finding.check.value for finding in standing))
        fixes = "; ".join(dict.fromkeys(finding.fix for finding in standing))
        plots = f"plots: python jobs/audit_corpus.py {shlex.quote(str(place))}"
        accept = f"or accept it, recorded with the run: {_KEY}=[{names}]"
        problem = "\n".join(_line(finding) for finding in standing)
        raise ConfigError(str(place), "audit", problem, f"{fixes}; {plots}; {accept}")
    failures = audit.failures(labels)
    for finding in failures:
        _log.warning("waived: %s", _line(finding))
    failed = {finding.check.value for finding in failures}
    if idle := [name for name in waived if name not in failed]:
        _log.info("%s names %s, which did not fail", _KEY, ", ".join(idle))
    if checks := ", ".join(audit.checks(State.WARNING)):
        count = len(audit.of(State.WARNING))
        _log.info("audit of %s: %d warning(s): %s; see %s", audit.corpus, count, checks, RECORD_FILE)


def audit_of(place: Path | str) -> Audit:
    """Return the current audit of a store by the default thresholds, made now if there is none."""
    settings = AuditSettings()
    if isinstance(place, str) and not is_at_hand(place):
        audit = _audit_at(place, settings)
        if audit is not None:
            return audit
        _log.info("%s has no current audit: its features are copied here to make one", place)
    # What a pushed version holds never changes.
    is_version = isinstance(place, Path) and split_version(place)[1] is not None
    return current_audit(local_store(place), settings, keep=not is_version)


def _audit_at(address: str, settings: AuditSettings) -> Audit | None:
    """Return the audit that lies at the address, if it belongs to the store there."""
    try:
        audit = Audit.from_json(json.loads(RemoteDirectory(str(store_directory(address))).read(RECORD_FILE)))
    except (VavlError, KeyError, TypeError, ValueError):
        return None
    return audit if audit.key.is_of(AuditKey.of(local_notes(address), settings)) else None


def _line(finding: Finding) -> str:
    labels = f" of the labels {finding.labels}" if finding.labels else ""
    return f"check {finding.check}{labels} failed: {finding.text}"

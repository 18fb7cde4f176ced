"""All checks of a store, their record next to it, and what they have to say before a training run starts."""

from __future__ import annotations

import difflib
import json
import logging
import shlex
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from vavl.audit import corpus_checks, label_checks, people_checks, split_checks
from vavl.audit.finding import Check, Finding, Material, State
from vavl.audit.settings import AuditSettings
from vavl.config.files import read_json, sha256_of_file, write_json
from vavl.corpora.manifest import MANIFEST_FILE, Manifest
from vavl.errors import ConfigError, InputError, VavlError
from vavl.store.clip_facts import FILE_NAME as FACTS_FILE
from vavl.store.remote_files import RemoteDirectory
from vavl.store.store import read_content
from vavl.store.store_cache import is_at_hand, local_store
from vavl.store.store_versions import split_version, store_directory

RECORD_FILE = "audit.json"
AUDIT_VERSION = 2
"""Raised with every change of a check; an older record is made anew."""

_KEY = "data.waive_audit"
_log = logging.getLogger(__name__)

CheckFunction = Callable[[Material, AuditSettings], Finding]
_OF_THE_CORPUS: tuple[CheckFunction, ...] = (
    split_checks.check_speakers,
    people_checks.check_speaker_names,
    split_checks.check_duplicate_files,
    split_checks.check_equal_features,
    split_checks.check_near_duplicates,
    corpus_checks.check_quarantine,
    corpus_checks.check_partners,
    corpus_checks.check_durations,
    corpus_checks.check_side_lengths,
    corpus_checks.check_silence,
    corpus_checks.check_clipping,
    corpus_checks.check_faces,
)
_OF_TABLES: tuple[CheckFunction, ...] = (
    label_checks.check_label_balance,
    label_checks.check_identity,
    people_checks.check_sentences,
)
_OF_THE_LABELS: tuple[CheckFunction, ...] = (*_OF_TABLES, label_checks.check_batches)


@dataclass(frozen=True)
class AuditKey:
    """What an audit belongs to; it is current as long as nothing of it has changed.

    An audit of labels alone has no store hash, and the hash of the card in place of the manifest's.
    """

    version: int
    settings_hash: str
    store_hash: str
    manifest_sha256: str
    facts_sha256: str | None

    @classmethod
    def of(cls, directory: Path, settings: AuditSettings) -> Self:
        """Return the key of the store in ``directory``; a copy may lack the facts.

        Raises:
            StoreError: there is no complete store.
        """
        facts = directory / FACTS_FILE
        return cls(
            AUDIT_VERSION,
            settings.hash,
            str(read_content(directory)["store_hash"]),
            sha256_of_file(directory / MANIFEST_FILE),
            sha256_of_file(facts) if facts.exists() else None,
        )

    def is_of(self, other: AuditKey) -> bool:
        """Tell whether two keys agree; facts that ``other`` does not have at hand do not count."""
        facts = other.facts_sha256 in (None, self.facts_sha256)
        return facts and {**asdict(self), "facts_sha256": None} == {**asdict(other), "facts_sha256": None}


@dataclass(frozen=True)
class Audit:
    """The findings of all checks of one store."""

    key: AuditKey  # what they belong to
    corpus: str
    protocol: str
    label_sets: Mapping[str, str]  # what the labels mean, by name of the set; the first is the default
    clips: int
    speakers: int
    findings: tuple[Finding, ...]  # of every check, those of labels once per set

    @property
    def state(self) -> State:
        """The worst state of any check."""
        states = {finding.state for finding in self.findings}
        return next((state for state in (State.FAILED, State.WARNING) if state in states), State.PASSED)

    def of(self, state: State) -> list[Finding]:
        """Return the findings in this state."""
        return [finding for finding in self.findings if finding.state == state]

    def checks(self, state: State) -> list[str]:
        """Return the names of the checks in this state, each once."""
        return list(dict.fromkeys(finding.check.value for finding in self.of(state)))

    def failures(self, labels: str | None, waived: Collection[str] = ()) -> list[Finding]:
        """Return what stands against a training.

        ``labels`` is the label set of the training; what fails of another does not count.
        """
        chosen = labels or next(iter(self.label_sets), None)
        return [
            finding
            for finding in self.of(State.FAILED)
            if finding.check not in waived and finding.labels in (None, chosen)
        ]

    def counts(self) -> dict[str, int]:
        """Return how many checks ended in which state."""
        return {state.value: len(self.of(state)) for state in State}

    def summary(self) -> dict[str, Any]:
        """Return state, counts of states and the names of the checks that did not pass."""
        names = {state.value: self.checks(state) for state in (State.WARNING, State.FAILED)}
        return {"state": self.state.value, **self.counts(), "checks": names}

    def to_json(self) -> dict[str, Any]:
        """Return the content of ``audit.json``."""
        return {
            "key": asdict(self.key),
            "state": self.state.value,
            **{name: getattr(self, name) for name in ("corpus", "protocol", "clips", "speakers")},
            "label_sets": dict(self.label_sets),
            "findings": [finding.to_json() for finding in self.findings],
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """Read what ``to_json`` returned."""
        rest = {name: content[name] for name in ("corpus", "protocol", "label_sets", "clips", "speakers")}
        findings = tuple(Finding.from_json(entry) for entry in content["findings"])
        return cls(AuditKey(**content["key"]), findings=findings, **rest)


def audit_store(directory: Path, settings: AuditSettings) -> Audit:
    """Make every check of the store in ``directory``; nothing is written.

    Raises:
        StoreError: the store is missing, incomplete or broken.
    """
    material, key = Material.of(directory), AuditKey.of(directory, settings)
    return _audit(key, material, settings, _OF_THE_CORPUS, _OF_THE_LABELS)


def audit_labels(manifest: Manifest, settings: AuditSettings) -> Audit:
    """Make the checks that need neither features nor files: of a corpus whose media are not at hand."""
    key = AuditKey(AUDIT_VERSION, settings.hash, "", manifest.card_hash, None)
    return _audit(key, Material(manifest, None, None), settings, _OF_THE_CORPUS[:2], _OF_TABLES)


def current_audit(directory: Path, settings: AuditSettings, *, keep: bool = True) -> Audit:
    """Return the recorded audit of a store if it is current, else a new one, which is recorded where it can be.

    Raises:
        StoreError: the store is missing, incomplete or broken.
    """
    recorded = recorded_audit(directory)
    if recorded is not None and recorded.key.is_of(AuditKey.of(directory, settings)):
        return recorded
    audit = audit_store(directory, settings)
    if not keep:
        return audit
    try:
        write_audit(audit, directory)
    except InputError as error:
        _log.warning("the audit is not kept, it is made again next time: %s", error.problem)
    return audit


def recorded_audit(directory: Path) -> Audit | None:
    """Return the audit recorded in ``directory``; None where there is none that this version reads."""
    try:
        return Audit.from_json(read_json(directory / RECORD_FILE))
    except (InputError, KeyError, TypeError, ValueError):
        return None


def write_audit(audit: Audit, directory: Path) -> Path:
    """Write ``audit.json`` into ``directory`` and return its path.

    Raises:
        InputError: the directory cannot be written.
    """
    path = directory / RECORD_FILE
    write_json(path, audit.to_json())
    return path


def _audit(
    key: AuditKey,
    material: Material,
    settings: AuditSettings,
    of_the_corpus: Iterable[CheckFunction],
    of_the_labels: Sequence[CheckFunction],
) -> Audit:
    manifest, order = material.manifest, list(Check)
    findings = [corpus_checks.check_counts(material), label_checks.check_label_sets(material)]
    findings += [check(material, settings) for check in of_the_corpus]
    for name in list(manifest.label_sets) or [""]:
        chosen = material.with_labels(name) if name else material
        findings += [check(chosen, settings).with_labels(name) for check in of_the_labels]
    findings.sort(key=lambda finding: order.index(finding.check))
    label_sets, sizes = manifest.label_sets or {"": manifest.target}, (len(manifest), len(material.speakers[1]))
    return Audit(key, manifest.corpus, manifest.protocol, label_sets, *sizes, tuple(findings))


def pass_audit(place: Path | str, labels: str | None, waived: Collection[str]) -> Audit:
    """Audit a store by the default thresholds, and refuse it when a check failed that is not waived.

    A current record is reused: that of the store's directory, or that which lies at its address. Without one the store
    is audited here, which needs its features. ``labels`` is the label set of the run; None is the default of the
    corpus. Checks named in ``waived`` may fail.

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
            fix = f"choose from {', '.join(known)}{meant}"
            raise ConfigError("configuration", _KEY, f"there is no check `{name}`", fix)


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
    return audit if audit.key.is_of(AuditKey.of(local_store(address), settings)) else None


def _line(finding: Finding) -> str:
    labels = f" of the labels {finding.labels}" if finding.labels else ""
    return f"check {finding.check}{labels} failed: {finding.text}"

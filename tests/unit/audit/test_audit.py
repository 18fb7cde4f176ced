"""A clean corpus passes every check, and what an audit leaves reads back equal."""

from __future__ import annotations

from pathlib import Path

import pytest
from audited_corpus import CLIPS, write_audited_corpus

from vavl.audit.audit import Audit, audit_store, current_audit, recorded_audit, write_audit
from vavl.audit.finding import TITLES, Check, State
from vavl.audit.settings import AuditSettings


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    return write_audited_corpus(tmp_path_factory.mktemp("clean"))


@pytest.fixture(scope="module")
def audit(store) -> Audit:
    return audit_store(store, AuditSettings())


def test_every_check_is_made_and_passes(audit):
    assert {finding.check for finding in audit.findings} == set(Check) == TITLES.keys()
    assert [(finding.check, finding.text) for finding in audit.findings if finding.state != State.PASSED] == []
    assert all(finding.is_known and not finding.fix for finding in audit.findings)
    assert audit.state == State.PASSED
    assert (audit.clips, audit.speakers) == (CLIPS, 10)


def test_label_checks_are_made_once_per_set(audit):
    by_set = [finding.labels for finding in audit.findings if finding.check == Check.LABEL_BALANCE]
    assert by_set == ["given", "heard"]
    agreement = next(finding for finding in audit.findings if finding.check == Check.LABEL_SETS)
    assert agreement.numbers["agreements"] == [
        {"one": "given", "other": "heard", "clips": CLIPS, "equal": CLIPS * 5 // 6}
    ]
    assert "given and heard agree in 83.3 % of 120 clips" in agreement.text


def test_a_record_reads_back_equal_and_is_reused_until_something_changes(store, audit, monkeypatch):
    write_audit(audit, store)
    assert recorded_audit(store).to_json() == audit.to_json()
    monkeypatch.setattr("vavl.audit.audit.audit_store", lambda *_: pytest.fail("audited again"))
    assert current_audit(store, AuditSettings()).to_json() == audit.to_json()
    made = []
    monkeypatch.setattr("vavl.audit.audit.audit_store", lambda *_: made.append(1) or audit)
    current_audit(store, AuditSettings(most_examples=3))  # other thresholds
    (store / "audit.json").write_text("{}")
    current_audit(store, AuditSettings())
    assert len(made) == 2


@pytest.mark.parametrize("changed", ["manifest", "facts.arrow", "store.json"])
def test_a_change_of_the_store_makes_the_record_stale(changed, tmp_path):
    store = write_audited_corpus(tmp_path)
    before = current_audit(store, AuditSettings()).key

    def other_labels(clips):
        for clip in clips:
            match changed:
                case "manifest":
                    clip.heard = clip.label
                case "facts.arrow":
                    clip.facts["audio"]["peak"] = 0.4
                case _:
                    clip.features["audio"] = clip.features["audio"] + 1

    write_audited_corpus(tmp_path, other_labels)
    after = current_audit(store, AuditSettings()).key
    assert before != after
    assert not before.is_of(after)


def test_without_facts_checks_say_that_they_are_not_known(tmp_path):
    store = write_audited_corpus(tmp_path, with_facts=False, metadata={"expected": None})
    audit = audit_store(store, AuditSettings())
    unknown = {finding.check for finding in audit.findings if not finding.is_known}
    assert unknown == {
        Check.DUPLICATE_FILES, Check.DURATIONS, Check.SIDE_LENGTHS, Check.SILENCE, Check.CLIPPING, Check.FACES,
        Check.COUNTS,
    }  # fmt: skip
    assert all(finding.state == State.WARNING for finding in audit.findings if not finding.is_known)
    assert all("not known" in finding.text for finding in audit.findings if not finding.is_known)
    # A copy without facts is still the store that was audited with them.
    assert not audit.key.is_of(audit_store(write_audited_corpus(tmp_path / "b"), AuditSettings()).key)

"""The record of an audit, and what it lets through to training."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import pytest
from audited_corpus import CLIPS, write_audited_corpus

from vavl.audit.audit import RECORD_FILE, audit_store, current_audit, pass_audit, recorded_audit, write_audit
from vavl.audit.finding import Check, State
from vavl.audit.report import audit_and_report
from vavl.audit.settings import AuditSettings
from vavl.errors import ConfigError


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    return write_audited_corpus(tmp_path_factory.mktemp("clean"))


@pytest.fixture(scope="module")
def audit(clean):
    return audit_store(clean, AuditSettings())


def test_every_check_is_made_and_passes(audit):
    assert {finding.check for finding in audit.findings} == set(Check)
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


def test_a_record_reads_back_equal_and_is_reused_until_something_changes(clean, audit, tmp_path, monkeypatch):
    store = shutil.copytree(clean, tmp_path / "store")
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


def leak_speaker(clips):
    next(clip for clip in clips if clip.split == "test").split = "train"


def lose_class_of_heard(clips):
    for clip in clips:
        if clip.split == "validation" and clip.heard == "mad":
            clip.heard = None


@pytest.fixture(scope="module")
def leaky(tmp_path_factory):
    return write_audited_corpus(tmp_path_factory.mktemp("leaky"), leak_speaker)


def test_a_clean_store_passes_and_keeps_its_record(clean):
    audit = pass_audit(clean, None, ())
    assert (clean / RECORD_FILE).exists()
    assert not audit.failures(None)


def test_a_failed_check_stops_with_finding_fix_and_the_waiver_to_write(leaky):
    with pytest.raises(ConfigError, match="check speakers failed: 1 speaker") as caught:
        pass_audit(leaky, None, ())
    assert "correct the card's splits" in caught.value.fix
    assert "data.waive_audit=[speakers]" in caught.value.fix
    assert f"python jobs/audit_corpus.py {leaky}" in caught.value.fix


def test_a_waiver_lets_it_through_and_says_so(leaky, caplog):
    with caplog.at_level(logging.INFO):
        pass_audit(leaky, None, ("speakers", "silence"))
    assert "waived: check speakers failed" in caplog.text
    assert "names silence, which did not fail" in caplog.text
    with pytest.raises(ConfigError, match="check speakers failed"):
        pass_audit(leaky, None, ("silence",))


def test_a_waiver_of_no_check_is_refused_before_anything_is_read():
    with pytest.raises(ConfigError, match="there is no check `speeakers`") as caught:
        pass_audit(Path("/nowhere"), None, ("speeakers",))
    assert "did you mean `speakers`" in caught.value.fix
    assert all(check.value in caught.value.fix for check in Check)


def test_findings_on_other_labels_do_not_count(tmp_path):
    store = write_audited_corpus(tmp_path, lose_class_of_heard)
    pass_audit(store, None, ())
    pass_audit(store, "given", ())
    with pytest.raises(ConfigError, match="check label_balance of the labels heard failed"):
        pass_audit(store, "heard", ())


def test_a_record_is_reused_and_a_forged_pass_of_another_store_is_not(clean, leaky, tmp_path, monkeypatch):
    store = shutil.copytree(leaky, tmp_path / "store")
    (store / RECORD_FILE).unlink(missing_ok=True)
    audit_and_report(clean)
    shutil.copy(clean / RECORD_FILE, store / RECORD_FILE)
    with pytest.raises(ConfigError, match="check speakers failed"):
        pass_audit(store, None, ())
    monkeypatch.setattr("vavl.audit.audit.audit_store", lambda *_: pytest.fail("audited again"))
    with pytest.raises(ConfigError, match="check speakers failed"):
        pass_audit(store, None, ())


def test_a_folder_that_cannot_be_written_is_audited_all_the_same(leaky, tmp_path, monkeypatch, caplog):
    store = shutil.copytree(leaky, tmp_path / "store")
    (store / RECORD_FILE).unlink(missing_ok=True)

    def refuse(audit, folder):
        from vavl.errors import InputError

        raise InputError(str(folder), "", "the directory cannot be written", "change its permissions")

    monkeypatch.setattr("vavl.audit.audit.write_audit", refuse)
    with pytest.raises(ConfigError, match="check speakers failed"):
        pass_audit(store, None, ())
    assert "the audit is not kept" in caplog.text


def test_a_store_at_an_address_is_judged_by_its_record_or_on_the_copy(leaky, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("VAVL_CACHE", str(tmp_path / "cache"))
    far = shutil.copytree(leaky, tmp_path / "far")
    audit_and_report(far)
    address = f"file://{far}"
    with pytest.raises(ConfigError, match="check speakers failed"):
        pass_audit(address, None, ())
    assert not list((tmp_path / "cache").glob("*/audio/data-00000.arrow"))  # the record was enough

    (far / RECORD_FILE).unlink()
    with caplog.at_level(logging.INFO), pytest.raises(ConfigError, match="check speakers failed"):
        pass_audit(address, None, ())
    assert "copied here" in caplog.text
    assert list((tmp_path / "cache").glob(f"*/{RECORD_FILE}"))


def test_a_broken_record_at_an_address_is_made_anew(clean, tmp_path, monkeypatch):
    monkeypatch.setenv("VAVL_CACHE", str(tmp_path / "cache"))
    far = shutil.copytree(clean, tmp_path / "far")
    (far / RECORD_FILE).write_text('{"key": 1}')
    fresh = audit_store(clean, AuditSettings())
    assert [f.check for f in pass_audit(f"file://{far}", None, ()).findings] == [f.check for f in fresh.findings]

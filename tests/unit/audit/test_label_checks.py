"""Missing and rare classes, constant attributes, corpora without labels."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from audited_corpus import made_clips

from vavl.audit.audit import audit_labels
from vavl.audit.finding import Check, State
from vavl.audit.label_checks import check_label_balance, check_label_sets
from vavl.audit.material import Material
from vavl.audit.settings import AuditSettings
from vavl.audit.words import label_rows
from vavl.corpora.manifest import Manifest

SETTINGS = AuditSettings()


def test_a_split_without_a_class_fails(material):
    def no_mad_tests(clips):
        for clip in clips:
            if clip.split == "test" and clip.label == "mad":
                clip.label = None

    finding = check_label_balance(material(no_mad_tests), SETTINGS)
    assert finding.state == State.FAILED
    assert finding.examples == ({"fold": 0, "split": "test", "missing": ["mad"]},)
    assert finding.numbers["counts"]["0"]["test"] == [8, 8, 0]
    # The other label set still has it.
    heard = check_label_balance(material(no_mad_tests).with_labels("heard"), SETTINGS)
    assert heard.state == State.PASSED


def test_uneven_classes_warn(material):
    def rarely_mad(clips):
        mad = [clip for clip in clips if clip.label == "mad" and clip.split == "train"]
        for clip in mad[2:]:
            clip.label = "calm"

    finding = check_label_balance(material(rarely_mad), SETTINGS)
    assert finding.state == State.WARNING
    assert "fewest mad" in finding.text
    assert (
        check_label_balance(material(rarely_mad), AuditSettings(class_ratio_warning=50)).state == State.PASSED
    )


def test_without_labels_it_warns(material):
    def forget(clips):
        for clip in clips:
            clip.label = None

    finding = check_label_balance(material(forget), SETTINGS)
    assert finding.state == State.WARNING
    assert "no clip has a label" in finding.text
    assert check_label_sets(material(forget)).numbers["sets"][0]["known"] == 0


@pytest.mark.parametrize(("is_flat", "state"), [(False, State.PASSED), (True, State.FAILED)])
def test_an_attribute_that_does_not_vary_in_a_split_fails(material, is_flat, state):
    def forget(clips):
        for clip in clips:
            clip.label = None

    found = material(forget)
    table, values = found.manifest.table, np.linspace(0, 1, len(found.manifest)).astype(np.float32)
    if is_flat:
        values[found.splits[0] == 1] = 0.5
    for name in ("arousal", "valence"):
        place = table.column_names.index(name)
        table = table.set_column(place, name, pa.array(values))
    finding = check_label_balance(Material(Manifest(table), found.store, found.facts), SETTINGS)
    assert finding.state == state
    assert ("arousal does not vary in validation of fold 0" in finding.text) == is_flat


def test_labels_alone_are_audited_without_a_store(material):
    audit = audit_labels(material().manifest, SETTINGS)
    assert {finding.check for finding in audit.findings} == {
        Check.SPEAKERS, Check.COUNTS, Check.LABEL_SETS, Check.LABEL_BALANCE, Check.IDENTITY_CANARY,
    }  # fmt: skip
    assert audit.state == State.PASSED
    assert audit.key.store_hash == ""
    rows = dict(label_rows(audit))
    assert rows["given = heard"] == "83.3 % of 120 clips"
    assert rows["fold 0"] == "clips (speakers): train 72 (6), validation 24 (2), test 24 (2)"
    truth = [clip for clip in made_clips() if clip.split == "test"]
    equal = sum(clip.label == clip.heard for clip in truth) / len(truth)
    assert rows["heard for given"].startswith(f"F1-micro {equal:.3f}")

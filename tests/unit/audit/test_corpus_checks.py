"""Counts of the card, unreadable files, clips without a partner."""

from __future__ import annotations

from dataclasses import replace

import pytest
from audited_corpus import CLIPS, write_audited_corpus

from vavl.audit.corpus_checks import check_counts, check_partners, check_quarantine
from vavl.audit.finding import State
from vavl.audit.material import Material
from vavl.audit.settings import AuditSettings
from vavl.store.store import FeatureStore

SETTINGS = AuditSettings()


@pytest.mark.parametrize(
    ("metadata", "state", "text"),
    [
        ({}, State.PASSED, "the whole corpus"),
        ({"expected": {"clips": 7, "speakers": 2}}, State.WARNING, "the card says 7 of 2"),
        (
            {
                "expected": {"clips": 7, "speakers": 2},
                "subset": {"clips": CLIPS, "speakers": 10, "reason": "half of the women"},
            },
            State.PASSED, "the declared part: half of the women",
        ),
        ({"expected": None}, State.WARNING, "not known"),
    ],
)  # fmt: skip
def test_counts(tmp_path, metadata, state, text):
    finding = check_counts(Material.of(write_audited_corpus(tmp_path, metadata=metadata)))
    assert finding.state == state
    assert text in finding.text


@pytest.mark.parametrize(
    ("bad", "state"), [(0, State.PASSED), (3, State.WARNING), (30, State.FAILED), (None, State.WARNING)]
)
def test_quarantine(tmp_path, bad, state):
    found = Material.of(write_audited_corpus(tmp_path))
    counts = {"clips": CLIPS} | ({} if bad is None else {"quarantined": bad})
    store = FeatureStore(found.store.folder, {**found.store.content, "counts": counts})
    finding = check_quarantine(replace(found, store=store), SETTINGS)
    assert finding.state == state
    assert finding.is_known == (bad is not None)


def without(modality, count):
    def change(clips):
        for clip in clips[:count]:
            clip.features[modality] = None

    return change


@pytest.mark.parametrize(
    ("changes", "state", "text"),
    [
        ((without("video", 3),), State.PASSED, "3 sound alone"),
        ((without("video", 30),), State.WARNING, "30 sound alone"),
        ((without("audio", 118),), State.FAILED, "118 picture alone"),
        ((without("audio", 1), without("video", 1)), State.WARNING, "1 nothing at all"),
        ((without("video", CLIPS),), State.PASSED, "has audio alone"),
        ((without("video", CLIPS), without("audio", 2)), State.WARNING, "2 clip(s) lack it"),
    ],
)
def test_partners(tmp_path, changes, state, text):
    finding = check_partners(Material.of(write_audited_corpus(tmp_path, *changes)), SETTINGS)
    assert finding.state == state
    assert text in finding.text

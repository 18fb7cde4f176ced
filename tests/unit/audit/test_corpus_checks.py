"""Counts of the card, unreadable files, clips without a partner; silent, clipped, faceless, short and unlike clips."""

from __future__ import annotations

from dataclasses import replace

import pytest
from audited_corpus import CLIPS, write_audited_corpus

from vavl.audit.corpus_checks import (
    check_clipping,
    check_counts,
    check_durations,
    check_faces,
    check_partners,
    check_quarantine,
    check_side_lengths,
    check_silence,
)
from vavl.audit.finding import Material, State
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
    store = FeatureStore(found.store.directory, {**found.store.content, "counts": counts})
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
        ((without("video", 3),), State.PASSED, "3 audio alone"),
        ((without("video", 30),), State.WARNING, "30 audio alone"),
        ((without("audio", 118),), State.FAILED, "118 video alone"),
        ((without("audio", 1), without("video", 1)), State.WARNING, "1 nothing at all"),
        ((without("video", CLIPS),), State.PASSED, "has audio alone"),
        ((without("video", CLIPS), without("audio", 2)), State.WARNING, "2 clip(s) lack it"),
    ],
)
def test_partners(tmp_path, changes, state, text):
    finding = check_partners(Material.of(write_audited_corpus(tmp_path, *changes)), SETTINGS)
    assert finding.state == state
    assert text in finding.text


@pytest.fixture
def with_facts(tmp_path):
    def make(modality, count, **facts):
        def change(clips):
            for clip in clips[:count]:
                clip.facts[modality].update(facts)

        return Material.of(write_audited_corpus(tmp_path, change))

    return make


@pytest.mark.parametrize(
    ("check", "modality", "facts", "few", "many"),
    [
        (check_silence, "audio", {"peak": 0.0, "silence_share": 1.0}, 0, 1),
        (check_silence, "audio", {"peak": 0.001}, 0, 1),
        (check_silence, "audio", {"silence_share": 0.99}, 0, 1),
        (check_clipping, "audio", {"clipped_share": 0.1, "peak": 1.0}, 1, 40),
        (check_faces, "video", {"face_share": 0.0}, 10, 100),
        (check_durations, "audio", {"seconds": 300.0}, 1, 40),
        (check_durations, "audio", {"seconds": 90.0}, 1, 40),  # not long as such, but unlike the others
        (check_side_lengths, "audio", {"seconds": 4.0}, 1, 40),
    ],
)
def test_a_few_warn_and_many_fail(with_facts, check, modality, facts, few, many):
    assert check(with_facts(modality, 0), SETTINGS).state == State.PASSED
    if few:
        finding = check(with_facts(modality, few, **facts), SETTINGS)
        assert finding.state == State.WARNING
        assert len(finding.examples) == min(few, SETTINGS.most_examples)
        assert f"{few} of {CLIPS} clips" in finding.text
    finding = check(with_facts(modality, many, **facts), SETTINGS)
    assert finding.state == State.FAILED
    assert finding.fix
    assert finding.numbers["odd"] == many
    assert finding.examples[0]["clip"]


def test_a_clip_with_one_short_modality_is_no_short_clip(with_facts):
    found = with_facts("audio", CLIPS, seconds=0.1)
    assert check_durations(found, SETTINGS).numbers["short"] == 0  # the video is longer
    assert check_side_lengths(found, SETTINGS).state == State.FAILED


def test_clips_without_a_fact_are_counted_and_warn(with_facts):
    finding = check_silence(with_facts("audio", 3, peak=None), SETTINGS)
    assert finding.state == State.WARNING
    assert "not known of 3 clip(s)" in finding.text
    assert finding.numbers["unknown"] == 3


def test_thresholds_move_the_verdict(with_facts):
    strict = AuditSettings.model_validate({"media": {"clipped_failed": 0.0}})
    assert check_clipping(with_facts("audio", 1, clipped_share=0.1), strict).state == State.FAILED


def test_a_table_of_features_has_no_frames_to_look_at(tmp_path):
    found = Material.of(write_audited_corpus(tmp_path))
    table = found.manifest.table
    keys = table.column("clip_id")
    with_keys = type(found.manifest)(table.append_column("video_table_key", keys))
    from_table = Material(with_keys, found.store, found.facts)
    assert from_table.decoded == ("audio",)
    assert check_faces(from_table, SETTINGS).state == State.PASSED
    assert "table of ready features" in check_faces(from_table, SETTINGS).text
    assert check_side_lengths(from_table, SETTINGS).state == State.PASSED

"""Silent, clipped, faceless, short and unlike clips are found by the facts of their files."""

from __future__ import annotations

import pytest
from audited_corpus import CLIPS, write_audited_corpus

from vavl.audit.finding import State
from vavl.audit.material import Material
from vavl.audit.media_checks import (
    check_clipping,
    check_durations,
    check_faces,
    check_side_lengths,
    check_silence,
)
from vavl.audit.settings import AuditSettings

SETTINGS = AuditSettings()


@pytest.fixture
def material(tmp_path):
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
def test_a_few_warn_and_many_fail(material, check, modality, facts, few, many):
    assert check(material(modality, 0), SETTINGS).state == State.PASSED
    if few:
        finding = check(material(modality, few, **facts), SETTINGS)
        assert finding.state == State.WARNING
        assert len(finding.examples) == min(few, SETTINGS.most_examples)
        assert f"{few} of {CLIPS} clips" in finding.text
    finding = check(material(modality, many, **facts), SETTINGS)
    assert finding.state == State.FAILED
    assert finding.fix
    assert finding.numbers["odd"] == many
    assert finding.examples[0]["clip"]


def test_short_clips_are_found_whatever_the_others_are(material):
    def all_short(clips):
        for clip in clips:
            for facts in clip.facts.values():
                facts["seconds"] = 0.1

    del all_short
    found = material("audio", CLIPS, seconds=0.1)
    assert check_durations(found, SETTINGS).numbers["short"] == 0  # the picture is longer
    assert check_side_lengths(found, SETTINGS).state == State.FAILED


def test_clips_without_a_fact_are_counted_and_warn(material):
    finding = check_silence(material("audio", 3, peak=None), SETTINGS)
    assert finding.state == State.WARNING
    assert "not known of 3 clip(s)" in finding.text
    assert finding.numbers["unknown"] == 3


def test_thresholds_move_the_verdict(material):
    strict = AuditSettings.model_validate({"media": {"clipped_failed": 0.0}})
    assert check_clipping(material("audio", 1, clipped_share=0.1), strict).state == State.FAILED


def test_a_table_of_features_has_no_pictures_to_look_at(tmp_path):
    found = Material.of(write_audited_corpus(tmp_path))
    table = found.manifest.table
    keys = table.column("clip_id")
    with_keys = type(found.manifest)(table.append_column("video_table_key", keys))
    from_table = Material(with_keys, found.store, found.facts)
    assert from_table.decoded == ("audio",)
    assert check_faces(from_table, SETTINGS).state == State.PASSED
    assert "table of ready features" in check_faces(from_table, SETTINGS).text
    assert check_side_lengths(from_table, SETTINGS).state == State.PASSED

"""Speakers, files and features that are on both sides of a split are found."""

from __future__ import annotations

import numpy as np
import pytest
from audited_corpus import made_clips

from vavl.audit.finding import State
from vavl.audit.settings import AuditSettings
from vavl.audit.split_checks import check_duplicate_files, check_equal_features, check_speakers

SETTINGS = AuditSettings()


def of(clips, split, number=0):
    return [clip for clip in clips if clip.split == split][number]


def test_a_speaker_in_two_splits_fails(material):
    def move_one(clips):
        of(clips, "test").split = "train"

    finding = check_speakers(material(move_one), SETTINGS)
    assert finding.state == State.FAILED
    assert finding.examples == ({"fold": 0, "speaker": "s8", "splits": ["train", "test"]},)
    assert "s8 in train and test of fold 0" in finding.text


def test_a_clip_outside_the_protocol_is_in_no_split(material):
    def leave_out(clips):
        of(clips, "test").split = "none"

    assert check_speakers(material(leave_out), SETTINGS).state == State.PASSED


def copy_file(clips, there, here):
    there.facts["audio"]["sha256"] = here.facts["audio"]["sha256"]


@pytest.mark.parametrize(("split", "state"), [("test", State.FAILED), ("train", State.WARNING)])
def test_equal_files_fail_across_splits_and_warn_inside_one(material, split, state):
    def copy(clips):
        copy_file(clips, of(clips, split, 5), of(clips, "train"))

    finding = check_duplicate_files(material(copy), SETTINGS)
    assert finding.state == state
    clips = made_clips()
    pair = sorted([of(clips, split, 5).clip_id, of(clips, "train").clip_id])
    assert sorted(finding.examples[0]["clips"]) == pair
    assert finding.examples[0]["modality"] == "audio"


def test_the_two_sides_of_a_clip_may_be_one_file(material):
    def in_one_file(clips):
        for clip in clips:
            clip.facts["video"]["sha256"] = clip.facts["audio"]["sha256"]

    assert check_duplicate_files(material(in_one_file), SETTINGS).state == State.PASSED


def test_files_without_a_hash_are_counted(material):
    def forget(clips):
        clips[0].facts["audio"]["sha256"] = None
        clips[1].facts["video"] = {}

    finding = check_duplicate_files(material(forget), SETTINGS)
    assert finding.state == State.WARNING
    assert "not known of 2 clip(s)" in finding.text


def test_equal_features_fail_across_splits(material):
    def copy(clips):
        of(clips, "test").features["video"] = of(clips, "train").features["video"].copy()

    finding = check_equal_features(material(copy), SETTINGS)
    assert finding.state == State.FAILED
    assert finding.examples[0]["modality"] == "video"
    assert finding.examples[0]["splits"] == ["train", "test"]


def test_features_that_differ_between_the_frames_looked_at_are_not_equal(material):
    def almost(clips):
        values = of(clips, "train").features["audio"].copy()
        values[1, 0] += 1e-3
        of(clips, "test").features["audio"] = values

    assert check_equal_features(material(almost), SETTINGS).state == State.PASSED


def test_constant_features_are_no_copies_but_are_told(material):
    def empty(clips):
        for clip in (of(clips, "test"), of(clips, "train")):
            clip.features["video"] = np.zeros((3, 10), np.float32)

    finding = check_equal_features(material(empty), SETTINGS)
    assert finding.state == State.WARNING
    assert "2 video clip(s) of one constant value" in finding.text

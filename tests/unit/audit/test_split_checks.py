"""Speakers, files and features that are on both sides of a split, and copies, however they were changed on the way."""

from __future__ import annotations

import numpy as np
import pytest
from audited_corpus import CLIPS, made_clips, write_audited_corpus

from vavl.audit.finding import Material, State
from vavl.audit.settings import AuditSettings
from vavl.audit.split_checks import check_duplicate_files, check_equal_features, check_near_duplicates, check_speakers

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


def with_noise(values):
    return values + 0.1 * np.random.default_rng(1).normal(size=values.shape)


CHANGES = {
    "as it is": lambda values: values,
    "with noise": with_noise,
    "cut": lambda values: values[1:],
    "twice": lambda values: np.concatenate([values, values]),
    "backwards": lambda values: values[::-1],
}


def planted(change, modality, source="train"):
    def plant(clips):
        first = next(clip for clip in clips if clip.split == source)
        there = next(clip for clip in clips if clip.split == "test")
        there.features[modality] = np.ascontiguousarray(change(first.features[modality]), np.float32)

    return plant


@pytest.mark.parametrize("modality", ["audio", "video"])
@pytest.mark.parametrize("how", CHANGES)
def test_a_copy_in_the_test_split_fails(tmp_path, how, modality):
    store = write_audited_corpus(tmp_path, planted(CHANGES[how], modality))
    finding = check_near_duplicates(Material.of(store), SETTINGS)
    assert finding.state == State.FAILED
    assert len(finding.examples) == 1
    pair = finding.examples[0]
    assert (pair["test"], pair["train"], pair["modality"]) == ("s8_calm_dogs_0", "s0_calm_dogs_0", modality)
    assert pair["distance"] < 0.2 * pair["near"]


def test_a_copy_between_validation_and_test_is_not_this_check(tmp_path):
    store = write_audited_corpus(tmp_path, planted(with_noise, "audio", source="validation"))
    assert check_near_duplicates(Material.of(store), SETTINGS).state == State.PASSED


def test_of_many_clips_some_are_drawn_and_the_finding_says_so(tmp_path):
    found = Material.of(write_audited_corpus(tmp_path))
    few = AuditSettings.model_validate({"leaks": {"neighbour_clips": 60}})
    finding = check_near_duplicates(found, few)
    assert finding.state == State.PASSED
    assert f"looked at 60 of {CLIPS} audio clips, 60 of {CLIPS} video clips" in finding.text
    assert finding.numbers["compared"] == {"audio": 60, "video": 60}
    assert check_near_duplicates(found, few).numbers == finding.numbers


def test_few_copies_of_many_test_clips_warn(tmp_path):
    store = write_audited_corpus(tmp_path, planted(with_noise, "audio"))
    lenient = AuditSettings.model_validate({"leaks": {"neighbour_failed": 0.5}})
    assert check_near_duplicates(Material.of(store), lenient).state == State.WARNING


def test_too_few_clips_to_compare_is_not_a_pass(tmp_path):
    def almost_nothing(clips):
        del clips[3:]

    finding = check_near_duplicates(Material.of(write_audited_corpus(tmp_path, almost_nothing)), SETTINGS)
    assert finding.state == State.WARNING
    assert not finding.is_known


def test_random_corpora_have_no_copies(tmp_path):
    generator = np.random.default_rng(5)

    def draw_again(clips):
        for clip in clips:
            for name, values in clip.features.items():
                clip.features[name] = generator.normal(size=values.shape).astype(np.float32)

    for number in range(5):
        found = Material.of(write_audited_corpus(tmp_path / str(number), draw_again))
        assert check_near_duplicates(found, SETTINGS).state == State.PASSED

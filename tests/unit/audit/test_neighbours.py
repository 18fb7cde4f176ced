"""A copy of a training clip in the test split is found, however it was changed on its way."""

from __future__ import annotations

import numpy as np
import pytest
from audited_corpus import CLIPS, write_audited_corpus

from vavl.audit.finding import State
from vavl.audit.material import Material
from vavl.audit.neighbours import check_near_duplicates
from vavl.audit.settings import AuditSettings

SETTINGS = AuditSettings()


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

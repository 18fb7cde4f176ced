"""Missing and rare classes, constant attributes; the canary: speaker, sentence or batch-mates that tell the label."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from audited_corpus import CLASSES, made_clips

from vavl.audit.audit import audit_labels
from vavl.audit.finding import Check, Material, State
from vavl.audit.label_checks import (
    batch_agreement,
    check_batches,
    check_identity,
    check_label_balance,
    check_label_sets,
)
from vavl.audit.report import label_rows
from vavl.audit.settings import AuditSettings
from vavl.corpora.manifest import TRAIN, Manifest
from vavl.data.sampler import Sampler

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
    assert check_label_balance(material(rarely_mad), AuditSettings(class_ratio_warning=50)).state == State.PASSED


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
        Check.SPEAKERS, Check.SPEAKER_NAMES, Check.SENTENCES, Check.COUNTS, Check.LABEL_SETS, Check.LABEL_BALANCE,
        Check.IDENTITY_CANARY,
    }  # fmt: skip
    assert audit.state == State.PASSED
    assert audit.key.store_hash == ""
    rows = dict(label_rows(audit))
    assert rows["given = heard"] == "83.3 % of 120 clips"
    assert rows["fold 0"] == "clips (speakers): train 72 (6), validation 24 (2), test 24 (2)"
    truth = [clip for clip in made_clips() if clip.split == "test"]
    equal = sum(clip.label == clip.heard for clip in truth) / len(truth)
    assert rows["heard for given"].startswith(f"F1-micro {equal:.3f}")


def test_a_sentence_of_its_own_for_every_class_is_a_leak(material):
    def confound(clips):
        for clip in clips:
            clip.sentence = f"words of {clip.label}"

    finding = check_identity(material(confound), SETTINGS)
    assert finding.state == State.FAILED
    assert "speaker and sex and sentence alone give a recall of 100.0% on test, chance is 33.3%" in finding.text
    without = AuditSettings.model_validate({"leaks": {"identity_groups": []}})
    assert check_identity(material(confound), without).state == State.PASSED


def test_a_leaked_speaker_with_one_emotion_is_a_leak(material):
    def leak(clips):
        for number, speaker in enumerate(("s8", "s9")):
            own = [clip for clip in clips if clip.speaker == speaker]
            for place, clip in enumerate(own):
                clip.label = CLASSES[number]
                clip.split = "train" if place % 2 else "test"

    finding = check_identity(material(leak), SETTINGS)
    assert finding.state == State.FAILED
    assert finding.numbers["scores"][0]["recall"] == 1.0


def test_labels_drawn_at_random_are_chance(material):
    for seed in range(10):
        generator = np.random.default_rng(seed)

        def draw(clips, generator=generator):
            for clip in clips:
                clip.label = CLASSES[generator.integers(3)]

        finding = check_identity(material(draw), SETTINGS)
        assert finding.state == State.PASSED, finding.text


def test_batches_in_file_name_order_are_a_leak_and_the_sampler_is_not(material):
    found = material()
    classes = found.manifest.class_index()
    rows = np.flatnonzero(found.splits[0] == TRAIN)
    in_order = [rows[start : start + 8] for start in range(0, len(rows), 8)]
    assert batch_agreement(classes, in_order)["neighbour"] > SETTINGS.leaks.batch_failed
    finding = check_batches(found, SETTINGS)
    assert finding.state == State.PASSED
    assert abs(finding.numbers["scores"][0]["mate"]) < 0.05
    assert finding.numbers["file_order"] > 0.5


def test_a_sampler_that_does_not_shuffle_trips_the_canary(material, monkeypatch):
    def in_order(sampler, partition, turn, number):
        return np.sort(sampler.clips[partition])

    monkeypatch.setattr(Sampler, "_order", in_order)
    monkeypatch.setattr("vavl.audit.label_checks._lengths", lambda found: np.ones(len(found.manifest), np.int32))
    small = AuditSettings.model_validate({"leaks": {"batch_size": 4}})
    finding = check_batches(material(), small)
    assert finding.state == State.FAILED
    assert "larger composition.batch_size" in finding.fix


def test_batches_of_one_class_agree_and_mixed_ones_do_not():
    classes = np.repeat(np.arange(3), 8)
    alone = batch_agreement(classes, [np.arange(8), np.arange(8, 16), np.arange(16, 24)])
    assert (alone["mate"], alone["neighbour"]) == (1.0, 1.0)
    generator = np.random.default_rng(0)
    mixed = batch_agreement(classes, [generator.integers(24, size=12) for _ in range(2000)])
    # Of the other 23 clips seven are of the same class, not a third.
    assert mixed["mate"] == pytest.approx(-1 / 23, abs=0.02)
    assert mixed["neighbour"] == pytest.approx(-1 / 23, abs=0.02)


def test_clips_without_label_take_no_part():
    classes = np.array([0, -1, 0, -1, 1, -1, 1, -1])
    assert batch_agreement(classes, [np.arange(4), np.arange(4, 8)])["mate"] == 1.0


def test_a_clip_that_a_batch_holds_twice_is_no_mate_of_itself():
    classes = np.array([0, 1, 0, 1])
    twice = batch_agreement(classes, [np.array([0, 0, 1, 1, 2, 2, 3, 3])])
    once = batch_agreement(classes, [np.array([0, 1, 2, 3])])
    assert twice["neighbour"] == once["neighbour"] == -1.0
    assert twice["mate"] == pytest.approx(once["mate"], abs=1e-3)


def test_a_few_clips_side_by_side_by_chance_are_no_leak():
    """Twelve clips of six classes, two pairs of neighbors alike: kappa 0.02 .. 0.5 is no finding there."""
    classes = np.array([0, 0, 1, 1, 2, 3, 4, 5, 2, 3, 4, 5])
    few = batch_agreement(classes, [np.arange(12)])
    assert few["neighbour"] < 4 * few["deviation"]
    many = batch_agreement(np.repeat(np.arange(6), 100), [np.arange(600)])
    assert many["neighbour"] > 4 * many["deviation"]

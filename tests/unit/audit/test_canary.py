"""The canary sings when speaker, sentence or batch-mates tell the label, and is quiet otherwise."""

from __future__ import annotations

import numpy as np
import pytest
from audited_corpus import CLASSES

from vavl.audit.canary import batch_agreement, check_batches, check_identity
from vavl.audit.finding import State
from vavl.audit.settings import AuditSettings
from vavl.corpora.manifest import TRAIN
from vavl.data.sampler import Sampler

SETTINGS = AuditSettings()


def test_a_sentence_of_its_own_for_every_class_is_a_leak(material):
    def confound(clips):
        for clip in clips:
            clip.sentence = f"words of {clip.label}"

    finding = check_identity(material(confound), SETTINGS)
    assert finding.state == State.FAILED
    assert (
        "speaker and sex and sentence alone give a recall of 100.0% on test, chance is 33.3%" in finding.text
    )
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
    def in_order(sampler, partition, turn):
        return np.sort(sampler.clips[partition])

    monkeypatch.setattr(Sampler, "_shuffle", in_order)
    monkeypatch.setattr("vavl.audit.canary._lengths", lambda found: np.ones(len(found.manifest), np.int32))
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
    """Twelve clips of six classes, two pairs of neighbours alike: kappa 0.02 .. 0.5 is no finding there."""
    classes = np.array([0, 0, 1, 1, 2, 3, 4, 5, 2, 3, 4, 5])
    few = batch_agreement(classes, [np.arange(12)])
    assert few["neighbour"] < 4 * few["deviation"]
    many = batch_agreement(np.repeat(np.arange(6), 100), [np.arange(600)])
    assert many["neighbour"] > 4 * many["deviation"]

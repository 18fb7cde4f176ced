"""Names of speakers that are no people, and sentences that tell the emotion."""

from __future__ import annotations

import pytest

from vavl.audit.audit import audit_labels
from vavl.audit.finding import Check, State
from vavl.audit.people_checks import check_sentences, check_speaker_names
from vavl.audit.settings import AuditSettings

SETTINGS = AuditSettings()


def renamed(name):
    """Return a change that names the speaker of each clip by ``name(place among the clips, old name)``."""

    def change(clips):
        for place, clip in enumerate(clips):
            clip.speaker = name(place, clip.speaker)

    return change


def test_people_of_many_clips_with_one_name_each_pass(material):
    finding = check_speaker_names(material(), SETTINGS)
    assert finding.state == State.PASSED
    assert finding.numbers == {"speakers": 10, "median_clips": 12.0, "doubts": 0}


@pytest.mark.parametrize("other", ["S{0}", "s0{0}", "s_{0}", "s-00{0}"])
def test_a_name_in_two_spellings_warns(material, other):
    spelled = renamed(lambda place, old: other.format(old[1]) if place % 2 else old)
    finding = check_speaker_names(material(spelled), SETTINGS)
    assert finding.state == State.WARNING
    assert "10 name(s) in several spellings" in finding.text
    assert finding.examples[0]["names"]


@pytest.mark.parametrize("name", ["Ses{0}", "session_{0}", "dia{0}", "Ses0{0}F_impro01", "Dialogue {0}"])
def test_sessions_as_speakers_warn(material, name):
    finding = check_speaker_names(material(renamed(lambda _, old: name.format(old[1]))), SETTINGS)
    assert finding.state == State.WARNING
    assert "10 of 10 names look like sessions or dialogues" in finding.text


ALIKE = {"s0": "1_2", "s1": "12", "s2": "a1", "s3": "a10"}
SPLITS = {"s6": "Val", "s7": "valid", "s8": "Test", "s9": "test_9"}


@pytest.mark.parametrize("name", ["Ses0{0}_F", "Ses0{0}F", "dia_person{0}", ALIKE])
def test_people_of_sessions_and_numbers_that_only_look_alike_pass(material, name):
    change = renamed(lambda _, old: name.get(old, old) if isinstance(name, dict) else name.format(old[1]))
    assert check_speaker_names(material(change), SETTINGS).state == State.PASSED


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (lambda _, old: SPLITS.get(old, old), "names of splits are speakers: Test, Val, valid"),
        (lambda place, _: f"clip{place}x", "120 speakers have 1 clips each in the middle"),
    ],
)
def test_splits_and_clips_as_speakers_warn(material, name, text):
    finding = check_speaker_names(material(renamed(name)), SETTINGS)
    assert finding.state == State.WARNING
    assert text in finding.text


def test_two_voices_under_one_name_warn(material):
    def voices(clips):
        for place, clip in enumerate(clips):
            clip.sentence = "FM"[place % 2]

    finding = check_speaker_names(material(voices), SETTINGS)
    assert "10 of 10 speakers have two voices or more (sentence)" in finding.text


def test_sentences_that_are_spoken_in_every_class_pass_and_their_overlap_is_stated(material):
    finding = check_sentences(material(), SETTINGS)
    assert finding.state == State.PASSED
    assert "100% of the test clips speak a sentence (sentence) of the training clips" in finding.text


def of_labels(clips):
    for clip in clips:
        clip.sentence = f"{clip.label}{clip.sentence}"


def test_sentences_that_give_the_emotion_away_warn(material):
    finding = check_sentences(material(of_labels), SETTINGS)
    assert finding.state == State.WARNING
    assert finding.numbers["scores"][0]["accuracy"] == 1.0
    assert "an accuracy of 100.0%, chance is 33.3%" in finding.text
    assert finding.fix


def test_sentences_of_one_split_alone_tell_nothing(material):
    def apart(clips):
        of_labels(clips)
        for clip in clips:
            clip.sentence = f"{clip.split}-{clip.sentence}"

    finding = check_sentences(material(apart), SETTINGS)
    assert finding.state == State.PASSED
    assert finding.text.startswith("0% of the test clips")


def test_a_corpus_without_sentences_says_so(material):
    def none(clips):
        for clip in clips:
            clip.sentence = None

    assert "knows no sentences" in check_sentences(material(none), SETTINGS).text


def test_labels_alone_are_looked_at_too(material):
    audit = audit_labels(material(of_labels).manifest, SETTINGS)
    states = {finding.check: finding.state for finding in audit.findings if finding.labels in (None, "given")}
    assert states[Check.SENTENCES] == State.WARNING
    assert states[Check.SPEAKER_NAMES] == State.PASSED

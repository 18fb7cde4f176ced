"""Splits: disjoint speakers, draws that depend on protocol and fold alone, balance by sex."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vavl.corpora.card_splits import SplitRules
from vavl.corpora.splits import assign_splits, draw_validation_speakers, published_folds
from vavl.errors import CorpusError

SEXES = {f"{number:02d}": "male" if number % 2 else "female" for number in range(1, 25)}


def rules(validation_speakers: int = 3, protocol: str = "p", **changes) -> SplitRules:
    folds = {"source": "list", "test_speakers": {0: ["01"]}}
    content = {"protocol": protocol, "folds": folds, "validation_speakers": validation_speakers} | changes
    return SplitRules.model_validate(content)


@given(
    sexes=st.dictionaries(
        st.text("abcdef", min_size=1, max_size=3),
        st.sampled_from(["female", "male", None]),
        min_size=5,
        max_size=30,
    ),
    folds=st.integers(2, 5),
    wanted=st.integers(1, 3),
)
def test_speakers_are_disjoint_and_all_are_placed_in_every_fold(sexes, folds, wanted):
    test_folds = {speaker: position % folds for position, speaker in enumerate(sorted(sexes))}
    if any(len(sexes) - count <= wanted for count in Counter(test_folds.values()).values()):
        return
    splits = assign_splits(rules(wanted), sexes, test_folds)
    assert sorted(splits) == list(range(folds))
    for fold, of_speaker in splits.items():
        assert of_speaker.keys() == sexes.keys()
        assert {speaker for speaker, split in of_speaker.items() if split == "test"} == {
            speaker for speaker, tested in test_folds.items() if tested == fold
        }
        assert list(of_speaker.values()).count("validation") == wanted
        assert "train" in of_speaker.values()


@pytest.mark.parametrize(("wanted", "balance"), [(2, {1}), (3, {1, 2}), (4, {2}), (5, {2, 3})])
def test_validation_speakers_are_balanced_by_sex(wanted, balance):
    odd_ones = set()
    for fold in range(20):
        drawn = draw_validation_speakers(rules(wanted), fold, SEXES)
        counts = Counter(SEXES[speaker] for speaker in drawn)
        assert set(counts.values()) == balance
        odd_ones.add(counts.most_common(1)[0][0])
    if len(balance) == 2:
        assert odd_ones == {"female", "male"}, "the odd speaker must not always be of one sex"


def test_a_sex_that_runs_out_is_made_up_by_the_other():
    drawn = draw_validation_speakers(
        rules(4), 0, {"f1": "female", "m1": "male", "m2": "male", "m3": "male", "m4": "male"}
    )
    assert len(drawn) == 4
    assert "f1" in drawn


def test_the_draw_depends_on_protocol_and_fold_alone():
    drawn = draw_validation_speakers(rules(), 0, SEXES)
    assert draw_validation_speakers(rules(), 0, dict(reversed(SEXES.items()))) == drawn
    assert draw_validation_speakers(rules(untested_speakers="train"), 0, SEXES) == drawn
    assert len({frozenset(draw_validation_speakers(rules(), fold, SEXES)) for fold in range(10)}) > 5
    protocols = (rules(protocol=name) for name in "abcdefghij")
    assert len({frozenset(draw_validation_speakers(other, 0, SEXES)) for other in protocols}) > 5


def test_the_draw_is_the_one_on_record():
    # Changing the draw would silently change every result on record.
    assert draw_validation_speakers(rules(), 0, SEXES) == {"14", "15", "18"}


def test_too_few_speakers_to_train_on_is_refused():
    with pytest.raises(
        CorpusError, match="fold 1: 3 speakers outside the test set, of which 3 are to validate"
    ):
        draw_validation_speakers(rules(), 1, {"a": "female", "b": "male", "c": None})


def test_a_speaker_without_a_fold_is_refused_or_trains_in_every_fold():
    test_folds = {speaker: int(speaker) % 2 for speaker in SEXES if speaker != "24"}
    with pytest.raises(CorpusError, match="speakers without a fold: 24"):
        assign_splits(rules(), SEXES, test_folds)
    splits = assign_splits(rules(untested_speakers="train"), SEXES, test_folds)
    assert all(of_speaker["24"] in {"train", "validation"} for of_speaker in splits.values())


def test_a_fold_whose_test_speakers_are_absent_is_left_out():
    test_folds = {speaker: int(speaker) % 3 for speaker in SEXES}
    present = {speaker: sex for speaker, sex in SEXES.items() if test_folds[speaker] != 1}
    assert sorted(assign_splits(rules(), present, test_folds)) == [0, 2]


def test_no_test_speaker_at_all_is_refused():
    with pytest.raises(CorpusError, match="no test speaker is at hand; the folds list f01"):
        assign_splits(rules(untested_speakers="train"), SEXES, {"f01": 0})


def test_folds_come_from_the_table_with_filled_up_numbers(corpus):
    corpus.write("folds.csv", "who,fold\n1,2\n10,0\n")
    corpus.content["splits"]["folds"]["speaker_digits"] = 2
    assert published_folds(corpus.card(), corpus.root) == {"01": 2, "10": 0}


def test_folds_may_be_listed_in_the_card(corpus):
    corpus.content["splits"]["folds"] = {"source": "list", "test_speakers": {0: ["f01", "m01"], 3: ["f02"]}}
    assert published_folds(corpus.card(), corpus.root) == {"f01": 0, "m01": 0, "f02": 3}


def test_a_speaker_tested_in_two_folds_is_refused(corpus):
    corpus.write("folds.csv", "who,fold\nf01,0\nf01,1\n")
    with pytest.raises(CorpusError, match="f01: the speaker is in the test set of fold 0 and of fold 1"):
        published_folds(corpus.card(), corpus.root)


def test_a_fold_that_is_no_number_is_refused(corpus):
    corpus.write("folds.csv", "who,fold\nf01,first\n")
    with pytest.raises(CorpusError, match="fold 'first' of speaker f01 is not a number"):
        published_folds(corpus.card(), corpus.root)

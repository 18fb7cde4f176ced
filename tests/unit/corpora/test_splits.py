"""Splits: published tables, or published test folds with drawn validation speakers; nobody is in two."""

from __future__ import annotations

from collections import Counter

import pytest
from corpus_fixtures import GROUPS, SPEAKERS
from hypothesis import given
from hypothesis import strategies as st

from vavl.corpora.card_splits import SplitRules
from vavl.corpora.manifest import NONE, TEST, TRAIN, VALIDATION
from vavl.corpora.splits import assign_splits, draw_validation_speakers, published_folds
from vavl.errors import ConfigError, CorpusError

SEXES = {f"{number:02d}": "male" if number % 2 else "female" for number in range(1, 25)}


def rules(validation_speakers: int = 3, protocol: str = "p", **changes) -> SplitRules:
    folds = {"source": "list", "test_speakers": {0: ["01"]}}
    content = {"protocol": protocol, "folds": folds, "validation_speakers": validation_speakers} | changes
    return SplitRules.model_validate(content)


@given(
    sexes=st.dictionaries(
        st.text("abcdef", min_size=1, max_size=3), st.sampled_from(["female", "male", None]), min_size=5, max_size=30
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
    with pytest.raises(CorpusError, match="fold 1: 3 speakers outside the test set, of which 3 are to validate"):
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


def listed(corpus) -> list[str]:
    """Return the rows of a published table, in the order of the clips."""
    return [f"{clip}.wav,{clip[:3]},{SPLIT_OF[clip[:3]]}" for clip in corpus.clips]


SPLIT_OF = {"f01": "Train", "m01": "Train", "f02": "Dev", "m02": "Dev", "f03": "Test", "m03": "Test"}


@pytest.fixture
def published(corpus):
    """The tiny corpus with a table of splits; its rows stand in another order than the clips."""

    def build(rows=None, leave_out=(), **keys):
        whole = [row for row in reversed(listed(corpus)) if not row.startswith(tuple(leave_out))]
        corpus.write("split.csv", "\n".join(["file,who,set", *(whole if rows is None else rows), ""]))
        folds = {
            "source": "split_tables", "tables": {1: "split.csv"}, "key_column": "file",
            "key_pattern": r"(?P<clip>.+)\.wav", "split_column": "set", "speaker_column": "who",
            "names": {"train": "Train", "validation": "Dev", "test": "Test"},
        }  # fmt: skip
        corpus.content["splits"] = {"protocol": "published", "folds": folds | keys}
        return corpus

    return build


def test_every_clip_gets_the_split_of_its_row(published):
    manifest = published().manifest()
    assert manifest.folds == (1,)
    assert manifest.metadata["validation"] == "as published"
    expected = {"Train": TRAIN, "Dev": VALIDATION, "Test": TEST}
    speakers = manifest.table["speaker"].to_pylist()
    assert manifest.split(1).tolist() == [expected[SPLIT_OF[speaker]] for speaker in speakers]
    assert manifest.table["test_fold"].null_count == len(manifest)


@pytest.mark.parametrize(("rule", "of_training_speaker"), [("none", NONE), ("train", TRAIN)])
def test_clips_that_the_table_lacks_follow_the_cards_rule(published, rule, of_training_speaker, caplog):
    missing = ("f01_s1_an", "f02_s1_an", "f03_s1_an")
    caplog.set_level("INFO")
    manifest = published(leave_out=missing, unlisted_clips=rule).manifest()
    split = dict(zip(manifest.table["clip_id"].to_pylist(), manifest.split(1).tolist(), strict=True))
    assert [split[clip] for clip in missing] == [of_training_speaker, NONE, NONE]
    assert split["f01_s1_ca"] == TRAIN
    assert split["f03_s1_ca"] == TEST
    assert "3 clips are not listed" in caplog.text


def test_a_clip_that_the_table_lacks_is_refused_unless_the_card_has_a_rule(published):
    with pytest.raises(CorpusError, match=r"(?s)fold 1: 1 clips are not listed, e\.g\. m01_s2_ca.*unlisted_clips"):
        published(leave_out=("m01_s2_ca",)).manifest()


def test_a_table_may_name_the_splits_of_speakers(published):
    rows = [f",{speaker},{split}" for speaker, split in SPLIT_OF.items()] + [",f01,Train"]
    keys = {"key": "speaker", "key_column": "who", "key_pattern": None, "speaker_column": None}
    by_speaker = published(rows, **keys).manifest()
    assert by_speaker.split(1).tolist() == published().manifest().split(1).tolist()


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("f01_s1_an.wav,f01,Test", "key 'f01_s1_an.wav' is there twice"),
        ("f01_s9_an.wav,f01,Eval", "split 'Eval' is none of Train, Dev, Test"),
        ("f01_s9_an.mp4,f01,Train", r"key 'f01_s9_an\.mp4' does not match"),
    ],
)
def test_a_broken_table_names_its_row(published, row, message):
    rows = listed(published())
    corpus = published([*rows, row])
    with pytest.raises(CorpusError, match=rf"split\.csv: \w+, row 25: {message}"):
        corpus.manifest()


@pytest.mark.parametrize(
    ("row", "text", "message"),
    [
        (0, "f01_s1_an.wav,f01,Test", r"fold 1: speaker f01 is in test .* and in train"),
        (2, "f01_s2_an.wav,f03,Train", "row 3: says speaker f03, the clip's name says f01"),
        (None, "x01_s1_an.wav,x01,Test", "no clip at hand is in the test split"),
    ],
)
def test_a_table_that_contradicts_the_clips_is_refused(published, row, text, message):
    rows = [text]
    if row is not None:
        rows = listed(published())
        rows[row] = text
    with pytest.raises(CorpusError, match=message):
        published(rows).manifest()


def test_groups_may_have_to_be_disjoint_too(published):
    corpus = published()
    corpus.content["splits"]["disjoint_groups"] = ["sentence"]
    with pytest.raises(CorpusError, match=r"tiny card: fold 1: sentence s1 is in train .* and in validation"):
        corpus.manifest()
    corpus.content["splits"]["disjoint_groups"] = ["session"]
    with pytest.raises(ConfigError, match=r"splits\.disjoint_groups: no groups\.session"):
        corpus.card()


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"key": "speaker"}, r"key_pattern needs a group \(\?P<speaker>"),
        ({"key": "speaker", "key_pattern": None}, "speaker_column is for tables of clips"),
    ],
)
def test_keys_that_do_not_fit_are_refused(published, keys, message):
    with pytest.raises(ConfigError, match=message):
        published(**keys).card()


def test_validation_is_drawn_or_published_and_never_both(published, corpus):
    corpus.content["splits"].pop("validation_speakers")
    with pytest.raises(ConfigError, match="validation_speakers: how many"):
        corpus.card()
    published()
    corpus.content["splits"]["validation_speakers"] = 2
    with pytest.raises(ConfigError, match="leave validation_speakers out"):
        corpus.card()


def of_names(corpus, splits, **rules):
    """Put the clips of the corpus into directories of splits, by speaker."""
    for path in (corpus.root / "audio").rglob("*.wav"):
        path.rename(corpus.touch(f"{splits[path.name[:3]]}/{path.name}"))
    corpus.content["audio"]["pattern"] = f"(?P<split>[A-Za-z]+)/{GROUPS}"
    del corpus.content["video"]
    names = {text: text.lower().replace("val", "validation") for text in set(splits.values())}
    corpus.content["splits"] = {
        "protocol": "published",
        "folds": {"source": "pattern", "group": "split", "map": names},
        **rules,
    }
    return corpus


def test_splits_in_the_names_are_taken_as_they_are(corpus):
    splits = {"f01": "Train", "f02": "Train", "f03": "Val", "m01": "Train", "m02": "Test", "m03": "Test"}
    manifest = of_names(corpus, splits).manifest()
    assert manifest.folds == (0,)
    assert manifest.metadata["validation"] == "as published"
    for row in manifest.table.to_pylist():
        assert row["split_0"] == splits[row["speaker"]].lower().replace("val", "validation")


def test_without_a_validation_split_training_speakers_are_drawn(corpus):
    splits = {speaker: "Test" if speaker == "m03" else "Train" for speaker in SPEAKERS}
    rows = of_names(corpus, splits, validation_speakers=2).manifest().table.to_pylist()
    by_speaker = {row["speaker"]: row["split_0"] for row in rows}
    assert sorted(by_speaker.values()) == ["test", "train", "train", "train", "validation", "validation"]
    assert by_speaker["m03"] == "test"
    assert by_speaker == {row["speaker"]: row["split_0"] for row in corpus.manifest().table.to_pylist()}


def test_splits_in_the_names_may_share_nobody_and_must_be_known(corpus):
    of_names(corpus, {speaker: "Test" if speaker == "m03" else "Train" for speaker in SPEAKERS}, validation_speakers=1)
    shared = corpus.touch("Test/f01_s3_an.wav")
    with pytest.raises(CorpusError, match="speaker f01 is in"):
        corpus.manifest()
    shared.unlink()
    corpus.touch("Other/m01_s3_an.wav")
    with pytest.raises(CorpusError, match=r"`Other` \(group split\) is none of"):
        corpus.manifest()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"map": {"Train": "train", "Val": "validation"}}, "map names no test"),
        ({"group": "half"}, "no group named `half`"),
    ],
)
def test_splits_in_the_names_that_make_no_sense_are_refused(corpus, change, message):
    splits = {"f01": "Train", "f02": "Train", "f03": "Val", "m01": "Train", "m02": "Test", "m03": "Test"}
    of_names(corpus, splits)
    corpus.content["splits"]["folds"] |= change
    with pytest.raises(ConfigError, match=message):
        corpus.card()


def test_several_words_of_a_table_are_one_split(corpus):
    words = dict(zip(SPEAKERS, ("Train", "Train", "Dev", "Train", "Test1", "Test2"), strict=True))
    corpus.write("splits.csv", "who,part\nx9,NA\n" + "".join(f"{who},{part}\n" for who, part in words.items()))
    corpus.content["splits"] = {
        "protocol": "published",
        "folds": {
            "source": "split_tables", "tables": {0: "splits.csv"}, "key": "speaker", "key_column": "who",
            "split_column": "part", "names": {"train": "Train", "validation": "Dev", "test": ["Test1", "Test2"]},
        },
    }  # fmt: skip
    rows = corpus.manifest().table.to_pylist()
    assert {row["speaker"] for row in rows if row["split_0"] == "test"} == {"m02", "m03"}


def speakers_of_table(corpus, lines, **more):
    corpus.write("who.csv", "file,who\n" + "".join(f"{line}\n" for line in lines))
    corpus.content["speaker"] = {
        "source": "table", "file": "who.csv", "key_column": "file", "key_pattern": r"(?P<clip>.+)\.wav",
        "speaker_column": "who", **more,
    }  # fmt: skip
    corpus.write("folds.csv", "who,fold\n" + "".join(f"P{place},{place % 3}\n" for place in range(6)))
    corpus.content["splits"]["untested_speakers"] = "train"
    corpus.content.pop("sex", None)
    return corpus


def test_speakers_stand_in_a_table(corpus):
    lines = [f"{clip}.wav,P{SPEAKERS.index(clip[:3])}" for clip in corpus.clips for _ in range(2)]
    rows = speakers_of_table(corpus, lines).manifest().table.to_pylist()
    assert all(row["speaker"] == f"P{SPEAKERS.index(row['clip_id'][:3])}" for row in rows)


def test_clips_without_a_speaker_in_the_table(corpus):
    lines = [f"{clip}.wav,P{place % 6 if place else ''}" for place, clip in enumerate(corpus.clips)]
    lines[0] = f"{corpus.clips[0]}.wav,Unknown"
    with pytest.raises(CorpusError, match=r"the clip has no speaker(?s:.*)unknown: own"):
        speakers_of_table(corpus, lines).manifest()
    rows = speakers_of_table(corpus, lines, unknown="own").manifest().table.to_pylist()
    assert rows[0]["speaker"] == rows[0]["clip_id"]
    with pytest.raises(CorpusError, match="is spoken by P1 and by P2"):
        speakers_of_table(corpus, [*lines, f"{corpus.clips[1]}.wav,P2"], unknown="own").manifest()


def test_session_and_letter_name_a_person_together(corpus):
    corpus.content["speaker"] = {"group": ["sex", "sentence"]}
    corpus.content["splits"] = {
        "protocol": "drawn", "validation_speakers": 1,
        "folds": {"source": "list", "test_speakers": {0: ["f_s1"], 1: ["m_s2"]}}, "untested_speakers": "train",
    }  # fmt: skip
    corpus.content.pop("sex")
    assert corpus.manifest().speaker_codes()[1] == ("f_s1", "f_s2", "m_s1", "m_s2")

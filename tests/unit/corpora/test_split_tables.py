"""Published split tables: what they say reaches the manifest, and what they contradict is refused."""

from __future__ import annotations

import pytest

from vavl.corpora.manifest import NONE, TEST, TRAIN, VALIDATION
from vavl.errors import ConfigError, CorpusError

SPLIT_OF = {"f01": "Train", "m01": "Train", "f02": "Dev", "m02": "Dev", "f03": "Test", "m03": "Test"}


@pytest.fixture
def published(corpus):
    """The tiny corpus with a table of splits; its rows stand in another order than the clips."""

    def build(rows=None, leave_out=(), **keys):
        listed = [
            f"{clip}.wav,{clip[:3]},{SPLIT_OF[clip[:3]]}"
            for clip in reversed(corpus.clips)
            if clip not in leave_out
        ]
        corpus.write("split.csv", "\n".join(["file,who,set", *(listed if rows is None else rows), ""]))
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
    with pytest.raises(
        CorpusError, match=r"(?s)fold 1: 1 clips are not listed, e\.g\. m01_s2_ca.*unlisted_clips"
    ):
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
    rows = [f"{clip}.wav,{clip[:3]},{SPLIT_OF[clip[:3]]}" for clip in published().clips]
    corpus = published([*rows, row])
    with pytest.raises(CorpusError, match=rf"split\.csv: \w+, row 25: {message}"):
        corpus.manifest()


def test_a_speaker_in_two_splits_is_refused(published):
    rows = [f"{clip}.wav,{clip[:3]},{SPLIT_OF[clip[:3]]}" for clip in published().clips]
    rows[0] = "f01_s1_an.wav,f01,Test"
    with pytest.raises(CorpusError, match=r"fold 1: speaker f01 is in test .* and in train"):
        published(rows).manifest()


def test_another_speaker_than_the_name_says_is_refused(published):
    rows = [f"{clip}.wav,{clip[:3]},{SPLIT_OF[clip[:3]]}" for clip in published().clips]
    rows[2] = "f01_s2_an.wav,f03,Train"
    with pytest.raises(CorpusError, match="row 3: says speaker f03, the clip's name says f01"):
        published(rows).manifest()


def test_a_table_of_other_clips_is_refused(published):
    with pytest.raises(CorpusError, match="no clip at hand is in the test split"):
        published(["x01_s1_an.wav,x01,Test"]).manifest()


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

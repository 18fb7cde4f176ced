"""Labels from names and from tables: classes, shares, attributes."""

from __future__ import annotations

import pytest

from vavl.data.label_tables import ClipLabel
from vavl.errors import CorpusError


@pytest.fixture
def by_table(corpus):
    """The tiny corpus with its labels in labels.csv."""

    def build(text: str, **keys):
        corpus.write("labels.csv", text)
        corpus.content["label"] = {"source": "table", "file": "labels.csv", "key_column": "file"} | keys
        corpus.content["splits"]["labelled"] = []
        return corpus.manifest().table.select(
            ["clip_id", "label", "soft_label", "arousal", "valence", "dominance"]
        )

    return build


def row(table, clip: str) -> dict:
    return next(found for found in table.to_pylist() if found["clip_id"] == clip)


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (None, r"f01_s1_an\.wav: label: label 'an' is outside the classes calm, angry"),
        ({"ca": "calm"}, r"f01_s1_an\.wav: label: `an` \(group emotion\) is not in the card's map.* calm"),
    ],
)
def test_a_label_outside_the_classes_names_file_and_classes(corpus, codes, message):
    corpus.content["label"]["map"] = codes
    with pytest.raises(CorpusError, match=message):
        corpus.manifest()


def test_classes_by_table(by_table):
    text = "file,emotion\nf01_s1_ca.wav,A\nf01_s1_an.wav,C\nf01_s2_ca.wav,\nf01_s2_an.wav,X\n"
    table = by_table(text, key_pattern=r"(?P<clip>.+)\.wav", label_column="emotion",
                     map={"A": "angry", "C": "calm", "X": None})  # fmt: skip
    labels = {found["clip_id"]: found["label"] for found in table.to_pylist() if found["label"]}
    assert labels == {"f01_s1_ca": "angry", "f01_s1_an": "calm"}


def test_shares_by_table_sum_to_one_and_give_the_class(by_table):
    text = "file,an,ca\nf01_s1_ca,3,1\nf01_s1_an,0.5,0.5\nf01_s2_ca,,\n"
    table = by_table(text, soft_columns={"angry": "an", "calm": "ca"})
    assert row(table, "f01_s1_ca")["soft_label"] == [0.25, 0.75]
    assert row(table, "f01_s1_ca")["label"] == "angry"
    assert row(table, "f01_s1_an")["label"] == "calm", "equal shares: the class that the card lists first"
    assert row(table, "f01_s2_ca")["soft_label"] is None
    assert row(table, "f01_s2_ca")["label"] is None


def test_a_class_without_a_column_has_share_zero(by_table):
    table = by_table("file,an\nf01_s1_ca,2\n", soft_columns={"angry": "an"})
    assert row(table, "f01_s1_ca")["soft_label"] == [0, 1]


def test_the_labels_own_column_wins_over_the_shares(by_table):
    text = "file,emotion,an,ca\nf01_s1_ca,calm,3,1\n"
    table = by_table(text, label_column="emotion", soft_columns={"angry": "an", "calm": "ca"})
    assert row(table, "f01_s1_ca")["label"] == "calm"


@pytest.mark.parametrize("shares", ["-1,2", "0,0", ",1", "inf,1"])
def test_shares_that_are_no_distribution_are_refused(by_table, shares):
    with pytest.raises(CorpusError, match=r"an, ca, row 2: shares .* are no distribution"):
        by_table(
            f"file,an,ca\nf01_s1_ca,1,1\nf01_s1_an,{shares}\n", soft_columns={"angry": "an", "calm": "ca"}
        )


ATTRIBUTES = {"attribute_columns": {"valence": "EmoVal", "arousal": "EmoAct"}, "attribute_range": [1, 5]}


def test_attributes_by_table_keep_their_range(by_table):
    table = by_table("file,EmoAct,EmoVal\nf01_s1_ca,1.5,5\nf01_s1_an,,2\n", **ATTRIBUTES)
    found = row(table, "f01_s1_ca")
    assert (found["arousal"], found["valence"], found["dominance"]) == (1.5, 5, None)
    assert row(table, "f01_s1_an")["arousal"] is None


def test_an_attribute_outside_the_range_is_refused(by_table):
    with pytest.raises(CorpusError, match=r"EmoAct, row 1: arousal 7 is outside 1 \.\. 5"):
        by_table("file,EmoAct,EmoVal\nf01_s1_ca,7,5\n", **ATTRIBUTES)


def test_labels_without_a_clip_are_left_out_and_counted(by_table, caplog):
    table = by_table("file,emotion\nf01_s1_ca,calm\nf99_s1_ca,calm\n", label_column="emotion")
    assert row(table, "f01_s1_ca")["label"] == "calm"
    assert "1 labels belong to no clip and are left out, e.g. f99_s1_ca" in caplog.text


def test_a_table_of_another_corpus_is_refused(by_table):
    with pytest.raises(CorpusError, match="no row belongs to a clip"):
        by_table("file,emotion\nf99_s1_ca,calm\n", label_column="emotion")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,emotion\nf01_s1_ca,happy\n", "emotion: label 'happy' is outside the classes calm, angry"),
        ("file,emotion\nf01_s1_ca,calm\nf01_s1_ca,calm\n", "row 2: key 'f01_s1_ca' is there twice"),
        ("file,emotion\n,calm\n", "row 1: key '' does not match"),
    ],
)
def test_broken_label_tables_are_refused(by_table, text, message):
    with pytest.raises(CorpusError, match=message):
        by_table(text, label_column="emotion")


def test_a_code_of_a_table_that_the_map_does_not_hold_is_refused(by_table):
    with pytest.raises(CorpusError, match=r"labels\.csv: emotion: `H` is not in the card's map"):
        by_table("file,emotion\nf01_s1_ca,H\n", label_column="emotion", map={"C": "calm"})


def test_any_part_makes_a_label_known():
    assert not ClipLabel().is_known
    assert ClipLabel(attributes=(None, None, 2.0)).is_known

"""Labels from names and tables: classes, shares, attributes; which set is chosen, and that this copies nothing."""

from __future__ import annotations

import pyarrow as pa
import pytest

from vavl.corpora.label_sets import LABEL_COLUMNS, ClipLabel
from vavl.corpora.manifest import Manifest
from vavl.errors import ConfigError, CorpusError


@pytest.fixture
def by_table(corpus):
    """The tiny corpus with its labels in labels.csv."""

    def build(text: str, **keys):
        corpus.write("labels.csv", text)
        table = {"file": "labels.csv", "key_column": "file"} | keys
        corpus.content["labels"] = {"seen": {"source": "tables", "target": "perceived", "tables": [table]}}
        corpus.content["splits"]["labelled"] = []
        return corpus.manifest().table.select(["clip_id", "label", "soft_label", "arousal", "valence", "dominance"])

    return build


def row(table, clip: str) -> dict:
    return next(found for found in table.to_pylist() if found["clip_id"] == clip)


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (None, r"f01_s1_an\.wav: labels\.intended: label 'an' is outside the classes calm, angry"),
        ({"ca": "calm"}, r"f01_s1_an\.wav: labels\.intended: `an` \(group emotion\) is not in the card's map.* calm"),
    ],
)
def test_a_label_outside_the_classes_names_file_and_classes(corpus, codes, message):
    corpus.content["labels"]["intended"]["map"] = codes
    with pytest.raises(CorpusError, match=message):
        corpus.manifest()


def test_classes_by_table(by_table):
    text = "file,emotion\nf01_s1_ca.wav,A\nf01_s1_an.wav,C\nf01_s2_ca.wav,\nf01_s2_an.wav,X\n"
    table = by_table(text, key_pattern=r"(?P<clip>.+)\.wav", label_column="emotion",
                     map={"A": "angry", "C": "calm", "X": None})  # fmt: skip
    labels = {found["clip_id"]: found["label"] for found in table.to_pylist() if found["label"]}
    assert labels == {"f01_s1_ca": "angry", "f01_s1_an": "calm"}


@pytest.mark.parametrize("pattern", [r"(?:.+/)?(?P<clip>.+)\.wav", r"(?:.+\\)?(?P<clip>.+)\.wav"])
def test_keys_may_be_paths_that_were_written_on_windows(by_table, pattern):
    text = "file,emotion\nclips\\f01_s1_ca.wav,angry\n"
    table = by_table(text, key_pattern=pattern, label_column="emotion")
    assert row(table, "f01_s1_ca")["label"] == "angry"


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
        by_table(f"file,an,ca\nf01_s1_ca,1,1\nf01_s1_an,{shares}\n", soft_columns={"angry": "an", "calm": "ca"})


ATTRIBUTES = {"attribute_columns": {"valence": "EmoVal", "arousal": "EmoAct"}, "attribute_range": [1, 5]}


def test_attributes_by_table_are_rescaled_to_zero_and_one(by_table):
    table = by_table("file,EmoAct,EmoVal\nf01_s1_ca,1.5,5\nf01_s1_an,,2\n", **ATTRIBUTES)
    found = row(table, "f01_s1_ca")
    assert (found["arousal"], found["valence"], found["dominance"]) == (0.125, 1, None)
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
    assert ClipLabel(dominance=2.0).is_known


VOTES = {"soft_columns": {"angry": "an", "calm": "ca"}, "on_tie": "no_class", "on_zero": "unlabelled"}


def test_votes_give_shares_and_a_class_only_where_one_has_most(by_table):
    table = by_table("file,an,ca\nf01_s1_ca,3,1\nf01_s1_an,2,2\nf01_s2_ca,0,0\n", **VOTES)
    labels = [(row(table, clip)["label"], row(table, clip)["soft_label"]) for clip in ("f01_s1_ca", "f01_s1_an")]
    assert labels == [("angry", [0.25, 0.75]), (None, [0.5, 0.5])]
    assert row(table, "f01_s2_ca")["soft_label"] is None, "a clip without a vote is unlabeled"


def test_only_the_rows_of_one_rating_mode_count(by_table):
    text = "number,file,an,ca\n100001,f01_s1_ca,3,1\n200001,f01_s1_ca,0,4\n200002,f01_s1_an,5,0\n"
    voice = by_table(text, **VOTES, rows={"column": "number", "pattern": r"1\d{5}"})
    assert (row(voice, "f01_s1_ca")["label"], row(voice, "f01_s1_an")["label"]) == ("angry", None)
    face = by_table(text, **VOTES, rows={"column": "number", "pattern": r"2\d{5}"})
    assert (row(face, "f01_s1_ca")["label"], row(face, "f01_s1_an")["label"]) == ("calm", "angry")
    with pytest.raises(CorpusError, match=r"number: no row matches 3.*100001"):
        by_table(text, **VOTES, rows={"column": "number", "pattern": r"3\d{5}"})


def test_a_fault_names_the_row_of_the_file_also_where_rows_are_left_out(by_table):
    text = "number,file,an,ca\n1,f01_s1_ca,3,1\n2,f01_s1_ca,0,4\n2,f01_s1_ca,5,0\n"
    with pytest.raises(CorpusError, match="row 3: key 'f01_s1_ca' is there twice"):
        by_table(text, **VOTES, rows={"column": "number", "pattern": "2"})


@pytest.fixture
def joined(corpus):
    """The tiny corpus with a set of labels from two tables."""

    def build(first: str, second: str):
        corpus.write("classes.csv", first)
        corpus.write("attributes.csv", second)
        tables = [
            {"file": "classes.csv", "key_column": "file", "label_column": "emotion"},
            {"file": "attributes.csv", "key_column": "name", "key_pattern": r"(?P<clip>.+)\.mp4"} | ATTRIBUTES,
        ]
        corpus.content["labels"] = {"seen": {"source": "tables", "target": "perceived", "tables": tables}}
        corpus.content["splits"]["labelled"] = []
        return corpus.manifest().table

    return build


def test_tables_are_joined_by_clip(joined, corpus):
    first = "file,emotion\nf01_s1_ca,calm\nf01_s1_an,angry\n"
    table = joined(first, "name,EmoAct,EmoVal\nf01_s1_ca.mp4,2,4\nf02_s1_ca.mp4,3,3\n")
    parts = ("label", "arousal", "valence")
    assert [row(table, "f01_s1_ca")[part] for part in parts] == ["calm", 0.25, 0.75]
    assert [row(table, "f01_s1_an")[part] for part in parts] == ["angry", None, None]
    assert [row(table, "f02_s1_ca")[part] for part in parts] == [None, 0.5, 0.5]


def test_two_tables_may_not_give_the_same_part(joined, corpus):
    second = "name,EmoAct,EmoVal\nf01_s1_ca.mp4,2,4\n"
    joined("file,emotion\nf01_s1_ca,calm\n", second)
    twice = corpus.content["labels"]["seen"]["tables"]
    corpus.content["labels"]["seen"]["tables"] = [*twice, twice[0]]
    with pytest.raises(CorpusError, match=r"classes\.csv: f01_s1_ca: an earlier table .* class too"):
        corpus.manifest()


def seen_by_clip(corpus, texts, **keys):
    """Return the labels of the corpus' clips as a table names them."""
    lines = "".join(f"{clip},{text}\n" for clip, text in zip(corpus.clips, texts, strict=True))
    corpus.write("labels.csv", f"clip,label\n{lines}")
    table = {"file": "labels.csv", "key_column": "clip", "label_column": "label", **keys}
    corpus.content["labels"] = {"seen": {"source": "tables", "target": "seen", "tables": [table]}}
    return corpus.manifest().table["label"]


@pytest.mark.parametrize("mark", ["NA", "N/A", "nan", "None", "null", "-", "xxx", ""])
@pytest.mark.parametrize("keys", [{}, {"map": {"calm": "calm", "angry": "angry"}}], ids=["plain", "map"])
def test_marks_of_missing_labels_leave_a_clip_unlabeled(corpus, mark, keys):
    corpus.content["splits"]["labelled"] = []
    assert seen_by_clip(corpus, [mark, "angry", "calm", "angry"] * 6, **keys).null_count == 6


def test_a_class_that_is_named_like_a_missing_value_stays_one(corpus):
    corpus.content["classes"] = ["none", "angry"]
    assert seen_by_clip(corpus, ["none", "angry"] * 12).null_count == 0


ACTIVATION = {"attribute_columns": {"arousal": "act"}, "attribute_range": [1, 5]}


@pytest.fixture
def two_sets(corpus) -> Manifest:
    """Intended emotion from the names, and what was seen in some of the clips."""
    corpus.write("seen.csv", "file,an,ca,act\nf01_s1_ca,3,1,2\nf01_s1_an,0,2,5\n")
    table = {"file": "seen.csv", "key_column": "file", "soft_columns": {"angry": "an", "calm": "ca"}}
    corpus.content["labels"]["seen"] = {
        "source": "tables", "target": "perceived emotion", "tables": [table | ACTIVATION],
    }  # fmt: skip
    return corpus.manifest()


def labels(manifest: Manifest) -> dict[str, str]:
    table = manifest.table
    return dict(zip(table["clip_id"].to_pylist(), table["label"].to_pylist(), strict=True))


def test_the_first_set_is_the_default_and_the_others_stand_beside_it(two_sets):
    assert (two_sets.label_set, two_sets.target) == ("intended", "intended emotion")
    assert two_sets.label_sets == {"intended": "intended emotion", "seen": "perceived emotion"}
    assert {f"{column}__seen" for column in LABEL_COLUMNS} < set(two_sets.table.column_names)
    assert labels(two_sets)["f01_s1_ca"] == "calm"


def test_another_set_changes_labels_and_target_and_nothing_else(two_sets):
    seen = two_sets.with_labels("seen")
    assert (seen.label_set, seen.target) == ("seen", "perceived emotion")
    assert labels(seen)["f01_s1_ca"] == "angry"
    assert (seen.class_index() >= 0).sum() == 2
    others = [name for name in two_sets.table.column_names if name.split("__")[0] not in LABEL_COLUMNS]
    assert seen.table.select(others).equals(two_sets.table.select(others))


def test_the_way_there_and_back_gives_the_same_manifest(two_sets):
    back = two_sets.with_labels("seen").with_labels("intended")
    assert back.table.equals(two_sets.table, check_metadata=True)
    assert two_sets.with_labels(None) is two_sets


def test_the_rescaling_is_stated(two_sets):
    assert two_sets.metadata["labels"]["seen"]["rescaled_from"] == {"arousal": [1, 5]}
    assert two_sets.metadata["labels"]["intended"]["rescaled_from"] == {}
    values = two_sets.with_labels("seen").table["arousal"].drop_null().to_pylist()
    assert sorted(values) == [0.25, 1.0]


def test_an_unknown_set_lists_the_known_ones(two_sets):
    with pytest.raises(ConfigError, match=r"(?s)no set of labels `votes`.*choose one of intended, seen"):
        two_sets.with_labels("votes")


def test_a_choice_costs_no_memory(two_sets, tmp_path):
    two_sets.write(tmp_path)
    manifest = Manifest.read(tmp_path)
    before = pa.total_allocated_bytes()
    assert manifest.with_labels("seen").label_set == "seen"
    assert pa.total_allocated_bytes() == before

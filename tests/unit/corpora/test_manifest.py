"""The manifest of a corpus: its rows, speakers and their sex, and what is refused."""

from __future__ import annotations

import logging

import datasets
import numpy as np
import pyarrow as pa
import pytest

from vavl.corpora.manifest import MANIFEST_FILE, NONE, TEST, TRAIN, VALIDATION, Manifest, build_manifest
from vavl.errors import CorpusError, StoreError


def test_one_row_per_clip_sorted_by_its_id(corpus):
    manifest = corpus.manifest()
    assert manifest.table["clip_id"].to_pylist() == corpus.clips
    first = manifest.table.slice(0, 1).to_pylist()[0]
    splits = {first.pop(f"split_{fold}") for fold in (1, 2)}
    assert splits <= {"train", "validation"}
    assert first == {
        "clip_id": "f01_s1_an", "corpus": "tiny", "speaker": "f01", "sex": "female", "label": "angry",
        "soft_label": None, "arousal": None, "valence": None, "dominance": None,
        "audio_path": "audio/f01/f01_s1_an.wav", "audio_table_key": None,
        "video_path": None, "video_table_key": "f01_s1_an",
        "test_fold": 0, "split_0": "test", "group_sentence": "s1",
    }  # fmt: skip


def test_the_schema_is_that_of_the_contract(corpus):
    schema = corpus.manifest().table.schema
    assert schema.field("soft_label").type == pa.list_(pa.float32())
    assert schema.field("arousal").type == pa.float32()
    assert schema.field("test_fold").type == pa.int16()
    assert {schema.field(name).type for name in ("clip_id", "label", "audio_path", "split_2")} == {pa.string()}


def test_facts_about_the_whole(corpus):
    manifest = corpus.manifest()
    assert (manifest.corpus, manifest.classes, manifest.target) == ("tiny", ("calm", "angry"), "intended emotion")
    assert (manifest.protocol, manifest.folds, len(manifest)) == ("tiny-folds", (0, 1, 2), 24)
    assert manifest.metadata["validation"].startswith("2 speakers per fold")
    assert len(manifest.card_hash) == 16


def test_speakers_are_disjoint_in_every_fold(corpus):
    manifest = corpus.manifest()
    codes, names = manifest.speaker_codes()
    assert names == ("f01", "f02", "f03", "m01", "m02", "m03")
    for fold in manifest.folds:
        split = manifest.split(fold)
        assert split.dtype == np.int8
        speakers = {part: set(codes[split == part].tolist()) for part in (TRAIN, VALIDATION, TEST)}
        assert [len(speakers[part]) for part in (TRAIN, VALIDATION, TEST)] == [2, 2, 2]
        assert len(set.union(*speakers.values())) == 6
        assert not (split == NONE).any()


def test_an_unknown_fold_lists_the_known_ones(corpus):
    with pytest.raises(CorpusError, match=r"(?s)tiny-folds has no fold 3 here.*choose one of 0, 1, 2"):
        corpus.manifest().split(3)


def test_reading_twice_gives_the_same(corpus):
    assert corpus.manifest().table.equals(corpus.manifest().table, check_metadata=True)


def test_class_index_follows_the_cards_order(corpus):
    corpus.content["splits"]["labelled"] = ["validation", "test"]
    corpus.content["splits"]["untested_speakers"] = "train"
    manifest = corpus.manifest()
    index = manifest.class_index()
    assert index.dtype == np.int16
    assert [manifest.classes[position] for position in index] == manifest.table["label"].to_pylist()


def test_a_clip_without_label_in_a_labelled_split_is_refused(corpus):
    corpus.touch("audio/f01/f01_s1_.wav")
    with pytest.raises(
        CorpusError, match=r"f01_s1_\.wav: labels\.intended: the clip has no label and is in the \w+ split"
    ):
        corpus.manifest()


def test_an_unlabelled_clip_may_be_where_the_card_allows_it(corpus):
    corpus.touch("audio/f01/f01_s1_.wav")
    corpus.content["splits"]["labelled"] = []
    manifest = corpus.manifest()
    assert manifest.table["clip_id"][0].as_py() == "f01_s1_"
    assert manifest.class_index()[0] == -1
    assert (manifest.class_index() == -1).sum() == 1


def test_a_corpus_without_labels_is_all_unlabelled(corpus):
    corpus.content |= {"labels": {}, "classes": []}
    assert (corpus.manifest().class_index() == -1).all()


def test_one_modality_is_enough(corpus):
    corpus.content["video"] = None
    table = corpus.manifest().table
    assert table["video_path"].null_count == table["video_table_key"].null_count == len(table)
    corpus.content |= {"audio": None, "video": {
        "source": "files", "pattern": corpus.card().audio.pattern, "suffixes": [".wav"],
    }}  # fmt: skip
    table = corpus.manifest().table
    assert table["audio_path"].null_count == len(table)
    assert table["video_path"][0].as_py() == "audio/f01/f01_s1_an.wav"


def test_a_video_only_clip_has_its_facts_from_the_table_key(corpus):
    (corpus.root / "audio/f01/f01_s1_ca.wav").unlink()
    rows = {row["clip_id"]: row for row in corpus.manifest().table.to_pylist()}
    assert rows["f01_s1_ca"]["audio_path"] is None
    assert (rows["f01_s1_ca"]["speaker"], rows["f01_s1_ca"]["label"]) == ("f01", "calm")


def test_sides_that_disagree_are_refused(corpus):
    corpus.content["video"]["pattern"] = (
        r"(?P<clip>(?P<speaker>(?P<sex>[fm])\d\d)_(?P<sentence>\w+)_[a-z]*)-(?P<emotion>[a-z]+)"
    )
    corpus.write("units.csv", "clip,AU01,AU02\nf01_s1_ca-an,1,2\n")
    with pytest.raises(CorpusError, match=r"labels\.intended: group emotion is ca, but an in f01_s1_ca-an"):
        corpus.manifest()


def test_a_clip_without_speaker_is_refused(corpus):
    corpus.content["speaker"]["map"] = dict.fromkeys(("f01", "f02", "f03", "m01", "m02"), "x") | {"m03": None}
    with pytest.raises(CorpusError, match=r"m03_s1_an\.wav: speaker: the clip has no speaker"):
        corpus.manifest()


def test_a_speaker_of_two_sexes_is_refused(corpus):
    corpus.content["sex"] = {"group": "sentence", "map": {"s1": "female", "s2": "male"}}
    with pytest.raises(CorpusError, match="sex: speaker f01 is male here and female elsewhere"):
        corpus.manifest()


@pytest.mark.parametrize(
    ("expected", "subset", "warned"),
    [
        ({"clips": 24, "speakers": 6}, None, False),
        ({"clips": 48, "speakers": 12}, None, True),
        ({"clips": 48, "speakers": 12}, {"clips": 24, "speakers": 6, "reason": "half"}, False),
        ({"clips": 48, "speakers": 12}, {"clips": 23, "speakers": 6, "reason": "half"}, True),
    ],
)
def test_another_count_warns_unless_it_is_a_declared_subset(corpus, caplog, expected, subset, warned):
    corpus.content |= {"expected": expected, "subset": subset}
    with caplog.at_level(logging.WARNING):
        corpus.manifest()
    assert ("found 24 clips of 6 speakers, the card says 48 clips of 12 speakers" in caplog.text) == warned


def test_the_folder_comes_from_the_environment(corpus, monkeypatch):
    monkeypatch.setenv("TINY_ROOT", str(corpus.root))
    assert len(build_manifest(corpus.card())) == 24


def test_hugging_face_datasets_opens_a_manifest_that_reads_as_it_was(corpus, tmp_path):
    manifest = corpus.manifest()
    manifest.write(tmp_path)
    assert Manifest.read(tmp_path).table.equals(manifest.table, check_metadata=True)
    opened = datasets.load_from_disk(str(tmp_path / "manifest"))
    assert opened.data.table.to_pylist() == manifest.table.to_pylist()


def test_a_read_manifest_is_mapped_in_place(corpus, tmp_path):
    corpus.manifest().write(tmp_path)
    before = pa.total_allocated_bytes()
    manifest = Manifest.read(tmp_path)
    assert pa.total_allocated_bytes() - before < 1024
    assert len(manifest.split(0)) == 24


def test_the_manifest_of_an_earlier_version_names_the_command_that_converts_it(corpus, tmp_path):
    (tmp_path / "manifest.arrow").write_bytes(b"of format 1")
    with pytest.raises(StoreError, match=r"(?s)earlier version.*convert_store\.py STORE"):
        Manifest.read(tmp_path)


def test_a_missing_manifest_says_how_to_make_it(tmp_path):
    with pytest.raises(StoreError, match=r"(?s)there is no manifest.*prepare_corpus\.py CONFIG"):
        Manifest.read(tmp_path)


@pytest.mark.parametrize("content", [b"", b"not arrow at all"])
def test_a_broken_manifest_is_refused(tmp_path, content):
    (tmp_path / "manifest").mkdir()
    (tmp_path / MANIFEST_FILE).write_bytes(content)
    with pytest.raises(StoreError, match="not a readable manifest"):
        Manifest.read(tmp_path)


@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_a_manifest_that_was_cut_off_is_refused(corpus, tmp_path, share):
    corpus.manifest().write(tmp_path)
    path = tmp_path / MANIFEST_FILE
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(StoreError, match=r"not a readable manifest|holds 0 of 24 clips"):
        Manifest.read(tmp_path)


def test_a_manifest_that_ends_between_two_messages_is_refused(corpus, tmp_path):
    manifest = corpus.manifest()
    (tmp_path / "manifest").mkdir()
    with pa.ipc.new_stream(str(tmp_path / MANIFEST_FILE), manifest.table.schema) as writer:
        writer.write_table(manifest.table.slice(0, 7))
    with pytest.raises(StoreError, match="holds 7 of 24 clips"):
        Manifest.read(tmp_path)


def test_an_arrow_file_of_another_kind_is_refused(tmp_path):
    table = pa.table({"clip_id": ["a"]})
    (tmp_path / "manifest").mkdir()
    with pa.ipc.new_stream(str(tmp_path / MANIFEST_FILE), table.schema) as writer:
        writer.write_table(table)
    with pytest.raises(StoreError, match="holds no vavl metadata"):
        Manifest.read(tmp_path)


@pytest.fixture
def by_table(corpus):
    def build(rows: str):
        corpus.write("speakers.csv", "who,sex\n" + rows)
        corpus.content["sex"] = {
            "source": "table", "file": "speakers.csv", "speaker_column": "who", "sex_column": "sex",
            "map": {"F": "female", "M": "male", "?": None},
        }  # fmt: skip
        table = corpus.manifest().table
        return dict(zip(table["speaker"].to_pylist(), table["sex"].to_pylist(), strict=True))

    return build


def test_sexes_come_from_the_table_and_stay_unknown_without_a_row(by_table):
    sexes = by_table("f01,F\nm01,M\nm02,?\nx01,F\n")
    assert sexes == {"f01": "female", "m01": "male"} | dict.fromkeys(("f02", "f03", "m02", "m03"))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("f01,F\nf01,M\n", "who: speaker f01 is female and male"),
        ("f01,X\n", "sex: `X` of speaker f01 is not in the card's map"),
        ("x01,F\n", "no row is about a speaker of the corpus"),
    ],
)
def test_broken_tables_are_refused(by_table, rows, message):
    with pytest.raises(CorpusError, match=rf"speakers\.csv: .*{message}|speakers\.csv: {message}"):
        by_table(rows)

"""What columns of tables are: classes, marks of missing values, attributes, raters; tables as programs write them."""

from __future__ import annotations

import pytest
from described_names import described, is_to_decide, rows

from vavl.description.draft import card_content

EMOTIONS = ("anger", "joy", "neutral", "sadness")
CLIPS = [(f"s{speaker:02d}_r{take:02d}", EMOTIONS[take % 4], take) for speaker in range(1, 6) for take in range(1, 13)]


@pytest.mark.parametrize("mark", ["NA", "nan", "N/A", "none", "null", "-", "xxx", ""])
def test_marks_of_missing_labels_are_no_class(tmp_path, mark):
    lines = [f"{clip},{mark if take % 6 == 0 else emotion}" for clip, emotion, take in CLIPS]
    found = described(tmp_path, [clip for clip, _, _ in CLIPS], labels=rows("clip,emotion", lines))
    assert found.problem == ""
    assert found.manifest.classes == ("angry", "joy", "neutral", "sad")
    assert found.manifest.table["label"].null_count == 10


def test_a_missing_attribute_leaves_the_others(tmp_path):
    lines = [f"{clip},{'NA' if take == 5 else 1 + take % 5},{1 + take % 4}" for clip, _, take in CLIPS]
    found = described(tmp_path, [clip for clip, _, _ in CLIPS], labels=rows("clip,arousal,valence", lines))
    assert found.problem == ""
    assert found.manifest.table["arousal"].null_count == 5
    assert found.manifest.table["valence"].null_count == 0


def test_classes_that_are_numbers_are_to_be_named(tmp_path):
    lines = [f"{clip},{EMOTIONS.index(emotion)}.0" for clip, emotion, _ in CLIPS]
    found = described(tmp_path, [clip for clip, _, _ in CLIPS], labels=rows("clip,label", lines))
    assert found.manifest.classes == ("class_0", "class_1", "class_2", "class_3")
    assert is_to_decide(found, "name the classes of `label`")


def test_a_row_per_rater_is_told(tmp_path):
    lines = [f"{clip},r{k},{emotion}" for clip, emotion, _ in CLIPS for k in range(3)]
    found = described(tmp_path, [clip for clip, _, _ in CLIPS], labels=rows("clip,rater,emotion", lines))
    assert is_to_decide(found, "several rows per clip in `clip`", "one per `rater`")


def test_other_columns_that_could_be_labels_are_named(tmp_path):
    lines = [f"{clip},{emotion},{'sad' if take % 2 else 'angry'}" for clip, emotion, take in CLIPS]
    found = described(
        tmp_path, [clip for clip, _, _ in CLIPS], labels=rows("clip,intended_emotion,perceived_emotion", lines)
    )
    assert is_to_decide(found, "is taken as the class, not")


def test_tables_of_parts_are_one_set_of_labels(tmp_path):
    tables = {
        name: rows("clip,emotion", (f"{clip},{emotion}" for clip, emotion, _ in CLIPS if clip[:3] in speakers))
        for name, speakers in (("train", ("s01", "s02", "s03")), ("dev", ("s04",)), ("test", ("s05",)))
    }
    found = described(tmp_path, [clip for clip, _, _ in CLIPS], **tables)
    assert found.problem == ""
    assert list(card_content(found.sections)["labels"]) == ["labels"]
    assert found.manifest.table["label"].null_count == 0
    assert is_to_decide(found, "are named like published splits")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("head", ["", "sep=;\n", '"sep=;"\r\n'])
def test_tables_as_excel_writes_them(tmp_path, encoding, head):
    lines = "".join(f"{clip};{take / 4:g};{emotion}\n".replace(".", ",") for clip, emotion, take in CLIPS)
    (tmp_path / "labels.csv").write_bytes((head + "clip;arousal;emotion\n" + lines).encode(encoding))
    found = described(tmp_path, [clip for clip, _, _ in CLIPS])
    assert found.problem == ""
    assert found.manifest.classes == ("angry", "joy", "neutral", "sad")
    assert found.manifest.table["label"].null_count == found.manifest.table["arousal"].null_count == 0


def test_a_column_of_splits_and_other_words_is_told(tmp_path):
    of_speaker = {"s01": "unused", "s04": "Val", "s05": "Test"}
    lines = [f"{clip},{emotion},{of_speaker.get(clip[:3], 'Train')}" for clip, emotion, _ in CLIPS]
    found = described(tmp_path, [clip for clip, _, _ in CLIPS], labels=rows("clip,emotion,part", lines))
    assert is_to_decide(found, "`part` of labels.csv names splits and unused")


def test_rows_without_a_split_are_in_none(tmp_path):
    of_speaker = {"s01": "NA", "s04": "Val", "s05": "Test"}
    lines = [f"{clip},{emotion},{of_speaker.get(clip[:3], 'Train')}" for clip, emotion, _ in CLIPS]
    found = described(tmp_path, [clip for clip, _, _ in CLIPS], labels=rows("clip,emotion,part", lines))
    assert found.manifest.table["split_0"].to_pylist()[:1] == ["none"]


def test_votes_for_forms_of_one_word_stay_apart(tmp_path):
    lines = [f"{clip},1,0,2,{take},1" for clip, _, take in CLIPS]
    found = described(tmp_path, [clip for clip, _, _ in CLIPS], votes=rows("clip,anger,angry,joy,happiness,sad", lines))
    assert found.manifest.classes == ("anger", "angry", "joy", "happy", "sad")


def test_folds_of_clips_are_folds_of_their_speakers(tmp_path):
    lines = [f"{clip},{emotion},{int(clip[1:3]) % 3}" for clip, emotion, _ in CLIPS]
    found = described(tmp_path, [clip for clip, _, _ in CLIPS], labels=rows("clip,emotion,fold", lines))
    assert card_content(found.sections)["splits"]["folds"]["test_speakers"] == {
        0: ["s03"], 1: ["s01", "s04"], 2: ["s02", "s05"],
    }  # fmt: skip


def test_ratings_without_a_title_that_says_labels_are_told_too(tmp_path):
    lines = [f"{k},{clip},{'AHSN'[k]}" for clip, _, _ in CLIPS for k in range(3)]
    found = described(tmp_path, [clip for clip, _, _ in CLIPS], votes=rows("id,name,answer", lines))
    assert is_to_decide(found, "votes.csv has several rows per clip in `name`")


@pytest.mark.parametrize("start", ["", "C:\\data\\", "\\\\server\\share\\"])
@pytest.mark.parametrize("mark", ["_", "/"])
def test_a_table_of_windows_paths_joins_with_the_clips(tmp_path, start, mark):
    """With ``/`` the directory of the speaker belongs to the clip, as file names alone are not unique."""
    clips = [(clip.replace("_", mark), emotion, take) for clip, emotion, take in CLIPS]
    split = {"s01": "train", "s02": "train", "s03": "train", "s04": "dev", "s05": "test"}
    lines = [
        f"{start}{clip.replace('/', chr(92))}.wav,{emotion},{split[clip[:3]]},{clip[:3]}" for clip, emotion, _ in clips
    ]
    found = described(tmp_path, [clip for clip, _, _ in clips], labels=rows("file,emotion,split,speaker", lines))
    assert found.problem == ""
    table = found.manifest.table
    assert table["label"].null_count == 0
    assert table["speaker"].to_pylist() == [clip[:3] for clip in table["clip_id"].to_pylist()]
    assert table["split_0"].to_pylist() == [
        split[name].replace("dev", "validation") for name in table["speaker"].to_pylist()
    ]

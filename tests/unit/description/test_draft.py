"""Tables next to the media, and the card that is drafted from all of it."""

from __future__ import annotations

import os
from itertools import product
from pathlib import Path

import name_layouts
import pytest
import yaml

from vavl.corpora.manifest import TEST, TRAIN, VALIDATION
from vavl.description.describe import Description, corpus_name, describe_directory
from vavl.description.draft import card_content, card_text
from vavl.description.people import draw_folds
from vavl.description.tables import look_at_table
from vavl.errors import CorpusError

ROOT = Path(__file__).parents[3]


def touch(root: Path, names: list[str]) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def described(root: Path, name: str = "found") -> Description:
    found = describe_directory(root, name, cards=ROOT / "datasets", most_files=10_000, probed_files=0)
    assert yaml.safe_load(card_text(found.sections, "head")) == card_content(found.sections)
    return found


@pytest.mark.parametrize(
    ("case", "speakers", "folds"), [("demo", 12, 5), ("crema_d", 12, 5), ("speaker_folders", 5, 1)]
)
def test_the_card_of_a_layout_gives_its_manifest(tmp_path, case, speakers, folds):
    audio, video = getattr(name_layouts, case)()
    touch(tmp_path, [*audio, *video])
    found = described(tmp_path)
    assert found.problem == ""
    assert found.manifest is not None
    assert len(found.manifest) == len(audio)
    assert found.manifest.table["audio_path"].null_count == 0
    assert found.manifest.table["video_path"].null_count == (0 if video else len(audio))
    assert found.manifest.table["label"].null_count == 0
    assert len(found.manifest.speaker_codes()[1]) == speakers
    assert len(found.manifest.folds) == folds
    for fold in found.manifest.folds:
        assert {TRAIN, VALIDATION, TEST} == set(found.manifest.split(fold).tolist())


def test_a_shipped_card_that_fits_is_named_and_only_the_proposed_one_warns(tmp_path, caplog):
    audio, video = name_layouts.demo()
    touch(tmp_path, [*audio, *video, "audio/f01/notes on the recording.wav"])
    assert [(card.path.name, card.clips) for card in described(tmp_path).known] == [("demo.yaml", 432)]
    assert caplog.text.count("do not match audio.pattern") == 1


def test_clips_without_a_speaker_count_as_speakers_and_that_is_to_be_decided(tmp_path):
    touch(tmp_path, name_layouts.numbered_in_class_folders()[1])
    found = described(tmp_path)
    assert found.manifest is not None
    assert card_content(found.sections)["speaker"] == {"group": "clip"}
    assert any("no field of the names tells who speaks" in line for line in found.decisions)


def test_tables_become_folds_features_and_labels(tmp_path):
    audio, _ = name_layouts.ravdess()
    touch(tmp_path, audio)
    clips = [Path(name).stem.removeprefix("03-") for name in audio]
    units = ",".join(f"AU{number:02d}_r" for number in range(9))
    (tmp_path / "units.csv").write_text(f"clip_id,{units}\n" + "".join(f"{c}{',0.5' * 9}\n" for c in clips))
    (tmp_path / "folds.csv").write_text("actor,fold\n1,0\n2,1\n3,0\n4,1\n")
    (tmp_path / "votes.csv").write_text(
        "name,angry,happy,sad,EmoVal\n" + "".join(f"{clip}.wav,0,3,1,2.5\n" for clip in clips)
    )
    found = described(tmp_path)
    content = card_content(found.sections)
    assert content["splits"]["folds"] == {
        "source": "table", "file": "folds.csv", "speaker_column": "actor", "fold_column": "fold", "speaker_digits": 2,
    }  # fmt: skip
    assert content["video"]["feature_columns"] == r"AU\d+_r"
    assert content["video"]["width"] == 9
    (votes,) = content["labels"]["votes"]["tables"]
    assert votes["soft_columns"] == {"angry": "angry", "happy": "happy", "sad": "sad"}
    assert (votes["attribute_columns"], votes["attribute_range"]) == ({"valence": "EmoVal"}, [1.0, 5.0])
    assert found.problem == ""
    assert found.manifest is not None
    assert found.manifest.folds == (0, 1)
    assert found.manifest.table["video_table_key"].null_count == 0
    assert found.manifest.table["valence__votes"].to_pylist() == pytest.approx([0.375] * len(clips))


def test_a_clip_in_two_formats_is_taken_in_the_more_frequent_one(tmp_path):
    names = [f"s{speaker}_{take}" for speaker, take in product(range(4), range(3))]
    touch(tmp_path, [*(f"{name}.wav" for name in names), "s0_0.flac", "s1_0.flac"])
    found = described(tmp_path)
    assert card_content(found.sections)["audio"]["suffixes"] == [".wav"]
    assert found.manifest is not None
    assert len(found.manifest) == 12


def test_too_few_speakers_are_told_and_give_no_manifest(tmp_path):
    touch(tmp_path, [f"f01_{take}_{emotion}.wav" for take in "123" for emotion in name_layouts.EMOTIONS]
          + [f"m01_{take}_{emotion}.wav" for take in "123" for emotion in name_layouts.EMOTIONS])  # fmt: skip
    found = described(tmp_path)
    assert found.manifest is None
    assert "none is left to train on" in found.problem
    assert any("2 speakers are too few" in line for line in found.decisions)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "holds no rows"),
        (b"a,b\n", "holds no rows"),
        ("clip,Gefühl\n".encode("utf-16"), "holds no rows"),
        ("clip,Gefühl\na,b".encode("utf-32"), "cannot be read"),
        (b"clip\0,x\n1,2\n", ""),
        (b"clip,x\n1,2,3\n", "holds no rows"),
    ],
)
def test_odd_tables_are_told_and_never_end_the_description(tmp_path, content, problem):
    (tmp_path / "t.csv").write_bytes(content)
    found = look_at_table(tmp_path, "t.csv", ["a", "b"], [])
    assert problem in found.problem
    assert found.key_column is None


def test_a_folder_without_media_is_refused(tmp_path):
    touch(tmp_path, ["a.txt", "b/c.txt", ".hidden.wav"])
    with pytest.raises(CorpusError, match=r"no audio or video file.*found 2 \.txt"):
        described(tmp_path)


def test_links_pipes_and_hidden_files_are_counted_and_left_out(tmp_path):
    touch(tmp_path, ["s1_a.wav", "s2_a.wav", "s3_a.wav", ".s4_a.wav"])
    os.mkfifo(tmp_path / "s5_a.wav")
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "gone.wav").symlink_to(tmp_path / "nowhere.wav")
    left_out = described(tmp_path).listing.left_out
    assert left_out == {
        "hidden files and folders": 1, "links to folders": 1, "broken links, pipes, sockets and devices": 2
    }  # fmt: skip


def test_the_bound_on_files_is_kept_and_told(tmp_path):
    touch(tmp_path, [f"s{number}_a.wav" for number in range(9)])
    found = describe_directory(tmp_path, "found", cards=tmp_path, most_files=5, probed_files=0)
    assert len(found.listing.audio) == 5
    assert not found.listing.is_complete


def test_folds_test_every_speaker_once_and_depend_on_names_alone():
    speakers = [f"{sex}{number:02d}" for sex in "fm" for number in range(10)]
    folds = draw_folds(speakers)
    assert sorted(name for names in folds.values() for name in names) == speakers
    assert all(sum(name[0] == "f" for name in names) == 2 for names in folds.values())
    assert folds == draw_folds(speakers[::-1])
    assert list(draw_folds(["a", "b", "c"])) == [0]


@pytest.mark.parametrize(
    ("folder", "name"), [("My Clips 2", "my_clips_2"), ("2026", "corpus_2026"), ("übung", "bung"), ("...x", "x")]
)
def test_the_name_of_a_corpus(folder, name):
    assert corpus_name(Path("/data") / folder) == name

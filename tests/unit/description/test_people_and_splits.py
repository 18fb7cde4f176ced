"""Who speaks, which split a clip is in and what is a class: right by a stated rule, or a line to decide."""

from __future__ import annotations

from itertools import product

import pytest
from described_names import described, is_to_decide, rows, speakers_of, splits_by_clip

from vavl.audit.audit import audit_labels
from vavl.audit.finding import Check, State
from vavl.audit.settings import AuditSettings
from vavl.description.describe import choose_videos
from vavl.description.draft import card_content
from vavl.description.words import class_names, split_of, splits_of
from vavl.media.media_probe import Probed

EMOTIONS = ("anger", "joy", "neutral", "sadness")
CLIPS = [(f"s{speaker:02d}_r{take:02d}", EMOTIONS[take % 4], take) for speaker in range(1, 6) for take in range(1, 13)]


def iemocap() -> list[str]:
    dialogues = ("impro01", "impro02", "script01_1", "script01_1b")
    return [
        f"Session{session}/sentences/wav/Ses{session:02d}{worn}_{dialogue}/"
        f"Ses{session:02d}{worn}_{dialogue}_{who}{turn:03d}"
        for session, worn, dialogue, who, turn in product(range(1, 6), "FM", dialogues, "FM", range(3))
    ]


def test_sessions_and_letters_are_people(tmp_path):
    labels = ("ang", "hap", "neu", "sad", "xxx", "oth")
    names = iemocap()
    lines = [f"{name.rpartition('/')[2]},{labels[place % 6]}" for place, name in enumerate(names)]
    found = described(tmp_path, names, labels=rows("name,emotion", lines))
    assert speakers_of(found) == [f"Ses{session:02d}_{who}" for session in range(1, 6) for who in "FM"]
    content = card_content(found.sections)
    assert content["classes"] == ["angry", "happy", "neutral", "other", "sad"]
    (table,) = content["labels"]["labels"]["tables"]
    assert table["map"]["xxx"] is None
    for tested in content["splits"]["folds"]["test_speakers"].values():
        assert {f"{name[:5]}_{letter}" for name in tested for letter in "FM"} == set(tested)
    assert found.manifest.table["label"].null_count == len(names) // 6
    assert not is_to_decide(found, "session and letter")


@pytest.mark.parametrize(
    ("pattern", "count"),
    [
        ("dialogue{s}/dialogue{s}_{who}{turn:02d}", 8),
        ("session{s}_{who}_{turn}", 8),
        ("S/Ses{s}-talk-{who}-{turn:03d}", 8),
        ("Session{s}/{who}/{turn}", 8),
        ("meeting-{s}-{who}{turn}", 8),
    ],
)
def test_letters_in_other_sessions_are_people_and_to_decide(tmp_path, pattern, count):
    names = [pattern.format(s=s, who=who, turn=turn) for s, who, turn in product(range(4), "AB", range(6))]
    found = described(tmp_path, names)
    assert len(speakers_of(found)) == count
    assert is_to_decide(found, "session and letter")
    assert len({name.rpartition("_")[0] for name in speakers_of(found)}) == 4


def test_a_session_stands_for_people_of_whom_nothing_is_known(tmp_path):
    names = [f"Session{s}/dia{d}_utt{u}" for s, d, u in product(range(1, 6), range(3), range(4))]
    found = described(tmp_path, names)
    assert speakers_of(found) == [f"Session{s}" for s in range(1, 6)]
    assert is_to_decide(found, "sessions", "in place of the speakers")


def test_published_splits_in_directories_are_no_classes_and_no_people(tmp_path):
    names = [f"{split}_splits/dia{d}_utt{u}" for split, d, u in product(("train", "dev", "test"), range(4), range(4))]
    tables = {
        f"{split}_sent_emo": rows(
            "Sr No.,Utterance,Speaker,Emotion,Dialogue_ID,Utterance_ID",
            (f"{n},words,{'Ann' if n % 2 else 'Bob'},{EMOTIONS[n % 4]},{n // 4},{n % 4}" for n in range(16)),
        )
        for split in ("train", "dev", "test")
    }
    found = described(tmp_path, names, **tables)
    assert len(speakers_of(found)) == 48
    assert card_content(found.sections)["classes"] == []
    wanted = {"train": "train", "dev": "validation", "test": "test"}
    assert splits_by_clip(found) == {name: wanted[name.split("_")[0]] for name in names}
    assert is_to_decide(found, "dia0 is in several of the published splits")
    assert sum("joins with no clip" in line and "`Emotion`" in line for line in found.decisions) == 3


@pytest.mark.parametrize(
    "words",
    [
        ("Train", "Val", "Test"),
        ("training", "validation", "evaluation"),
        ("TRAIN", "DEV", "EVAL"),
        ("trainset", "devset", "testset"),
        ("train_splits", "dev_splits_complete", "output_repeated_splits_test"),
        ("train", "valid", "test"),
    ],
)
def test_splits_and_classes_in_directories(tmp_path, words):
    names = [
        f"{split}/{emotion}/{number:05d}{place}"
        for place, split in enumerate(words)
        for number, emotion in enumerate(("Angry", "Happy", "Neutral", "Sad") * 4)
    ]
    found = described(tmp_path, names)
    assert card_content(found.sections)["classes"] == ["angry", "happy", "neutral", "sad"]
    assert len(speakers_of(found)) == len(names)
    assert is_to_decide(found, "no field of the names tells who speaks")
    wanted = dict(zip(words, ("train", "validation", "test"), strict=True))
    found_splits = splits_by_clip(found)
    assert [found_splits[name.rpartition("/")[2]] for name in names] == [wanted[name.split("/")[0]] for name in names]
    assert not is_to_decide(found, "drawn")


def test_without_a_validation_split_training_speakers_are_drawn(tmp_path):
    names = [f"{'test' if s > 6 else 'train'}/actor{s}_{e}_{t}" for s, e, t in product(range(9), EMOTIONS, (1, 2))]
    found = described(tmp_path, names)
    counts = {
        split: sum(split == of for of in splits_by_clip(found).values()) for split in ("train", "validation", "test")
    }
    assert counts == {"train": 48, "validation": 8, "test": 16}
    assert not is_to_decide(found, "test split")


def test_without_a_test_split_the_other_one_is_tested_and_that_is_to_decide(tmp_path):
    names = [f"{'val' if s > 6 else 'train'}/actor{s}_{e}_{t}" for s, e, t in product(range(9), EMOTIONS, (1, 2))]
    found = described(tmp_path, names)
    assert {split for clip, split in splits_by_clip(found).items() if clip[5] in "78"} == {"test"}
    assert is_to_decide(found, "no split is called test")


def test_published_splits_that_share_known_people_are_not_used(tmp_path):
    names = [
        f"{split}/actor{s}_{e}_{n}" for (n, split), s, e in product(enumerate(("train", "test")), range(9), EMOTIONS)
    ]
    found = described(tmp_path, names)
    assert len(speakers_of(found)) == 9
    assert is_to_decide(found, "published splits that share speakers", "not used")


@pytest.mark.parametrize(
    ("column", "of_speaker", "expected"),
    [
        ("split", {"s04": "dev", "s05": "test"}, {"s04": "validation", "s05": "test"}),
        ("Split_Set", {"s01": "Train", "s03": "Development", "s04": "Test1", "s05": "Test2"},
         {"s03": "validation", "s04": "test", "s05": "test"}),
        ("partition", {"s05": "TEST"}, {"s05": "test"}),
    ],
)  # fmt: skip
def test_a_column_of_splits_is_taken(tmp_path, column, of_speaker, expected):
    lines = [
        f"{clip},{emotion},{of_speaker.get(clip[:3], of_speaker.get('s01', 'train'))}" for clip, emotion, _ in CLIPS
    ]
    found = described(tmp_path, [clip for clip, _, _ in CLIPS], labels=rows(f"clip,emotion,{column}", lines))
    assert found.problem == ""
    found_splits = splits_by_clip(found)
    for clip, split in found_splits.items():
        if "validation" in expected.values() or clip[:3] in expected:
            assert split == expected.get(clip[:3], "train")
    assert set(found_splits.values()) == {"train", "validation", "test"}
    assert not is_to_decide(found, "drawn")


def test_a_column_of_speakers_is_taken(tmp_path):
    names = [f"MSP-PODCAST_{r:04d}_{t:04d}" for r, t in product(range(10), range(6))]
    lines = [
        f"{name}.wav,{'ANH'[place % 3]},{place % 7}.5,{(place // 6) % 5 or 'Unknown'}"
        for place, name in enumerate(names)
    ]
    found = described(tmp_path, names, labels_consensus=rows("FileName,EmoClass,EmoAct,SpkrID", lines))
    assert {"1", "2", "3", "4"} < set(speakers_of(found))
    content = card_content(found.sections)
    assert content["speaker"]["speaker_column"] == "SpkrID"
    assert is_to_decide(found, "12 clips have no speaker")
    assert is_to_decide(found, "name the classes of `EmoClass`")


def test_near_synonyms_stay_apart(tmp_path):
    names = [
        f"s{speaker:02d}_{emotion}_{take}"
        for speaker, emotion, take in product(
            range(1, 6), ("fear", "anxiety", "joy", "happiness", "anger", "neutral"), (1, 2)
        )
    ]
    found = described(tmp_path, names)
    assert len(found.manifest.classes) == 6


def test_forms_of_a_word_stay_apart_with_a_line_and_differences_in_case_do_not():
    named = class_names(["Angry", "angry", "anger", "sad", "NA", "no agreement"])
    assert named.by_value == {
        "Angry": "angry", "angry": "angry", "anger": "anger", "sad": "sad", "NA": None, "no agreement": None,
    }  # fmt: skip
    assert len(named.doubts) == 2


@pytest.mark.parametrize("directory", ["{speaker}/", "AudioData/{speaker}/", "{speaker}_"])
def test_savee(tmp_path, directory):
    names = [
        f"{directory.format(speaker=speaker)}{emotion}{take:02d}"
        for speaker, emotion, take in product(
            ("DC", "JE", "JK", "KL"), ("a", "d", "f", "h", "n", "sa", "su"), range(1, 5)
        )
    ]
    found = described(tmp_path, names)
    assert speakers_of(found) == ["DC", "JE", "JK", "KL"]
    assert found.manifest.classes == ("angry", "disgust", "fearful", "happy", "neutral", "sad", "surprised")
    # The first sentence of anger is another one than the first of joy, and an audit says what that means.
    assert set(found.manifest.table["group_text"].to_pylist()) == {
        f"{emotion}_{take:02d}" for emotion in ("a", "d", "f", "h", "n", "sa", "su") for take in range(1, 5)
    }
    states = {finding.check: finding.state for finding in audit_labels(found.manifest, AuditSettings()).findings}
    assert states[Check.SENTENCES] == State.WARNING


def test_people_as_directories_with_codes_of_their_own(tmp_path):
    names = [
        f"{who}/{code}{take}" for who, code, take in product(("Ann", "Bo", "Cy"), ("wu", "fr", "tr", "an"), range(3))
    ]
    found = described(tmp_path, names)
    assert speakers_of(found) == ["Ann", "Bo", "Cy"]
    assert len(found.manifest.classes) == 4
    assert is_to_decide(found, "are taken as the speakers")
    assert is_to_decide(found, "could be the class")


def test_emo_db(tmp_path):
    parts = product(("03", "08", "09", "10", "11"), ("a01", "a05", "b03"), "WLEAFTN", "ab")
    found = described(tmp_path, ["wav/" + "".join(part) for part in parts])
    assert speakers_of(found) == ["03", "08", "09", "10", "11"]
    assert set(found.manifest.classes) == {"angry", "bored", "disgust", "fearful", "happy", "sad", "neutral"}
    assert found.manifest.table["group_sentence"][0].as_py() == "a01"
    assert not is_to_decide(found, "speakers:")


def test_tess(tmp_path):
    words, emotions = (
        ("back", "bar", "base", "bath", "bean"),
        ("angry", "disgust", "fear", "happy", "neutral", "ps", "sad"),
    )
    names = [f"{who}_{e}/{who}_{word}_{e}" for who, word, e in product(("OAF", "YAF"), words, emotions)]
    found = described(tmp_path, names)
    assert set(found.layout.speakers_of_clips().values()) == {"OAF", "YAF"}
    assert is_to_decide(found, "2 speakers are too few")
    assert "pleasant_surprise" in card_content(found.sections)["classes"]


def ravdess_video(silent: str = "02") -> list[str]:
    return [
        f"Actor_{actor:02d}/{kind}-01-{emotion}-01-{text}-01-{actor:02d}.mp4"
        for actor, emotion, text, kind in product(range(1, 5), ("01", "03", "04"), ("01", "02"), ("01", silent))
    ]


def test_ravdess_without_its_silent_copies(tmp_path):
    found = described(tmp_path, ravdess_video())
    assert len(found.layout.speakers_of_clips()) == 24
    assert found.manifest.table["video_path"].to_pylist()[0].endswith("01-01-01-01-01-01-01.mp4")
    assert any("24 files are left out" in line for section in found.sections for line in section.comments)
    assert found.manifest.classes == ("neutral", "happy", "sad")


def probe(name: str, has_sound: bool) -> Probed:
    return Probed(name, seconds=1.0, channels=1 if has_sound else None, sample_rate_hz=8000 if has_sound else None)


def test_copies_without_sound_are_found_by_opening_files():
    names = [f"take{take}_{kind}.mp4" for take in range(9) for kind in ("av", "mute")]
    probed = [probe(name, "av" in name) for name in names[:8]]
    chosen = choose_videos(names, probed)
    assert chosen.has_sound
    assert chosen.names == tuple(name for name in names if "av" in name)
    mixed = choose_videos(names, [probe(name, place < 5) for place, name in enumerate(names[:8])])
    assert len(mixed.names) == 18
    assert any("3 of 8 video files that were opened hold no audio" in note for note in mixed.notes)


def test_words_for_splits():
    assert [split_of(text) for text in ("Train", "dev_splits", "TestSet", "valid", "eval", "s01", "interval")] == [
        "train", "validation", "test", "validation", "test", None, None,
    ]  # fmt: skip
    assert splits_of(["train", "eval", "test"])["eval"] == "validation"
    assert splits_of(["train", "s01"]) == splits_of(["train"]) == splits_of(["val", "test"]) == {}


def test_two_actors_of_msp_improv(tmp_path):
    parts = product((1, 2, 3), ("S01A", "S05H"), "FM", "PS", ("FM", "MF"), (1, 2))
    names = [f"session{s}/{t}/MSP-IMPROV-{t}-{who}0{s}-{kind}-{pair}{n:02d}" for s, t, who, kind, pair, n in parts]
    found = described(tmp_path, names)
    assert speakers_of(found) == ["F01", "F02", "F03", "M01", "M02", "M03"]
    assert is_to_decide(found, "two actors", "in the same splits")


def test_a_letter_and_the_number_of_a_turn_are_no_person(tmp_path):
    names = [f"Session{s}/{who}{turn:03d}" for s, who, turn in product(range(1, 6), "FM", range(4))]
    found = described(tmp_path, names)
    assert speakers_of(found) == [f"Session{s}_{who}" for s in range(1, 6) for who in "FM"]
    assert is_to_decide(found, "session and letter")


def test_directories_beside_the_splits_are_in_none(tmp_path):
    names = [f"{split}/{e}_{n}" for split, e, n in product(("train", "val", "test", "extra"), EMOTIONS, range(3))]
    found = described(tmp_path, names)
    assert set(splits_by_clip(found).values()) == {"train", "validation", "test", "none"}
    assert is_to_decide(found, "clips of extra are in no split")


def test_splits_without_one_to_train_on_are_told(tmp_path):
    found = described(tmp_path, [f"{split}/{e}_{n}" for split, e, n in product(("dev", "eval"), EMOTIONS, range(5))])
    assert found.manifest.classes == ("angry", "joy", "neutral", "sad")
    assert is_to_decide(found, "dev, eval in the names are splits")


def test_splits_people_and_classes_in_one_name(tmp_path):
    who = {"train": ("f01", "m01", "f02"), "dev": ("m02",), "test": ("f03",)}
    names = [f"{split}/{name}/{e}_{t}" for split in who for name in who[split] for e in EMOTIONS for t in range(2)]
    found = described(tmp_path, names)
    assert speakers_of(found) == ["f01", "f02", "f03", "m01", "m02"]
    assert splits_by_clip(found)["m02/joy_1"] == "validation"


def test_splits_of_speakers_in_a_table(tmp_path):
    names = [f"spk{s}_{e}_{t}" for s, e, t in product(range(8), EMOTIONS, range(2))]
    lines = [f"spk{s},{'train' if s < 5 else 'val' if s < 6 else 'test'}" for s in range(8)]
    found = described(tmp_path, names, split=rows("speaker,split", lines))
    assert splits_by_clip(found)["spk5_joy_0"] == "validation"

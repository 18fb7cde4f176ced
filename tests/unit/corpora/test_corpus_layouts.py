"""Every shipped card against directories with the real names and nesting of its corpus; the files are empty."""

from __future__ import annotations

import gzip
from itertools import product
from pathlib import Path

import pytest
from csd_files import write_mosei

from vavl.corpora.card import read_card
from vavl.corpora.manifest import Manifest, build_manifest

FOLDER = Path(__file__).parents[3] / "datasets"


class Layout:
    """A corpus directory in the making."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def files(self, *names: str) -> None:
        for name in names:
            path = self.root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()

    def table(self, name: str, header: str, *rows: str) -> None:
        (self.root / name).write_text("\n".join([header, *rows, ""]), encoding="utf-8")

    def manifest(self, card: str) -> Manifest:
        return build_manifest(read_card(FOLDER / f"{card}.yaml"), self.root)


@pytest.fixture
def layout(tmp_path):
    return Layout(tmp_path)


def row(manifest: Manifest, clip: str) -> dict:
    return next(found for found in manifest.table.to_pylist() if found["clip_id"] == clip)


CREMA_D_SPLITS = {"1001": "Train", "1002": "Development", "1003": "Test"}


@pytest.fixture
def crema_d(layout):
    names = [f"{actor}_{sentence}_{emotion}_XX" for actor, sentence, emotion in product(
        CREMA_D_SPLITS, ("IEO", "DFA"), ("ANG", "NEU"),
    )]  # fmt: skip
    layout.files(*(f"AudioWAV/{name}.wav" for name in names), *(f"VideoFlash/{name}.flv" for name in names))
    layout.table("SentenceFilenames.csv", '"Stimulus_Number","Filename"', *(f'1,"{name}"' for name in names))
    sexes = ('1001,51,"Male"', '1002,21,"Female"', '1003,21,"Female"')
    layout.table("VideoDemographics.csv", '"ActorID","Age","Sex"', *sexes)
    rows = [f"{name}.wav,0.856,0.01,0.01,0.104,0.01,0.01,{name[:4]},X,{CREMA_D_SPLITS[name[:4]]}" for name in names]
    header = "FileName,angry,sad,disgust,fear,neutral,happy,SpkrID,Gender,Split_Set"
    for fold in range(1, 6):
        layout.table(f"label_consensus_{fold}.csv", header, *rows[:-1])
    votes = [
        f"{mode}{number:05d},{'6,0,0,0,4,0' if mode < 3 else '5,0,0,0,5,0'},{name}"
        for mode, (number, name) in product((1, 2, 3), enumerate(names, start=1))
    ]
    layout.table("votes.csv", "Unnamed: 0,A,D,F,H,N,S,fileName", *votes)
    packed = gzip.compress((layout.root / "votes.csv").read_bytes())
    (layout.root / "tabulatedVotes.csv.gz").write_bytes(packed)
    return layout


def test_crema_d(crema_d):
    manifest = crema_d.manifest("crema_d")
    assert manifest.folds == (1, 2, 3, 4, 5)
    first = row(manifest, "1001_DFA_NEU_XX")
    assert (first["audio_path"], first["video_path"]) == (
        "AudioWAV/1001_DFA_NEU_XX.wav", "VideoFlash/1001_DFA_NEU_XX.flv",
    )  # fmt: skip
    labels = [first[column] for column in ("label", "label__intended", "label__voice", "label__both")]
    assert labels == ["angry", "neutral", "angry", None]
    assert first["soft_label__both"] == [0.5, 0, 0, 0, 0.5, 0]
    assert (first["sex"], first["split_3"], first["group_level"]) == ("male", "train", "unspecified")
    last = row(manifest, "1003_DFA_NEU_XX")
    assert (last["split_1"], last["label"], last["label__intended"]) == ("none", None, "neutral")


def test_msp_improv(layout):
    names = [f"S01A-{sex}0{session}-{scenario}-{sex}M01" for sex, session, scenario in product(
        "FM", range(1, 7), "RSPT",
    )]  # fmt: skip
    for name in names:
        folder = f"session{name[7]}/S01A/{name[9]}"
        layout.files(f"{folder}/MSP-IMPROV-{name}.wav", f"{folder}/MSP-IMPROV-{name}.avi")
    split = {"4": "Development", "5": "Test"}
    layout.table(
        "labels_consensus_1.csv", "FileName,EmoAct,EmoVal,EmoDom,SpkrID,Gender,Split_Set",
        *(f"MSP-IMPROV-{name}.wav,1,3,5,{name[7]},X,{split.get(name[7], 'Train')}" for name in names[:-1]),
    )  # fmt: skip
    manifest = layout.manifest("msp_improv")
    assert (len(manifest), len(manifest.speaker_codes()[1])) == (48, 12)
    found = row(manifest, "S01A-M05-S-MM01")
    assert (found["arousal"], found["valence"], found["dominance"]) == (0, 0.5, 1)
    assert (found["speaker"], found["sex"], found["split_1"]) == ("M05", "male", "test")
    assert found["video_path"] == "session5/S01A/S/MSP-IMPROV-S01A-M05-S-MM01.avi"
    assert (found["group_session"], found["group_intended"]) == ("5", "angry")
    assert (found["group_scenario"], row(manifest, "S01A-M06-T-MM01")["split_1"]) == ("target sentence", "none")


EMOTIONS = {"an": "anger", "di": "disgust", "fe": "fear", "ha": "happiness", "sa": "sadness", "su": "surprise"}


def test_enterface05(layout, caplog):
    for subject, (code, emotion), sentence in product((*range(1, 6), *range(7, 15)), EMOTIONS.items(), (1, 5)):
        # Names that are wrong in the corpus: subject 3, subject 11, and one with the suffix in its name.
        stem = {3: "s_3", 11: "s12"}.get(subject, f"s{subject}")
        file = f"{stem}_{code}_{sentence}" + ("avi" if (subject, code) == (4, "su") else "")
        layout.files(f"enterface database/subject {subject}/{emotion}/sentence {sentence}/{file}.avi")
    layout.files(*(f"enterface database/subject 6/{emotion}/s6_{code}.avi" for code, emotion in EMOTIONS.items()))
    manifest = layout.manifest("enterface05")
    assert (len(manifest), len(manifest.speaker_codes()[1])) == (156, 13)
    assert "6 files do not match audio.pattern and are left out" in caplog.text
    found = row(manifest, "subject 11/anger/sentence 5")
    assert (found["speaker"], found["label"], found["group_sentence"]) == ("11", "anger", "5")
    assert found["audio_path"] == found["video_path"]
    assert found["audio_path"].endswith("subject 11/anger/sentence 5/s12_an_5.avi")
    assert manifest.folds == (0, 1, 2, 3, 4)
    assert manifest.label_set == "intended"


def test_baum1s(layout):
    clips = [f"S{subject:03d}_{clip:03d}" for subject, clip in product(range(1, 32), (1, 2, 3))]
    layout.files(*(f"BAUM1s_MP4 - All/s{clip[1:4]}/{clip}.mp4" for clip in clips))
    named = ("Happiness", "Thinking", "Anger")
    layout.table("annotations_baum1s.csv", "clip,emotion", *(f"{c},{named[int(c[-1]) - 1]}" for c in clips))
    manifest = layout.manifest("baum1s")
    assert (len(manifest), len(manifest.speaker_codes()[1])) == (93, 31)
    assert [row(manifest, f"S007_00{take}")["label"] for take in (1, 2, 3)] == ["happiness", None, "anger"]
    assert row(manifest, "S007_001")["split_1"] == "test"
    assert row(manifest, "S007_001")["video_path"] == "BAUM1s_MP4 - All/s007/S007_001.mp4"


def test_cmu_mosei_from_its_features(tmp_path, caplog):
    manifest = build_manifest(read_card(FOLDER / "cmu_mosei.yaml"), write_mosei(tmp_path))
    assert (len(manifest), len(manifest.speaker_codes()[1])) == (8, 4)
    first, second = (row(manifest, f"-a_b[{number}]") for number in (0, 1))
    assert first["soft_label"] == [0.5, 0, 0, 0, 0, 0.5]
    assert (first["label"], second["label"], second["soft_label"][2]) == (None, "anger", 0.75)
    assert (first["valence__sentiment"], second["valence__sentiment"]) == (0, 0.75)
    assert (first["audio_table_key"], first["video_table_key"]) == ("-a_b[0]", "-a_b[0]")
    assert first["audio_path"] is first["video_path"] is None
    assert [row(manifest, f"{video}[1]")["split_0"] for video in ("-a_b", "v2", "v3")] == [
        "train", "validation", "test",
    ]  # fmt: skip
    assert row(manifest, "v4[0]")["video_table_key"] is None
    assert "2 of 8 segments have no video features" in caplog.text


def test_cmu_mosei_from_its_media(layout):
    clips = [f"{video}_{number}" for video, number in product(("-a_b", "v2", "v3"), (0, 12))]
    layout.files(*(f"Raw/Videos/Segmented/Combined/{clip}.mp4" for clip in clips))
    layout.files("Raw/Videos/Full/Combined/v2.mp4")
    header = "clip,sentiment,happy,sad,anger,surprise,disgust,fear"
    layout.table("segments.csv", header, *(f"{clip},3,0,0,0,0,0,{clip[-1]}" for clip in clips))
    layout.table("standard_folds.csv", "video,split", "-a_b,train", "v2,valid", "v3,test", "v9,test")
    manifest = layout.manifest("cmu_mosei_media")
    assert len(manifest) == 6
    found = row(manifest, "-a_b_12")
    assert (found["speaker"], found["label"], found["valence__sentiment"]) == ("-a_b", "fear", 1)
    assert row(manifest, "-a_b_0")["label"] is None

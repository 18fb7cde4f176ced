"""Every shipped card against folders with the real names and nesting of its corpus; the files are empty."""

from __future__ import annotations

import gzip
from itertools import product
from pathlib import Path

import pytest

from vavl.data.card import read_card
from vavl.data.manifest import Manifest, build_manifest

FOLDER = Path(__file__).parents[3] / "datasets"


class Layout:
    """A corpus folder in the making."""

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
    rows = [
        f"{name}.wav,0.856,0.01,0.01,0.104,0.01,0.01,{name[:4]},X,{CREMA_D_SPLITS[name[:4]]}"
        for name in names
    ]
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
    assert (found["group_scenario"], row(manifest, "S01A-M06-T-MM01")["split_1"]) == (
        "target sentence",
        "none",
    )

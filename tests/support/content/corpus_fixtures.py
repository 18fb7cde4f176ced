"""A tiny corpus on disk: six speakers, two sentences, two classes, sound and a table of ready features."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from copied_store import copy_store, relabelled_copy

from vavl.config.load import validate
from vavl.corpora.card import CorpusCard
from vavl.corpora.manifest import Manifest, build_manifest

SPEAKERS = ("f01", "f02", "f03", "m01", "m02", "m03")
GROUPS = r"(?P<clip>(?P<speaker>(?P<sex>[fm])\d\d)_(?P<sentence>\w+)_(?P<emotion>[a-z]*))"


def card_content() -> dict[str, Any]:
    return {
        "name": "tiny",
        "title": "Tiny corpus",
        "licence": "Apache-2.0",
        "citation": "none",
        "obtain": "made by the test",
        "root_environment_variable": "TINY_ROOT",
        "classes": ["calm", "angry"],
        "audio": {"pattern": rf"audio/[^/]+/{GROUPS}", "suffixes": [".wav", ".flac"]},
        "video": {
            "source": "table",
            "file": "units.csv",
            "key_column": "clip",
            "pattern": GROUPS,
            "feature_columns": r"AU\d\d",
            "width": 2,
        },
        "speaker": {"group": "speaker"},
        "sex": {"group": "sex", "map": {"f": "female", "m": "male"}},
        "labels": {
            "intended": {
                "source": "pattern",
                "target": "intended emotion",
                "group": "emotion",
                "map": {"ca": "calm", "an": "angry", "": None},
            }
        },
        "groups": {"sentence": {"group": "sentence"}},
        "splits": {
            "protocol": "tiny-folds",
            "folds": {"source": "table", "file": "folds.csv", "speaker_column": "who", "fold_column": "fold"},
            "validation_speakers": 2,
        },
        "expected": {"clips": 24, "speakers": 6},
    }


class CorpusFolder:
    """A corpus that a test bends before it reads it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.content = card_content()
        names = product(SPEAKERS, ("s1", "s2"), ("ca", "an"))
        self.clips = sorted("_".join(parts) for parts in names)
        for clip in self.clips:
            self.touch(f"audio/{clip[:3]}/{clip}.wav")
        self.write("units.csv", "clip,AU01,AU02,frames\n" + "".join(f"{c},0.5,1.5,9\n" for c in self.clips))
        folds = "".join(f"{speaker},{int(speaker[1:]) - 1}\n" for speaker in SPEAKERS)
        self.write("folds.csv", "who,fold\n" + folds)

    def touch(self, name: str) -> Path:
        return self.write(name, "sound")

    def write(self, name: str, text: str) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    def card(self) -> CorpusCard:
        return validate(CorpusCard, self.content, source="tiny.yaml")

    def manifest(self) -> Manifest:
        return build_manifest(self.card(), self.root)


@pytest.fixture
def corpus(tmp_path: Path) -> CorpusFolder:
    return CorpusFolder(tmp_path / "corpus")


@pytest.fixture
def whole_store(small_store: Callable[..., Path], small_corpus: Callable[..., Any], tmp_path: Path) -> Path:
    """A store of the test's own; its store.json knows the manifest."""
    return copy_store(small_store(small_corpus()), tmp_path / "whole")


@pytest.fixture
def other_labels(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that copies a store and takes the label off one clip."""
    return lambda store, clip=0: relabelled_copy(store, tmp_path / f"relabelled{clip}", clip)

"""The cards in datasets/: every one loads, is documented, and does what the demo corpus needs."""

from __future__ import annotations

from collections import Counter
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from vavl.corpora.card import read_card
from vavl.corpora.manifest import TEST, TRAIN, VALIDATION, build_manifest

FOLDER = Path(__file__).parents[3] / "datasets"
CARDS = sorted(FOLDER.glob("*.yaml"))


def test_the_loop_over_cards_sees_them():
    assert {path.stem for path in CARDS} >= {"demo", "ravdess"}


@pytest.mark.parametrize("path", CARDS, ids=lambda path: path.stem)
def test_a_card_loads_and_the_table_of_corpora_names_it(path):
    card = read_card(path)
    assert card.name == path.stem
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert f"[{path.name}]({path.name})" in readme
    assert card.root_environment_variable in readme


def test_no_variable_names_two_corpora():
    variables = [read_card(path).root_environment_variable for path in CARDS]
    assert len(set(variables)) == len(variables)


@pytest.fixture
def demo(tmp_path):
    """The names of the demo corpus without its contents."""
    card = read_card(FOLDER / "demo.yaml")
    speakers = [f"{letter}{number:02d}" for letter in "fm" for number in range(1, 7)]
    for speaker, sentence, emotion, take in product(speakers, ("s01", "s02", "s03"), card.classes, "12"):
        for side, suffix in (("audio", "wav"), ("video", "mp4")):
            path = tmp_path / side / speaker / f"{speaker}_{sentence}_{emotion}_{take}.{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    return build_manifest(card, tmp_path)


def test_the_demo_card_has_one_fold_of_six_two_and_four_speakers(demo, caplog):
    assert demo.folds == (0,)
    assert len(demo) == 432
    assert not caplog.records
    split, (codes, names) = demo.split(0), demo.speaker_codes()
    sexes = {}
    for part in (TRAIN, VALIDATION, TEST):
        sexes[part] = Counter(names[code][0] for code in np.unique(codes[split == part]))
    assert sexes == {TRAIN: {"f": 3, "m": 3}, VALIDATION: {"f": 1, "m": 1}, TEST: {"f": 2, "m": 2}}
    assert (split == TEST).sum() >= 120
    assert np.bincount(demo.class_index()).tolist() == [72] * 6

"""The cards in datasets/: every one loads, is documented, and does what the demo corpus needs."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from demo_corpus.latent import clips_of
from demo_corpus.settings import EMOTIONS, DemoCorpusSettings, audio_path, video_path
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


def test_the_demo_card_fits_its_corpus_and_has_one_fold_of_six_two_and_four_speakers(tmp_path, caplog):
    clips = clips_of(DemoCorpusSettings())
    for clip in clips:
        for path in (audio_path, video_path):
            place = path(tmp_path, clip.speaker, clip.clip_id)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.touch()
    demo = build_manifest(read_card(FOLDER / "demo.yaml"), tmp_path)
    assert not caplog.records
    assert (demo.folds, demo.classes) == ((0,), EMOTIONS)
    assert demo.table["clip_id"].to_pylist() == sorted(clip.clip_id for clip in clips)
    assert demo.table["audio_path"].null_count == demo.table["video_path"].null_count == 0
    split, (codes, names) = demo.split(0), demo.speaker_codes()
    sexes = {}
    for part in (TRAIN, VALIDATION, TEST):
        sexes[part] = Counter(names[code][0] for code in np.unique(codes[split == part]))
    assert sexes == {TRAIN: {"f": 3, "m": 3}, VALIDATION: {"f": 1, "m": 1}, TEST: {"f": 2, "m": 2}}
    assert (split == TEST).sum() >= 120
    assert np.bincount(demo.class_index()).tolist() == [72] * 6

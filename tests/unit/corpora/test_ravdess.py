"""The RAVDESS card against the corpus itself; the directory is named by RAVDESS_ROOT."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from sklearn.preprocessing import MinMaxScaler
from sklearn.svm import SVC

from vavl.corpora.card import CorpusCard, corpus_root, read_card
from vavl.corpora.manifest import TEST, TRAIN, VALIDATION, Manifest, build_manifest
from vavl.extraction.sources import read_feature_table

pytestmark = [
    pytest.mark.realdata,
    pytest.mark.skipif(not os.environ.get("RAVDESS_ROOT"), reason="RAVDESS_ROOT does not name the corpus directory"),
]


@pytest.fixture(scope="module")
def card() -> CorpusCard:
    return read_card(Path(__file__).parents[3] / "datasets/ravdess.yaml")


@pytest.fixture(scope="module")
def manifest(card) -> Manifest:
    return build_manifest(card)


def test_the_declared_subset_is_there(manifest, card, caplog):
    assert (len(manifest), len(manifest.speaker_codes()[1])) == (card.subset.clips, card.subset.speakers) == (1140, 19)
    assert manifest.folds == (0, 1, 2, 4)
    build_manifest(card)
    assert not caplog.records


def test_every_clip_has_its_row_of_action_units(manifest, card):
    table = read_feature_table(card.video, corpus_root(card))
    assert table.values.shape == (1140, 35)
    assert np.isfinite(table.values).all()
    assert set(manifest.table["video_table_key"].to_pylist()) == set(table.keys)
    assert manifest.table["audio_path"].null_count == 0


def test_names_are_read_as_published(manifest):
    first = manifest.table.filter(pc.equal(manifest.table["clip_id"], "01-08-02-01-02-22")).to_pylist()[0]
    facts = ("label", "speaker", "sex", "group_intensity", "group_sentence", "test_fold")
    assert [first[fact] for fact in facts] == ["surprised", "22", "female", "strong", "kids", 4]
    # 4 clips of neutral and 8 of every other emotion for each actor.
    assert np.bincount(manifest.class_index()).tolist() == [76] + [152] * 7


def test_validation_speakers_are_three_of_both_sexes_and_those_on_record(manifest):
    codes, names = manifest.speaker_codes()
    drawn = {}
    for fold in manifest.folds:
        split = manifest.split(fold)
        parts = [{names[code] for code in codes[split == part]} for part in (TRAIN, VALIDATION, TEST)]
        assert sum(map(len, parts)) == len(set.union(*parts)) == 19
        assert set(Counter(int(speaker) % 2 for speaker in parts[1]).values()) == {1, 2}
        drawn[fold] = parts[1]
    assert drawn == {
        0: {"07", "12", "20"}, 1: {"05", "11", "20"}, 2: {"03", "04", "05"}, 4: {"11", "12", "13"},
    }  # fmt: skip


def test_the_data_path_gives_the_known_accuracy_of_the_action_units(manifest, card):
    table = read_feature_table(card.video, corpus_root(card))
    rows = pc.index_in(manifest.table["video_table_key"], value_set=pa.array(table.keys)).to_numpy()
    features, labels = table.values[rows], manifest.class_index()
    accuracies = []
    for fold in manifest.folds:
        tested = manifest.split(fold) == TEST
        scaler = MinMaxScaler().fit(features[~tested])
        classifier = SVC(kernel="rbf", C=1).fit(scaler.transform(features[~tested]), labels[~tested])
        accuracies.append(100 * classifier.score(scaler.transform(features[tested]), labels[tested]))
    assert np.mean(accuracies) == pytest.approx(58.0, abs=0.15)

"""The MSP-IMPROV card against the published table, without media; the directory is named by MSP_IMPROV_ROOT."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from vavl.corpora.card import corpus_root, read_card
from vavl.corpora.manifest import TEST, TRAIN, VALIDATION, listed_manifest
from vavl.media.csv_table import read_number_columns, read_text_columns

pytestmark = [
    pytest.mark.realdata,
    pytest.mark.skipif(
        not os.environ.get("MSP_IMPROV_ROOT"), reason="MSP_IMPROV_ROOT does not name the corpus directory"
    ),
]
TABLE = "labels_consensus_1.csv"
ATTRIBUTES = {"arousal": "EmoAct", "valence": "EmoVal", "dominance": "EmoDom"}


@pytest.fixture(scope="module")
def card():
    return read_card(Path(__file__).parents[3] / "datasets/msp_improv.yaml")


@pytest.fixture(scope="module")
def manifest(card):
    return listed_manifest(card)


def test_the_table_lists_8385_turns_of_twelve_actors(manifest):
    assert (len(manifest), len(manifest.speaker_codes()[1])) == (8385, 12)
    assert set(manifest.table["sex"].to_pylist()) == {"female", "male"}


def test_attributes_are_rescaled_once_and_only_once(manifest, card):
    names, root = read_text_columns(corpus_root(card), TABLE, ("FileName",))[0], corpus_root(card)
    order = np.argsort([name.removeprefix("MSP-IMPROV-").removesuffix(".wav") for name in names])
    raw = read_number_columns(root, TABLE, list(ATTRIBUTES.values()))[order]
    for column, attribute in enumerate(ATTRIBUTES):
        values = manifest.table[attribute].to_numpy()
        assert values.min() >= 0
        assert values.max() <= 1
        np.testing.assert_allclose(values, (raw[:, column] - 1) / 4, atol=1e-6)
    assert manifest.metadata["labels"]["perceived"]["rescaled_from"] == {name: [1, 5] for name in ATTRIBUTES}


def test_reading_twice_gives_the_same_labels(manifest, card):
    assert listed_manifest(card).table.equals(manifest.table, check_metadata=True)


def test_sessions_and_actors_are_disjoint(manifest, card):
    split = manifest.split(1)
    assert [int((split == part).sum()) for part in (TRAIN, VALIDATION, TEST)] == [5778, 1108, 1499]
    for column, of_split in (("group_session", (4, 1, 1)), ("speaker", (8, 2, 2))):
        values = np.asarray(manifest.table[column].to_pylist())
        parts = [set(values[split == part]) for part in (TRAIN, VALIDATION, TEST)]
        assert tuple(map(len, parts)) == of_split
        assert len(set.union(*parts)) == sum(of_split)


def test_the_tables_speaker_is_the_session_of_the_name(manifest, card):
    names, sessions = read_text_columns(corpus_root(card), TABLE, ("FileName", "SpkrID"))
    said = {
        name.removeprefix("MSP-IMPROV-").removesuffix(".wav"): session
        for name, session in zip(names, sessions, strict=True)
    }
    ids, read = (manifest.table[column].to_pylist() for column in ("clip_id", "group_session"))
    assert dict(zip(ids, read, strict=True)) == said

"""The CREMA-D card against the published tables, without media; the directory is named by CREMA_D_ROOT."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from vavl.corpora.card import read_card
from vavl.corpora.label_agreement import label_facts_of
from vavl.corpora.manifest import NONE, TEST, TRAIN, VALIDATION, listed_manifest

pytestmark = [
    pytest.mark.realdata,
    pytest.mark.skipif(not os.environ.get("CREMA_D_ROOT"), reason="CREMA_D_ROOT does not name the corpus directory"),
]


@pytest.fixture(scope="module")
def manifest():
    return listed_manifest(read_card(Path(__file__).parents[3] / "datasets/crema_d.yaml"))


@pytest.fixture(scope="module")
def facts(manifest):
    return label_facts_of(manifest)


def test_clips_actors_and_their_sexes_are_as_published(manifest):
    assert (len(manifest), len(manifest.speaker_codes()[1])) == (7442, 91)
    of_actor = dict(zip(manifest.table["speaker"].to_pylist(), manifest.table["sex"].to_pylist(), strict=True))
    assert sorted(of_actor.values()).count("male") == 48
    assert sorted(of_actor.values()).count("female") == 43


def test_the_consensus_has_5820_clips_and_is_the_default(manifest, facts):
    assert manifest.label_set == "consensus"
    assert {found["name"]: found["known"] for found in facts["sets"]} == {
        "consensus": 5820, "intended": 7442, "voice": 7442, "face": 7442, "both": 7442,
    }  # fmt: skip
    shares = np.asarray(manifest.table["soft_label"].drop_null().combine_chunks().flatten()).reshape(-1, 6)
    assert len(shares) == 5820
    np.testing.assert_allclose(shares.sum(axis=1), 1, atol=1e-6)


def test_agreements_are_those_on_record(facts):
    percent = {(found["one"], found["other"]): 100 * found["equal"] / found["clips"] for found in facts["agreements"]}
    assert percent["consensus", "intended"] == pytest.approx(82.2, abs=0.05)
    # Over all 7,442 clips; a tie for the most votes equals nothing.
    assert percent["intended", "voice"] == pytest.approx(41.6, abs=0.05)
    assert percent["intended", "face"] == pytest.approx(66.3, abs=0.05)
    assert percent["intended", "both"] == pytest.approx(72.2, abs=0.05)
    assert {found["name"]: found["tied"] for found in facts["sets"] if found["tied"]} == {
        "voice": 644, "face": 470, "both": 420,
    }  # fmt: skip


def test_five_partitions_share_no_speaker(manifest, facts):
    assert manifest.folds == (1, 2, 3, 4, 5)
    codes, _ = manifest.speaker_codes()
    labelled = manifest.class_index() >= 0
    for fold in facts["folds"]:
        split = manifest.split(fold["fold"])
        parts = [set(codes[split == part].tolist()) for part in (TRAIN, VALIDATION, TEST)]
        assert [len(part) for part in parts] == [63, 14, 14]
        assert len(set.union(*parts)) == 91
        assert sum(fold["clips"].values()) == 5820
        assert np.array_equal(split == NONE, ~labelled), "clips without a consensus take no part"
    assert [fold["clips"]["test"] for fold in facts["folds"]] == [899, 915, 934, 878, 908]


def test_the_intended_label_is_the_yardstick_of_the_consensus(facts):
    (yardstick,) = facts["yardsticks"]
    assert (yardstick["truth"], yardstick["prediction"]) == ("consensus", "intended")
    assert np.mean(list(yardstick["f1_micro"].values())) == pytest.approx(0.820, abs=0.0005)
    assert np.mean(list(yardstick["f1_macro"].values())) == pytest.approx(0.797, abs=0.0005)

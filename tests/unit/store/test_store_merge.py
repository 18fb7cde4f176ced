"""Stores of several corpora become one: names, labels and folds in common, features and sums as they were."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.compute as pc
import pytest
from copied_store import mark_manifest
from corpus_stores import write_corpus_store

from vavl.config.files import read_json
from vavl.config.load import validate
from vavl.corpora.manifest import MANIFEST_FILES, TEST, TRAIN, VALIDATION, Manifest
from vavl.data.collection import open_collection
from vavl.data.normalization import normalisers
from vavl.data.settings import DataSettings
from vavl.errors import ConfigError, StoreError
from vavl.store.clip_facts import read_facts
from vavl.store.merge_settings import MergeSettings
from vavl.store.store import FeatureStore
from vavl.store.store_merge import merge_stores, plan_merge

SIDE_FILES = ("_index.bin", "_ids.arrow", "_sums.arrow", "/state.json", "/dataset_info.json")
ALPHA, BETA = ("glad", "mad", "calm"), ("happy", "angry", "glad", "odd")


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Stores of two corpora; beta sorts before alpha_two's names would without their corpus."""
    folder = tmp_path_factory.mktemp("stores")
    return {
        "alpha": write_corpus_store(folder / "alpha", "alpha", ALPHA, folds=(0, 1, 2)),
        "alpha_b": write_corpus_store(folder / "alpha_b", "alpha_b", BETA, folds=(1, 2, 5), clips_per_speaker=8),
    }


def content(stores: dict[str, Path], /, **changes: Any) -> dict[str, Any]:
    return {
        "name": "both",
        "stores": [str(stores["alpha_b"]), str(stores["alpha"])],
        "classes": ["glad", "mad"],
        "labels": {"alpha": {"calm": None}, "alpha_b": {"happy": "glad", "angry": "mad", "odd": None}},
        "folds": {"rule": "aligned"},
        **changes,
    }


def settings(stores: dict[str, Path], /, **changes: Any) -> MergeSettings:
    return validate(MergeSettings, content(stores, **changes), "merge.yaml")


@pytest.fixture(scope="module")
def both(stores: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    """The two stores merged, for tests that only read."""
    return merge_stores(plan_merge(settings(stores)), tmp_path_factory.mktemp("both") / "merged")


@pytest.fixture
def merged(stores: dict[str, Path], tmp_path: Path) -> Callable[..., FeatureStore]:
    """Return a function that merges the two stores with other settings."""

    def merge(**changes: Any) -> FeatureStore:
        return merge_stores(plan_merge(settings(stores, **changes)), tmp_path / "merged")

    return merge


def rows_of(store: FeatureStore) -> pd.DataFrame:
    table = Manifest.read(store.directory).table.to_pandas().set_index("clip_id")
    return table.astype(object).where(table.notna(), None)


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_features_sums_and_times_are_those_of_the_corpora(both: FeatureStore, stores: dict[str, Path]) -> None:
    both.verify()
    manifest = Manifest.read(both.directory)
    assert len(manifest) == 6 * 12 + 6 * 8
    assert manifest.table["clip_id"].to_pylist() == sorted(manifest.table["clip_id"].to_pylist())
    for corpus, folder in stores.items():
        own = FeatureStore.open(folder)
        for modality in ("audio", "video"):
            ids = own.clip_ids(modality)
            rows = both.rows(modality, pc.binary_join_element_wise(corpus, ids, "/"))
            assert (rows >= 0).all()
            for there, here in enumerate(rows.tolist()):
                np.testing.assert_array_equal(both.features(modality, here), own.features(modality, there))
                np.testing.assert_array_equal(both.frame_times(modality, here), own.frame_times(modality, there))
            merged_sums = both.speaker_sums(modality)
            for speaker, sums in own.speaker_sums(modality).items():
                found = merged_sums[f"{corpus}/{speaker}"]
                assert found.count == sums.count
                np.testing.assert_array_equal(found.sum, sums.sum)
                np.testing.assert_array_equal(found.sum_of_squares, sums.sum_of_squares)


def test_the_manifest_keeps_the_corpus_and_has_the_columns_of_all(both: FeatureStore, stores: dict[str, Path]) -> None:
    manifest = Manifest.read(both.directory)
    assert manifest.corpus == "both"
    assert manifest.corpora == ("alpha", "alpha_b")
    assert pc.value_counts(manifest.table["corpus"]).to_pylist() == [
        {"values": "alpha", "counts": 72}, {"values": "alpha_b", "counts": 48},
    ]  # fmt: skip
    table = manifest.table.to_pandas().set_index("clip_id")
    own = Manifest.read(stores["alpha"]).table.to_pandas().set_index("clip_id")
    for name in ("sex", "audio_path", "group_take"):
        assert table.loc["alpha/s3_004", name] == own.loc["s3_004", name]
    assert table.loc["alpha/s3_004", "speaker"] == "alpha/s3"
    assert manifest.target == "alpha: emotion of alpha; alpha_b: emotion of alpha_b"
    assert manifest.label_sets == {"merged": manifest.target}


def test_labels_are_mapped_and_dropped_ones_leave_the_splits(both: FeatureStore) -> None:
    table = rows_of(both)
    assert table.loc[["alpha_b/s2_004", "alpha_b/s2_005", "alpha_b/s2_006"], "label"].tolist() == [
        "glad",
        "mad",
        "glad",
    ]
    # Clip 1 is of class 1 by three votes of four; the fourth is for class 2: dropped in alpha, glad in alpha_b.
    assert table.loc["alpha/s2_001", "soft_label"].tolist() == [0, 1]
    assert table.loc["alpha_b/s2_001", "soft_label"].tolist() == [0.25, 0.75]
    assert table.loc["alpha_b/s2_001", "arousal"] == 0.5
    odd, unlabelled = table.loc["alpha_b/s2_007"], table.loc["alpha_b/s2_000"]
    assert (odd["label"], odd["soft_label"], odd["split_1"]) == (None, None, "none")
    assert (unlabelled["label"], unlabelled["soft_label"], unlabelled["split_1"]) == (None, None, "validation")
    assert table["split_1"].value_counts()["none"] == 6 * 4 + 6 * 2


def test_dropped_clips_may_stay_without_a_label(merged: Callable[..., FeatureStore]) -> None:
    table = rows_of(merged(dropped_clips="unlabelled"))
    odd = table.loc["alpha_b/s2_007"]
    assert (odd["label"], odd["split_1"]) == (None, "validation")
    assert "none" not in set(table["split_1"])


def test_folds_of_the_same_number_are_one(both: FeatureStore) -> None:
    manifest = Manifest.read(both.directory)
    assert manifest.folds == (1, 2)
    assert manifest.fold_title(2) == "2 (alpha 2, alpha_b 2)"
    assert manifest.protocol == "aligned folds: alpha: alpha-folds; alpha_b: alpha_b-folds"
    for fold in manifest.folds:
        assert speakers(manifest, fold, TEST) == {f"alpha/s{fold}", f"alpha_b/s{fold}"}
        assert speakers(manifest, fold, VALIDATION) == {f"alpha/s{fold + 1}", f"alpha_b/s{fold + 1}"}
    assert manifest.table.to_pandas().set_index("clip_id").loc["alpha/s2_004", "test_fold"] == 2


def test_folds_may_be_named_by_corpus(merged: Callable[..., FeatureStore]) -> None:
    by_corpus = {"alpha": [0, 2, 2], "alpha_b": [5, 1, 2]}
    manifest = Manifest.read(merged(folds={"rule": "aligned", "by_corpus": by_corpus}).directory)
    assert manifest.folds == (0, 1, 2)
    assert speakers(manifest, 0, TEST) == {"alpha/s0", "alpha_b/s5"}
    assert speakers(manifest, 1, TEST) == {"alpha/s2", "alpha_b/s1"}


def test_one_corpus_may_be_left_out_at_a_time(merged: Callable[..., FeatureStore]) -> None:
    manifest = Manifest.read(merged(folds={"rule": "leave_one_corpus_out"}).directory)
    assert manifest.folds == (0, 1)
    assert [manifest.fold_title(fold) for fold in manifest.folds] == ["0 (alpha)", "1 (alpha_b)"]
    assert manifest.protocol == "leave one corpus out (alpha, alpha_b)"
    assert speakers(manifest, 0, TEST) == {f"alpha/s{number}" for number in range(6)}
    assert speakers(manifest, 0, VALIDATION) == {"alpha_b/s2"}  # of its first fold, which is 1
    assert speakers(manifest, 0, TRAIN) == {f"alpha_b/s{number}" for number in (0, 1, 3, 4, 5)}
    assert speakers(manifest, 1, VALIDATION) == {"alpha/s1"}


def speakers(manifest: Manifest, fold: int, split: int) -> set[str]:
    rows = np.flatnonzero(manifest.split(fold) == split)
    return set(manifest.table["speaker"].take(rows).to_pylist())


def test_facts_are_joined_and_counts_added_up(both: FeatureStore, stores: dict[str, Path]) -> None:
    facts = read_facts(both.directory)
    assert facts.num_rows == 2 * (72 + 48)
    assert facts.slice(0, 1).to_pylist()[0]["clip_id"] == "alpha/s0_000"
    assert facts["sha256"].to_pylist() == [
        entry for corpus in stores for entry in read_facts(stores[corpus])["sha256"].to_pylist()
    ]
    assert both.content["files"].keys() == {
        *MANIFEST_FILES,
        "facts.arrow",
        *(f"{modality}{name}" for modality in ("audio", "video") for name in SIDE_FILES),
    }
    assert both.content["counts"] == {"clips": 120, "quarantined": 2}


def test_the_store_says_where_it_comes_from(both: FeatureStore, stores: dict[str, Path]) -> None:
    sources = both.content["sources"]
    assert [source["corpus"] for source in sources] == ["alpha", "alpha_b"]
    assert sources[0]["store_hash"] == FeatureStore.open(stores["alpha"]).hash
    assert sources[1]["licence"] == "alpha_b licence"
    assert sources[1]["target"] == "emotion of alpha_b"
    assert sources[1]["classes"] == {"happy": "glad", "angry": "mad", "glad": "glad", "odd": None}


def test_the_same_stores_give_the_same_bytes_wherever_they_lie(
    both: FeatureStore, stores: dict[str, Path], tmp_path: Path
) -> None:
    first = files_of(both.directory)
    moved = {corpus: Path(shutil.copytree(folder, tmp_path / f"moved_{corpus}")) for corpus, folder in stores.items()}
    again = merge_stores(
        plan_merge(settings(moved, stores=[moved["alpha"].as_uri(), str(moved["alpha_b"])])), tmp_path / "merged"
    )
    assert files_of(again.directory) == first
    assert len(first) == 17
    assert not list(tmp_path.glob(".*.partial")) + list(tmp_path.glob(".*.old"))


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAVL_CACHE", str(tmp_path / "cache"))


def test_another_recipe_is_another_store(both: FeatureStore, merged: Callable[..., FeatureStore]) -> None:
    hashes = {
        both.hash,
        merged(dropped_clips="unlabelled").hash,
        merged(folds={"rule": "leave_one_corpus_out"}).hash,
        merged(target="emotion").hash,
    }
    assert len(hashes) == 4


def test_one_corpus_alone_is_normalised_as_in_its_own_store(
    merged: Callable[..., FeatureStore], stores: dict[str, Path]
) -> None:
    """Leaving alpha out, the training speakers are those of alpha_b alone."""
    together = open_collection(DataSettings(store=merged(folds={"rule": "leave_one_corpus_out"}).directory))
    alone = open_collection(DataSettings(store=stores["alpha_b"]))
    theirs = np.flatnonzero(np.isin(together.manifest.split(0), [TRAIN]))
    names = {together.speakers[code].partition("/")[2] for code in together.speaker[theirs]}
    own = np.array([row for row, code in enumerate(alone.speaker) if alone.speakers[code] in names])
    one, other = (normalisers(found, rows)["audio"].common for found, rows in ((together, theirs), (alone, own)))
    np.testing.assert_array_equal(one.mean, other.mean)
    np.testing.assert_array_equal(one.std, other.std)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"labels": {"alpha_b": {"odd": None, "happy": None}}},
            "labels.alpha: calm: neither kept nor mapped nor dropped",
        ),
        ({"labels": {"alpha": {"clam": None}}}, "clam: no class of this corpus"),
        ({"classes": ["glad", "mad", "bored"]}, "bored: comes from no corpus"),
        ({"label_sets": {"gamma": "own"}}, "gamma: none of the stores is of it"),
        ({"label_sets": {"alpha": "votes"}}, "there is no set of labels `votes`"),
        ({"folds": {"rule": "aligned", "by_corpus": {"alpha": [0]}}}, "alpha_b has no fold 0"),
        ({"folds": {"rule": "aligned", "by_corpus": {"gamma": [0]}}}, "gamma: no such corpus"),
        ({"folds": {"rule": "aligned", "by_corpus": {"alpha": [0], "alpha_b": [1, 2]}}}, "equally many folds"),
        ({"labels": {"alpha": {"calm": "quiet"}}}, "quiet, not among the classes"),
        ({"classes": ["glad", "glad"]}, "a class is listed twice"),
    ],
)
def test_what_does_not_fit_is_refused(stores: dict[str, Path], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        plan_merge(settings(stores, **changes))


def test_folds_without_a_common_number_are_refused(stores: dict[str, Path], tmp_path: Path) -> None:
    other = write_corpus_store(tmp_path / "gamma", "gamma", ALPHA, folds=(7,), clips_per_speaker=3)
    with pytest.raises(ConfigError, match=r"no fold is in all corpora: alpha has \[0, 1, 2\]; gamma has \[7\]"):
        plan_merge(
            settings(stores, stores=[stores["alpha"], other], labels={"alpha": {"calm": None}, "gamma": {"calm": None}})
        )


def test_two_stores_of_one_corpus_are_refused(stores: dict[str, Path], tmp_path: Path) -> None:
    copy = Path(shutil.copytree(stores["alpha"], tmp_path / "copy"))
    with pytest.raises(ConfigError, match="are both of alpha"):
        plan_merge(settings(stores, stores=[stores["alpha"], copy]))


def test_other_features_are_refused_with_the_difference(stores: dict[str, Path], tmp_path: Path) -> None:
    other = write_corpus_store(tmp_path / "gamma", "gamma", ALPHA, folds=(1,), settings={"hop_ms": 10.0, "bands": 6})
    labels = {"alpha": {"calm": None}, "gamma": {"calm": None}}
    with pytest.raises(StoreError, match=r"other audio features than alpha: bands absent -> 6, hop_ms 20.0 -> 10.0"):
        plan_merge(settings(stores, stores=[stores["alpha"], other], labels=labels))


def test_one_side_alone_may_be_taken(stores: dict[str, Path], tmp_path: Path) -> None:
    other = write_corpus_store(tmp_path / "gamma", "gamma", ALPHA, extractors={"video": "table:0123"})
    changes = {"stores": [stores["alpha"], other], "labels": {"alpha": {"calm": None}, "gamma": {"calm": None}}}
    with pytest.raises(StoreError, match=r"other video features than alpha: log_mel 1 -> table:0123 1\n.*modalities"):
        plan_merge(settings(stores, **changes))
    store = merge_stores(plan_merge(settings(stores, **changes, modalities=["audio"])), tmp_path / "merged")
    assert store.info.keys() == {"audio"}
    assert {path.name for path in store.directory.iterdir()} == {
        "store.json", "manifest", "facts.arrow", "audio", "audio_sums.arrow", "audio_index.bin", "audio_ids.arrow",
    }  # fmt: skip


def test_a_corpus_may_lack_a_side_and_facts(
    stores: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = write_corpus_store(tmp_path / "gamma", "gamma", ALPHA, modalities=("audio",), with_facts=False)
    labels = {"alpha": {"calm": None}, "gamma": {"calm": None}}
    plan = plan_merge(settings(stores, stores=[stores["alpha"], other], labels=labels))
    with caplog.at_level(logging.WARNING):
        store = merge_stores(plan, tmp_path / "merged")
    assert "gamma has no facts.arrow" in caplog.text
    assert (store.info["audio"].clips, store.info["video"].clips) == (144, 72)
    assert read_facts(store.directory).num_rows == 144
    store.verify()


def test_a_corpus_without_labels_brings_clips_without_labels(stores: dict[str, Path], tmp_path: Path) -> None:
    other = write_corpus_store(tmp_path / "gamma", "gamma", ALPHA)
    manifest = Manifest.read(other)
    table = manifest.table.drop_columns(["label", "soft_label"])
    bare = manifest.metadata | {"classes": [], "labels": {}, "label_set": "", "target": ""}
    Manifest.of(table, bare).write(other)
    mark_manifest(other)
    changes = {"stores": [stores["alpha"], other], "labels": {"alpha": {"calm": None}}}
    store = merge_stores(plan_merge(settings(stores, **changes)), tmp_path / "merged")
    merged = Manifest.read(store.directory)
    assert merged.target == "emotion of alpha"
    theirs = rows_of(store).filter(like="gamma/", axis=0)
    assert (len(theirs), theirs["label"].count(), theirs["soft_label"].count()) == (72, 0, 0)
    assert theirs["split_0"].value_counts().to_dict() == {"train": 48, "validation": 12, "test": 12}


def test_a_changed_store_is_refused_and_the_earlier_one_stays(
    merged: Callable[..., FeatureStore], stores: dict[str, Path], tmp_path: Path
) -> None:
    before = files_of(merged().directory)
    changed = Path(shutil.copytree(stores["alpha"], tmp_path / "changed"))
    damaged = bytearray((changed / "audio/data-00000.arrow").read_bytes())
    damaged[-600] ^= 1
    (changed / "audio/data-00000.arrow").write_bytes(damaged)
    with pytest.raises(StoreError, match=r"audio/data-00000.arrow: "):
        merge_stores(plan_merge(settings(stores, stores=[changed, stores["alpha_b"]])), tmp_path / "merged")
    assert files_of(tmp_path / "merged") == before


def test_only_a_merged_store_is_replaced(stores: dict[str, Path], tmp_path: Path) -> None:
    plan = plan_merge(settings(stores))
    store = Path(shutil.copytree(stores["alpha"], tmp_path / "store"))
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes/text.txt").write_text("mine")
    for folder in (store, tmp_path / "notes"):
        before = files_of(folder)
        with pytest.raises(StoreError, match="something else than a merged store"):
            merge_stores(plan, folder)
        assert files_of(folder) == before


def test_a_merged_store_can_be_merged_again(both: FeatureStore, stores: dict[str, Path], tmp_path: Path) -> None:
    third = write_corpus_store(tmp_path / "gamma", "gamma", ("glad", "mad"), folds=(1,), clips_per_speaker=4)
    again = merge_stores(
        plan_merge(settings(stores, name="all", stores=[both.directory, third], labels={})), tmp_path / "again"
    )
    manifest = Manifest.read(again.directory)
    assert manifest.corpora == ("alpha", "alpha_b", "gamma")
    assert manifest.table["clip_id"][0].as_py() == "both/alpha/s0_000"
    assert [source["corpus"] for source in again.content["sources"][0]["sources"]] == ["alpha", "alpha_b"]
    assert read_json(again.directory / "store.json")["corpus"] == "all"

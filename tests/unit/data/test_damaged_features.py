"""Clips whose features are damaged or not finite, and manifests that change: named, never trained on."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace

import numpy as np
import pytest
from copied_store import copy_store
from damaged_store import overwrite, set_value, state_anew
from synthetic_store import write_synthetic_store

from vavl.corpora.manifest import MANIFEST_FILE, TRAIN
from vavl.corpora.splits import SPLITS
from vavl.data.collection import open_collection
from vavl.data.loader import collate
from vavl.data.normalization import normalisers
from vavl.data.settings import DataSettings
from vavl.errors import StoreError

pytestmark = pytest.mark.promise


def training_rows(collection) -> np.ndarray:
    return np.flatnonzero(collection.manifest.split(0) == TRAIN)


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (np.nan, r"1 of \d+ values are NaN or infinite"),
        (np.inf, r"1 of \d+ values are NaN or infinite"),
        (3e38, "features are so large that they are infinite when normalized"),
    ],
)
@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_a_clip_whose_features_are_not_finite_is_named_with_its_split(
    small_store, small_corpus, tmp_path, split, value, problem
):
    store = shutil.copytree(small_store(small_corpus()), tmp_path / "store")
    whole = open_collection(DataSettings(store=store))
    row = int(np.flatnonzero(whole.manifest.split(0) == SPLITS.index(split))[0])
    normaliser = normalisers(whole, training_rows(whole))
    small = replace(normaliser["video"].common, std=normaliser["video"].common.std * 1e-2)
    normaliser["video"] = replace(normaliser["video"], common=small)
    set_value(store, "video", int(whole.store_row["video"][row]), value)
    collection = open_collection(DataSettings(store=state_anew(store)))
    clip = collection.manifest.table["clip_id"][row]
    message = rf"store: video of {clip} \({split} clip of fold 0\): {problem}\n.*audit_corpus\.py"
    with np.errstate(over="ignore"), pytest.raises(StoreError, match=message):
        collate(collection, np.array([row]), normaliser)
    for chosen in (replace(collection, fold=None), replace(collection, fold=9)):
        with np.errstate(over="ignore"), pytest.raises(StoreError, match=rf"video of {clip}: {problem}"):
            collate(chosen, np.array([row]), normaliser)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_clip_whose_halves_are_not_finite_is_named(tmp_path, value):
    store = write_synthetic_store(tmp_path / "store", 40, dtype="float16")
    set_value(store, "audio", 7, value)
    collection = open_collection(DataSettings(store=state_anew(store)))
    normaliser = normalisers(collection, training_rows(collection))
    with pytest.raises(StoreError, match=r"store: audio of clip0000007 .*: 1 of \d+ values are NaN or infinite\n"):
        collate(collection, np.array([6, 7]), normaliser)


def test_a_changed_manifest_is_not_trained_on(small_store, small_corpus, tmp_path):
    store = copy_store(small_store(small_corpus()), tmp_path / "store")
    label = open_collection(DataSettings(store=store)).manifest.classes[0].encode()
    overwrite(store / MANIFEST_FILE, label, label.upper())
    with pytest.raises(StoreError, match=r"data-00000-of-00001\.arrow: sha256: the file was changed or damaged"):
        open_collection(DataSettings(store=store))


def test_a_manifest_that_is_cut_under_a_run_is_an_error_at_the_next_batch(small_store, small_corpus, tmp_path):
    shared = open_collection(DataSettings(store=small_store(small_corpus())))
    folder = shutil.copytree(shared.store.directory, tmp_path / "store")
    collection = open_collection(DataSettings(store=folder))
    normaliser = normalisers(collection, training_rows(collection))
    collate(collection, np.array([1]), normaliser)
    os.truncate(folder / MANIFEST_FILE, 64)
    with pytest.raises(StoreError, match=r"data-00000-of-00001\.arrow: has 64 of \d+ bytes: it was cut"):
        collate(collection, np.array([1]), normaliser)


def test_a_clip_that_would_spoil_the_sums_of_its_speaker_is_named(small_store, small_corpus, tmp_path):
    store = shutil.copytree(small_store(small_corpus()), tmp_path / "store")
    whole = open_collection(DataSettings(store=store))
    spoilt, hidden = np.flatnonzero(whole.speaker == whole.speaker[0])[:2]
    set_value(store, "audio", int(whole.store_row["audio"][spoilt]), np.nan)
    collection = open_collection(DataSettings(store=state_anew(store))).without({"audio": np.array([hidden])})
    clip = collection.manifest.table["clip_id"][int(spoilt)]
    with pytest.raises(StoreError, match=rf"audio of {clip} \(\w+ clip of fold 0\): 1 of \d+ values are NaN"):
        collection.speaker_sums("audio")

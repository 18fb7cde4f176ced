"""Ready features of a store: those of the model, with the split that its training saw."""

from __future__ import annotations

import numpy as np
import pytest
from media_model import CLASSES, write_media_model

from vavl.corpora.manifest import Manifest
from vavl.errors import StoreError
from vavl.features import ModalityInfo
from vavl.models.saved_model import ClipFeatures, load_model
from vavl.store.store import FeatureStore

INFOS = {"audio": ModalityInfo("synthetic", "1", {}, 10.0, 6), "video": ModalityInfo("synthetic", "1", {}, 10.0, 5)}


@pytest.fixture
def model(tmp_path):
    return write_media_model(tmp_path / "model", infos=INFOS)


@pytest.fixture
def store(small_store, small_corpus):
    return small_store(small_corpus(without_audio=(1,), without_video=(2,)))


@pytest.mark.parametrize("as_address", [False, True])
def test_rows_are_those_of_single_clips(store, model, predict, rows_of_result, as_address, tmp_path, monkeypatch):
    monkeypatch.setenv("VAVL_CACHE", str(tmp_path / "cache"))
    result = predict(f"file://{store}" if as_address else store, model)
    rows = rows_of_result(result)
    opened, manifest = FeatureStore.open(store), Manifest.read(store).table
    assert len(rows) == len(manifest) == result.worked_on == 80
    ids = manifest["clip_id"]
    at = {side: opened.rows(side, ids) for side in ("audio", "video")}
    loaded = load_model(model)
    for place, clip_id in enumerate(ids.to_pylist()):
        sides = {side: opened.features(side, row[place]) for side, row in at.items() if row[place] >= 0}
        (alone,) = loaded.predict([ClipFeatures(**sides)])
        row = rows[clip_id, alone.condition]
        np.testing.assert_allclose([row[f"probability_{name}"] for name in CLASSES], alone.probabilities, atol=1e-6)
        assert row["split"] == manifest["split_0"][place].as_py()
        assert (row["corpus"], row["speaker"]) == ("small", clip_id[:2])
    assert predict(store, model).kept == 80  # the content counts, not where it lies


def test_a_split_of_another_protocol_is_not_stated(store, predict, rows_of_result, tmp_path):
    other = write_media_model(tmp_path / "m", infos=INFOS, provenance={"corpus": "other", "fold": 0})
    rows = rows_of_result(predict(store, other, conditions=("audio",)))
    assert {row["split"] for row in rows.values()} == {None}
    assert sum(row["error"] is not None for row in rows.values()) == 8


def test_features_of_another_extractor_are_refused(store, predict, tmp_path):
    other = {**INFOS, "audio": ModalityInfo("synthetic", "2", {}, 10.0, 6)}
    with pytest.raises(StoreError, match="statistics of other features"):
        predict(store, write_media_model(tmp_path / "m", infos=other))


def test_a_folder_that_names_a_version_is_a_store(model, predict, tmp_path):
    with pytest.raises(StoreError, match="store"):
        predict(tmp_path / "corpus@latest", model)

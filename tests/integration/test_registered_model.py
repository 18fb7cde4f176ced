"""A training's registered model says what the training's own predictions say, under each condition."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from tiny_plans import own_tracking, write_small_training

from vavl.metrics.names import CONDITIONS, MODALITIES_OF
from vavl.store.store import FeatureStore

MAX_FRAMES = 9  # shorter than some clips, so that the cut is held as well


@pytest.fixture
def config(
    small_store: Callable[..., Path], small_corpus: Callable[..., Any], tmp_path: Path, tracking_database: Path
) -> Path:
    store = small_store(small_corpus(clips_per_speaker=20, without_audio=(0,), without_video=(3,)))
    return write_small_training(
        tmp_path / "train.yaml",
        store,
        output_dir=str(tmp_path / "run"),
        data={"store": str(store), "max_frames": MAX_FRAMES, "composition": {"batch_size": 16}},
        training={"launcher": "in_process", "engine": "torch", "max_epochs": 2},
        tracking=own_tracking(tmp_path, tracking_database, model_name="vavl-equal", system_metrics=False),
    )


@pytest.mark.parametrize(("target", "metric"), [("label", "accuracy"), ("attributes", "ccc_mean")])
def test_the_registered_model_predicts_what_the_training_predicted(
    config: Path, target: str, metric: str, run_job: Callable[..., Any]
) -> None:
    run_job("train_model", config, f"data.target={target}", f"evaluation.select_by=[validation/audio/{metric}]")
    settings = yaml.safe_load(config.read_text())
    model = load_registered(settings["tracking"]["uri"])
    store = FeatureStore.open(Path(settings["data"]["store"]))
    saved = pq.read_table(config.parent / "run/predictions/validation.parquet").to_pandas()
    names = [name.removeprefix("predicted_") for name in saved.columns if name.startswith("predicted_")]
    assert set(saved["condition"]) == set(CONDITIONS)
    longest: dict[str, int] = {}
    for condition, rows in saved.groupby("condition"):
        sides = {side: features_of(store, side, rows["clip_id"]) for side in MODALITIES_OF[condition]}
        answer = model.predict(pd.DataFrame({f"{side}_features": values for side, values in sides.items()}))
        assert answer["error"].isna().all()
        assert set(answer["condition"]) == {condition}
        found = answer[[f"probability_{name}" if target == "label" else name for name in names]].to_numpy()
        expected = rows[[f"predicted_{name}" for name in names]].to_numpy()
        assert len(found) >= 30
        assert expected.std(axis=0).min() > 1e-3
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
        longest |= {side: max(map(len, values)) for side, values in sides.items()}
    assert longest["audio"] > MAX_FRAMES


def features_of(store: FeatureStore, modality: str, clip_ids: Any) -> list[Any]:
    """Return the raw features of clips as the store holds them."""
    rows = store.rows(modality, pa.chunked_array([pa.array(clip_ids, pa.string())]))
    return [store.features(modality, int(row)) for row in rows]


def load_registered(uri: str) -> Any:
    import mlflow

    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(uri)
    try:
        return mlflow.pyfunc.load_model("models:/vavl-equal/1")
    finally:
        mlflow.set_tracking_uri(before)

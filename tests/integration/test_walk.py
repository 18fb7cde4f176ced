"""The whole walk in small: render, extract, train with two Ray workers, register, load and predict."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "jobs" / "configs"


@pytest.mark.ray
def test_from_nothing_to_predictions_of_a_registered_model(
    run_job: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("VAVL_DEMO_ROOT", str(tmp_path / "corpus"))
    run_job(
        "make_demo_corpus", CONFIGS / "demo_corpus.yaml", f"output_dir={tmp_path / 'corpus'}",
        "corpus.women=4", "corpus.men=4", "corpus.sentences=1", "corpus.takes=1",
    )  # fmt: skip
    run_job("prepare_corpus", CONFIGS / "prepare" / "demo.yaml", f"output_dir={tmp_path / 'store'}")
    run_job(
        "train_model", CONFIGS / "demo.yaml", f"output_dir={tmp_path / 'run'}", f"data.store={tmp_path / 'store'}",
        "data.composition.batch_size=12", "training.max_epochs=1", "model.width=16", "model.attention_heads=2",
        "data.partitions.labelled_fraction=0.6",  # a fifth of so few clips leaves classes without a label
        f"tracking.uri=sqlite:///{tmp_path}/mlflow.db", f"tracking.artifact_location={tmp_path / 'artifacts'}",
        "tracking.model_name=walk",
    )  # fmt: skip
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["workers"], summary["model_version"]) == (2, "1")

    import mlflow

    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    model = mlflow.pyfunc.load_model("models:/walk/1")
    audio = sorted((tmp_path / "corpus" / "audio").rglob("*.wav"))[0]
    video = next((tmp_path / "corpus" / "video").rglob(f"{audio.stem}.mp4"))
    rows = pd.DataFrame(
        [
            {"audio_path": str(audio), "video_path": str(video)},
            {"audio_path": str(audio), "video_path": None},
            {"audio_path": None, "video_path": str(video)},
        ]
    )
    predicted = model.predict(rows)
    assert predicted["condition"].tolist() == ["audio_video", "audio", "video"]
    assert predicted["error"].isna().all()
    probabilities = predicted.filter(like="probability_")
    assert probabilities.sum(axis=1).tolist() == pytest.approx([1, 1, 1], abs=1e-5)

    # The registered model says what the training process measured, clip by clip.
    own = pd.read_parquet(tmp_path / "run" / "predictions" / "test.parquet")
    own = own[own["clip_id"] == audio.stem].set_index("condition")
    for _, row in predicted.iterrows():
        for name in own.filter(like="predicted_").columns:
            expected = own.loc[row["condition"], name]
            assert row[name.replace("predicted_", "probability_")] == pytest.approx(expected, abs=1e-5)

"""The job evaluate_model: from the media of a tiny corpus to a report and a run that names the version."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from small_media_corpus import write_small_corpus
from tiny_plans import own_tracking, tiny_plan

from vavl.corpora.card import read_card
from vavl.corpora.manifest import build_manifest
from vavl.extraction.extract import extract_features
from vavl.extraction.plan import plan_extraction
from vavl.extraction.settings import ExtractionRun, FeatureSettings
from vavl.serving.registry import register_model
from vavl.tracking.holdings import ModelNote
from vavl.tracking.mlflow_writer import import_mlflow
from vavl.training.worker import read_outcome, train_on_worker


@pytest.fixture(scope="module")
def corpus(tmp_path_factory, tracking_database):
    """A directory with media, their store, a training, and a registry with its model as tiny/1@champion."""
    folder = tmp_path_factory.mktemp("evaluated")
    card = read_card(write_small_corpus(folder, takes=2, frames=12))
    media = folder / "media"
    plan = plan_extraction(card, build_manifest(card, media), media, FeatureSettings(), folder / "store")
    extract_features(plan, ExtractionRun(workers=0))
    train_on_worker(tiny_plan(folder / "run", folder / "store", evaluation={"test": True}), lambda records: None)
    import_mlflow()
    from mlflow.tracking import MlflowClient

    client = MlflowClient(own_tracking(folder, tracking_database)["uri"])
    run_id = client.create_run(client.create_experiment("tiny", (folder / "artifacts").as_uri())).info.run_id
    register_model(client, run_id, ModelNote(folder / "run" / "best", "tiny", "record"))
    client.set_registered_model_alias("tiny", "champion", "1")
    return folder


@pytest.fixture
def config(corpus, tmp_path, monkeypatch):
    """A configuration that measures test clips of the champion in several ways."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    content = {
        "output_dir": str(tmp_path / "out"),
        "model": "models:/tiny@champion",
        "data": {"store": str(corpus / "store"), "split": "test"},
        "degradations": {"noise_db": [60, 0], "dropped_frames": [0.5], "shifted_s": [0.1]},
        "media": {"root": str(corpus / "media")},
        "tracking": own_tracking(corpus, experiment="tiny", flush_seconds=0.1),
    }  # fmt: skip
    path = tmp_path / "evaluate.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_an_alias_is_measured_and_the_run_names_its_version(corpus, config, tmp_path, run_job):
    run_job("evaluate_model", config)
    out = tmp_path / "out"
    summary = json.loads((out / "summary.json").read_text())
    expected = {name: value for name, value in read_outcome(corpus / "run")["metrics"].items() if "test/" in name}
    assert {name: summary["metrics"][name] for name in expected} == pytest.approx(expected, abs=1e-6)
    assert summary["model"]["version"] == "1"
    assert (summary["warnings"], summary["not_measured"], summary["failed"]) == ([], {}, {})
    assert not [note for note in summary["notes"] if "more than the noise" in note]
    assert "knows 0 finished training runs and 0 finished evaluations" in summary["test_looks"]
    _check_noise(out)
    assert (out / "report.html").read_text().count("data:image/svg+xml") == 8
    _check_mlflow(corpus, summary)

    media = Path(shutil.copytree(corpus / "media", tmp_path / "media"))
    (media / "audio" / "m03_glad_01.wav").write_bytes(b"no sound")
    words = ("model=models:/tiny/1", "degradations.noise_db=[10]", f"media.root={media}")
    run_job("evaluate_model", config, *words)
    summary = json.loads((out / "summary.json").read_text())
    assert "0 finished training runs and 1 finished evaluations" in summary["test_looks"]
    assert len(list((out / "earlier").glob("evaluation-*/report.html"))) == 1
    assert "not a readable audio file" in summary["failed"]["noise_10db"]["m03_glad_01"]
    assert summary["metrics"]["test/audio/clips:noise_10db"] == 7
    table = pq.read_table(out / "predictions.parquet").to_pandas()
    bad = table[table["error"].notna()]
    assert set(bad["clip_id"]) == {"m03_glad_01"}
    assert bad["probability_glad"].isna().all()


def _check_noise(out: Path) -> None:
    """Strong noise changes what is heard, hardly audible noise hardly does, and no picture changes."""
    table = pq.read_table(out / "predictions.parquet").to_pandas()
    heard = table[table["condition"] == "audio"].pivot_table(
        index="clip_id", columns="degradation", values="probability_glad"
    )
    assert len(heard) == 8
    assert (heard["noise_60db"] - heard["none"]).abs().max() < 0.1 * (heard["noise_0db"] - heard["none"]).abs().max()
    assert "noise_0db" not in set(table.loc[table["condition"] == "video", "degradation"])
    assert table["error"].isna().all()


def _check_mlflow(corpus: Path, summary: dict[str, Any]) -> None:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{corpus}/mlflow.db")
    run = client.get_run(summary["mlflow_run_id"])
    assert summary["tracking_complete"]
    assert (run.data.tags["vavl.model_name"], run.data.tags["vavl.model_version"]) == ("tiny", "1")
    version = client.get_model_version("tiny", "1")
    assert version.tags["vavl.evaluation.tiny.test"] == run.info.run_id
    assert [f"/{used.model_id}/" in version.source for used in run.inputs.model_inputs] == [True]
    logged = run.data.metrics
    assert logged["test/audio/accuracy:noise_0db"] == summary["metrics"]["test/audio/accuracy:noise_0db"]
    assert set(logged) == set(summary["metrics"])
    assert "[report.html](#/experiments/" in run.data.tags["mlflow.note.content"]
    assert client.get_logged_model(run.inputs.model_inputs[0].model_id).metrics
    files = {file.path for file in client.list_artifacts(run.info.run_id)}
    assert {"report.html", "summary.json", "predictions.parquet", "plots", "config.yaml"} <= files


def test_a_dry_run_says_what_would_be_measured_and_measures_nothing(corpus, config, tmp_path, run_job):
    words = (f"model={corpus / 'run'}", "data.split=validation", "media.root=null")
    done = run_job("evaluate_model", config, "--dry-run", *words)
    assert "8 labeled, validation of tiny, fold 0 of one-fold" in done.stdout
    assert "noise needs the audio itself: no media are named" in done.stdout
    assert "the epoch that is kept was chosen on all 2 measured speakers" in done.stdout
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("model=models:/tiny@best", "tiny has no alias best"),
        ("data.fold=3", "has no fold 3"),
        ("data.labels={calm: sad}", "the model has no class sad"),
        ("degradations.dropped_frames=[1]", "less than 1"),
    ],
)
def test_bad_input_ends_with_code_2(config, refused, word, message):
    refused("evaluate_model", config, "--dry-run", word, message=message)

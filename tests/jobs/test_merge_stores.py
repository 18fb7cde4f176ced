"""jobs/merge_stores.py: stores of two corpora become one that a model is trained on."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from corpus_stores import write_corpus_store
from tiny_plans import own_tracking, write_small_training

from vavl.config.load import read_config
from vavl.job_config import MergeStoresJob
from vavl.store.store import FeatureStore
from vavl.store.store_cache import local_store
from vavl.store.store_versions import list_stores

Job = Callable[..., Any]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    alpha = write_corpus_store(tmp_path / "alpha", "alpha", ("glad", "mad", "calm"))
    beta = write_corpus_store(tmp_path / "beta", "beta", ("happy", "mad"))
    content = {
        "output_dir": str(tmp_path / "merged it"),
        "name": "both",
        "stores": [str(alpha), str(beta)],
        "classes": ["glad", "mad"],
        "labels": {"alpha": {"calm": None}, "beta": {"happy": "glad"}},
        "folds": {"rule": "leave_one_corpus_out"},
    }
    path = tmp_path / "merge.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_a_merged_store_has_a_summary_and_can_be_merged_again(config: Path, run_job: Job, tmp_path: Path) -> None:
    done = run_job("merge_stores", config)
    folder = tmp_path / "merged it"
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["clips"], summary["speakers"]) == (144, 12)
    assert summary["labelled"] == {"glad": 48, "mad": 60}
    assert summary["folds"]["1"] == {"name": "beta", "train": 40, "validation": 8, "test": 72}
    assert summary["sources"]["beta"]["licence"] == "beta licence"
    assert "license alpha licence" in done.stdout
    command = next(line for line in done.stdout.splitlines() if line.startswith("next: "))
    assert shlex.split(command)[1:] == ["python", "jobs/train_model.py", "CONFIG.yaml", f"data.store={folder}"]
    assert read_config(MergeStoresJob, folder / "config.yaml") == read_config(MergeStoresJob, config)
    run_job("merge_stores", config)
    assert json.loads((folder / "summary.json").read_text())["store_hash"] == summary["store_hash"]


def test_a_merged_store_is_pushed_at_once(config: Path, run_job: Job, tmp_path: Path) -> None:
    done = run_job("merge_stores", config, f"push_to={tmp_path}/pushed")
    (place,) = [place for place in list_stores(tmp_path / "pushed") if place["newest"]]
    assert f"data.store={place['place']}" in done.stdout
    pushed = FeatureStore.open(local_store(Path(place["place"])))
    pushed.verify()
    assert pushed.hash == FeatureStore.open(tmp_path / "merged it").hash
    refused = run_job("merge_stores", config, "push_to=https://bucket/stores", code=2)
    assert "can only be read" in refused.stderr


def test_a_model_is_trained_on_it_and_its_report_names_the_corpora(
    config: Path, run_job: Job, tmp_path: Path, tracking_database: Path
) -> None:
    run_job("merge_stores", config, "folds={rule: aligned}")
    training = {"max_epochs": 6, "optimizer": {"learning_rate": 3e-3}}
    config = write_small_training(
        tmp_path / "train.yaml",
        tmp_path / "merged it",
        output_dir=str(tmp_path / "run"),
        training={"launcher": "in_process", "engine": "torch", **training},
        evaluation={"test": True},
        tracking=own_tracking(tmp_path, tracking_database, model_name=None, system_metrics=False),
    )
    run_job("train_model", config)
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert summary["corpora"] == ["alpha", "beta"]
    assert summary["clips"] == {"train": 80, "validation": 20, "test": 20}
    assert summary["speakers"]["test"] == ["alpha/s0", "beta/s0"]
    # Two classes whose means lie far apart in both corpora.
    assert summary["metrics"]["test/audio_video/accuracy"] > 0.8
    predictions = pq.read_table(tmp_path / "run/predictions/test.parquet").to_pandas()
    paired = predictions[predictions["condition"] == "audio_video"]
    assert paired.groupby("corpus").size().to_dict() == {"alpha": 7, "beta": 11}
    page = (tmp_path / "run/report.html").read_text()
    assert "both (alpha, beta)" in page
    assert "Scores on test by corpus" in page
    assert "fold 0 (alpha 0, beta 0)" in page
    started = (tmp_path / "run/journal.jsonl").read_text().splitlines()[0]
    assert "merged of alpha (card hash" in started


def test_a_dry_run_merges_nothing(config: Path, run_job: Job, tmp_path: Path) -> None:
    run_job("merge_stores", config, "--dry-run")
    assert not (tmp_path / "merged it").exists()


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("labels={alpha: {calm: null}}", "labels.beta: happy: neither kept nor mapped nor dropped"),
        ("stores=[/nowhere, /else]", "there is no feature store"),
        ("folds={rule: by_chance}", "aligned"),
        ("folds={rule: aligned, by_corpus: {alpha: [3]}}", "alpha has no fold 3"),
    ],
)
def test_bad_settings_end_with_code_2(config: Path, refused: Job, word: str, message: str) -> None:
    refused("merge_stores", config, word, "--dry-run", message=message)


def test_a_store_of_one_corpus_is_not_overwritten(config: Path, refused: Job, tmp_path: Path) -> None:
    word = f"output_dir={tmp_path / 'alpha'}"
    refused("merge_stores", config, word, "--dry-run", message="something else than a merged store")

"""jobs/tune_model.py: a real sweep on Ray, what it leaves, and that a killed driver loses nothing."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from own_process import start_job
from tiny_plans import own_tracking, write_small_training

METRIC = "validation/audio_video/accuracy"
SUMMARY_KEYS = {
    "trials", "finished", "pruned", "failed", "epochs_run", "epochs_full", "best", "mlflow_run_id", "winning_config",
    "epochs_saved", "base", "gain", "front", "importances", "failures", "study", "model_version", "memory_gb",
}  # fmt: skip


@pytest.fixture
def config(small_store, small_corpus, tmp_path, monkeypatch, tracking_database):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.chdir(tmp_path)
    training = {"max_epochs": 6, "report_every_steps": 1, "optimizer": {"learning_rate": 3e-3}}
    store = small_store(small_corpus(clips_per_speaker=20))
    write_small_training(tmp_path / "train.yaml", store, training=training, tracking={"experiment": "trained"})
    sweep = {
        "output_dir": "sweep", "training": str(tmp_path / "train.yaml"), "trials": 3, "at_once": 1,
        "search": {"training.optimizer.learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}},
        "pruner": {"kind": "asha", "first_epochs": 2, "reduction": 2},
        "tracking": own_tracking(tmp_path, tracking_database, flush_seconds=0.5, model_name="tuned"),
    }  # fmt: skip
    path = tmp_path / "tune.yaml"
    path.write_text(yaml.safe_dump(sweep))
    return path


@pytest.mark.ray
def test_a_sweep_leaves_its_best_and_a_second_start_adds_trials(config, run_job):
    done = run_job("tune_model", config, "trials=2")
    done = run_job("tune_model", config, "search.training.optimizer.learning_rate.low=1.0e-4")
    assert "2 trials have ended already, 0 continue" in done.stderr
    assert done.stderr.count("clips by split") == 1
    folder = config.parent / "sweep"
    summary = json.loads((folder / "summary.json").read_text())
    assert summary.keys() >= SUMMARY_KEYS
    assert summary["trials"] == 3
    assert summary["finished"] + summary["pruned"] == 3
    assert summary["epochs_full"] == 18
    assert summary["best"]["metrics"][METRIC] >= summary["base"]["metrics"][METRIC] > 0
    assert summary["base"]["overrides"] == {"training.optimizer.learning_rate": 0.003}
    assert 0.1 < summary["memory_gb"] < 10
    assert "data:image" in (folder / "report.html").read_text()
    assert not (folder / "tune").exists()
    assert "best" in done.stdout
    _look_at_mlflow(config.parent, summary)
    _look_at_the_study(summary)
    # The winning configuration runs as it is.
    run_job("train_model", summary["winning_config"], "--dry-run")


def _look_at_mlflow(folder: Path, summary: dict[str, Any]) -> None:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    parent = client.get_run(summary["mlflow_run_id"])
    children = client.search_runs([parent.info.experiment_id], f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'")
    assert {child.data.tags["sweep.trial"] for child in children} == {"0", "1", "2"}
    assert {child.info.status for child in children} <= {"FINISHED", "KILLED"}
    assert all(len(client.get_metric_history(child.info.run_id, METRIC)) >= 2 for child in children)
    names = {item.path for item in client.list_artifacts(parent.info.run_id)}
    assert names >= {"summary.json", "trials.csv", "best.yaml", "report.html", "plots", "config.yaml"}
    assert parent.data.metrics["sweep/epochs_run"] == summary["epochs_run"]
    version = client.get_model_version("tuned", summary["model_version"])
    best = client.get_run(version.run_id)
    assert best.data.tags["sweep.trial"] == str(summary["best"]["trial"])


def _look_at_the_study(summary: dict[str, Any]) -> None:
    study = optuna.load_study(study_name=summary["study"]["name"], storage=summary["study"]["storage"])
    states = [trial.state.name for trial in study.trials]
    assert states.count("COMPLETE") == summary["finished"]
    assert states.count("PRUNED") == summary["pruned"]
    assert study.best_value == summary["best"]["metrics"][METRIC]
    assert all(len(trial.intermediate_values) >= 2 for trial in study.trials)


@pytest.mark.ray
@pytest.mark.slow
def test_a_killed_driver_repeats_no_finished_trial(config, run_job):
    # Long enough trials that one is still running when another one's end is seen.
    words = ["trials=4", "at_once=2", "pruner=none", "sampler=random", "overrides.training.max_epochs=24"]
    folder = config.parent / "sweep"
    driver = start_job("tune_model", config, *words, log=config.parent / "killed.log")
    driver.wait_until(lambda: _is_in_the_middle(folder))
    driver.process.kill()
    driver.end()
    before = {path: path.stat().st_mtime_ns for path in folder.glob("trials/*/summary.json")}
    points = _points(folder)
    assert before
    run_job("tune_model", config, *words)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["trials"], summary["finished"], summary["failed"]) == (4, 4, 0)
    # What was drawn before the kill was trained at those values, and nothing else took its place.
    after = _points(folder)
    assert {name: after[name] for name in points} == points
    assert sorted(after) == [f"trial-{number:04d}" for number in range(4)]


def _is_in_the_middle(folder: Path) -> bool:
    ended = {path.parent for path in folder.glob("trials/*/summary.json")}
    running = [path for path in folder.glob("trials/*/journal.jsonl") if path.parent not in ended]
    return bool(ended) and any('"kind": "epoch"' in path.read_text() for path in running)


def _points(folder: Path) -> dict[str, Any]:
    return {
        path.parent.name: yaml.safe_load(path.read_text())["training"]["optimizer"]["learning_rate"]
        for path in folder.glob("trials/*/config.yaml")
    }


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("search.model.widht={choices: [16, 32]}", "did you mean `width`"),
        ("training=nowhere.yaml", "cannot be read"),
        ("overrides.data.store=/nowhere", "no feature store"),
    ],
)
def test_bad_settings_end_with_code_2_before_anything_starts(config, word, message, refused):
    refused("tune_model", config, word, message=message, made=config.parent / "sweep")


def test_dry_run_shows_the_space_and_the_room_and_starts_nothing(config, run_job):
    done = run_job("tune_model", config, "--dry-run", "at_once=null")
    assert "learning_rate: 0.0001 to 0.01 over the logarithm; now 0.003" in done.stderr
    assert "3 trials by tpe; asha from epoch 2 on" in done.stderr
    assert "a trial: 1 worker(s), 1 CPUs, 6 epochs at most" in done.stderr
    assert f"capacity: 1 x {os.cpu_count()} CPU" in done.stderr
    assert done.stderr.count("clips by split") == 1
    assert done.stderr.count("audit of") == 1
    assert not (config.parent / "sweep").exists()

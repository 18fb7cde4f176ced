"""jobs/train_model.py: what it leaves, how it resumes after a kill, what it says to bad settings."""

from __future__ import annotations

import datetime as dt
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from copied_store import copy_store
from own_process import ROOT, start_job
from tiny_plans import own_tracking, write_small_training

from vavl.store.store_versions import push_store
from vavl.training.storage import RunStorage

SUMMARY_KEYS = {
    "metrics", "best_epoch", "steps", "clips_per_second", "seconds_to_first_step", "expected_seconds", "mfu",
    "workers", "zero_stage",
    "mlflow_run_id", "model_name", "model_version", "config_hash", "store_hash",
}  # fmt: skip


@pytest.fixture
def config(
    small_store: Callable[..., Path], small_corpus: Callable[..., Any], tmp_path: Path, tracking_database: Path
) -> Path:
    store = small_store(small_corpus(clips_per_speaker=20, without_audio=(0,), without_label=(1, 2)))
    training = {"max_epochs": 4, "optimizer": {"learning_rate": 1e-3}}
    return write_small_training(
        tmp_path / "train.yaml",
        store,
        output_dir=str(tmp_path / "run"),
        training={"launcher": "in_process", "engine": "torch", **training},
        evaluation={"test": True},
        tracking=own_tracking(tmp_path, tracking_database, model_name="vavl-small", system_metrics=False),
    )


def test_a_training_ends_with_summary_report_and_registered_version(config: Path, run_job: Callable[..., Any]) -> None:
    done = run_job("train_model", config)
    folder = config.parent / "run"
    summary = json.loads((folder / "summary.json").read_text())
    assert summary.keys() >= SUMMARY_KEYS
    assert summary["model_version"] == "1"
    assert summary["metrics"].keys() >= {f"test/{c}/accuracy" for c in ("audio_video", "audio", "video")}
    assert summary["config_hash"] in (folder / "run.json").read_text()
    assert "data:image" in (folder / "report.html").read_text()
    assert "version 1" in done.stdout
    assert "next:" in done.stdout
    _look_at_mlflow(config.parent, summary)
    # The saved configuration is complete: it says the same when it is read again.
    run_job("train_model", folder / "config.yaml", "--dry-run")


def _look_at_mlflow(folder: Path, summary: dict[str, Any]) -> None:
    from mlflow.tracking import MlflowClient

    run = MlflowClient(f"sqlite:///{folder}/mlflow.db").get_run(summary["mlflow_run_id"])
    best = {name: value for name, value in run.data.metrics.items() if name.startswith("best/")}
    assert best == {f"best/{name}": value for name, value in summary["metrics"].items()}
    assert not [name for name in run.data.metrics if name.startswith("test/")]
    tags = {"corpus": "small", "fold": "0", "seed": "0", "device": "cpu", "best_epoch": str(summary["best_epoch"])}
    assert {name: run.data.tags[f"vavl.{name}"] for name in tags} == tags
    assert "| test | audio_video |" in run.data.tags["mlflow.note.content"].replace("&ensp;", "")


def test_a_killed_training_goes_on_and_ends_as_if_nothing_had_happened(
    config: Path, run_job: Callable[..., Any]
) -> None:
    long = ("training.max_epochs=20", "tracking.model_name=null")
    run_job("train_model", config, *long, f"output_dir={config.parent / 'whole'}")

    job = start_job("train_model", config, *long, log=config.parent / "killed.log", cwd=config.parent)
    checkpoints = config.parent / "run" / "checkpoints"
    # Old checkpoints are dropped: a slow look must not miss the one it waits for.
    job.wait_until(lambda: max((int(path.name[5:]) for path in checkpoints.glob("step-*")), default=0) >= 20)
    run_file = (config.parent / "run" / "run.json").read_bytes()
    job.process.send_signal(signal.SIGSTOP)  # it is not to end before a second one was refused
    second = run_job("train_model", config, *long, "training.seed=5", code=2)
    assert "another driver is at work there: train_model.py of " in second.stderr
    assert f"pid {job.process.pid}" in second.stderr
    assert (config.parent / "run" / "run.json").read_bytes() == run_file
    job.kill()
    assert not (config.parent / "run" / "summary.json").exists()

    resumed = run_job("train_model", config, *long)
    assert "resuming run" in resumed.stderr
    assert "from step-" in resumed.stderr
    ends = [json.loads((config.parent / name / "summary.json").read_text()) for name in ("whole", "run")]
    for key in ("metrics", "best_epoch", "steps", "config_hash"):
        assert ends[0][key] == ends[1][key], key
    assert losses(config.parent / "whole") == losses(config.parent / "run")


def losses(folder: Path) -> dict[int, float]:
    records = [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()]
    return {record["step"]: record["metrics"]["train/loss/total"] for record in records if record["kind"] == "step"}


def test_a_second_start_keeps_the_first_run(config: Path, run_job: Callable[..., Any]) -> None:
    quick = ("training.max_epochs=1", "tracking.model_name=null")
    run_job("train_model", config, *quick)
    first = json.loads((config.parent / "run" / "run.json").read_text())["run_id"]
    run_job("train_model", config, *quick)
    kept = config.parent / "run" / "earlier" / first
    assert (kept / "summary.json").exists()
    assert json.loads((config.parent / "run" / "run.json").read_text())["run_id"] != first


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("training.workrs=2",), "did you mean `workers`"),
        (("data.store=/nowhere",), "no feature store"),
        (("data.fold=7",), "has no fold 7"),
        (("evaluation.select_by=[validation/audio/loss]",), "ends in accuracy"),
        (("output_dir=/proc/nothing",), "cannot be written"),
    ],
)
def test_bad_settings_end_with_code_2_and_say_what_to_repair(
    config: Path, words: tuple[str, ...], message: str, run_job: Callable[..., Any]
) -> None:
    done = run_job("train_model", config, *words, code=2)
    assert message in done.stderr
    assert "fix:" in done.stderr
    assert "Traceback" not in done.stderr


def test_dry_run_starts_nothing(config: Path, run_job: Callable[..., Any]) -> None:
    done = run_job("train_model", config, "--dry-run", "training.launcher=ray", "training.workers=999")
    assert f"capacity: 1 x {os.cpu_count()} CPU" in done.stderr
    assert "starting" not in done.stderr
    assert not (config.parent / "run").exists()


def test_a_store_at_an_address_is_copied_when_the_training_starts(
    config: Path, run_job: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VAVL_CACHE", str(tmp_path / "cache"))
    store = Path(yaml.safe_load(config.read_text())["data"]["store"])
    words = (f"data.store={store.as_uri()}", "training.max_epochs=1", "tracking.model_name=null")
    dry = run_job("train_model", config, *words, "--dry-run")
    assert "features are copied when they are read" in dry.stderr
    assert not list((tmp_path / "cache").glob("*/audio/data-00000.arrow"))
    bad = run_job("train_model", config, *words, "data.fold=7", "--dry-run", code=2)
    assert "has no fold 7" in bad.stderr
    run_job("train_model", config, *words)
    assert len(list((tmp_path / "cache").glob("*/audio/data-00000.arrow"))) == 1
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["data"]["store"] == store.as_uri()
    run_job("train_model", config, *words[1:], f"output_dir={tmp_path / 'in_place'}")
    summaries = [json.loads((tmp_path / name / "summary.json").read_text()) for name in ("run", "in_place")]
    for key in ("metrics", "config_hash", "store_hash"):
        assert summaries[0][key] == summaries[1][key], key


def test_a_run_on_the_latest_store_records_which_version_that_was(
    config: Path, run_job: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VAVL_CACHE", str(tmp_path / "cache"))
    store = copy_store(Path(yaml.safe_load(config.read_text())["data"]["store"]), tmp_path / "whole")
    pushed = push_store(store, (tmp_path / "pushed").as_uri(), dt.datetime(2026, 3, 1, tzinfo=dt.UTC))
    latest = f"data.store={pushed.place.partition('@')[0]}@latest"
    words = (latest, "training.max_epochs=1", "tracking.model_name=null")
    run_job("train_model", config, *words, "--dry-run")
    run_job("train_model", config, *words)
    assert json.loads((tmp_path / "run/run.json").read_text())["store"] == pushed.place
    assert yaml.safe_load((tmp_path / "run/config.yaml").read_text())["data"]["store"] == pushed.place
    started = json.loads((tmp_path / "run/journal.jsonl").read_text().splitlines()[0])
    assert pushed.place in json.dumps(started)
    assert json.loads((tmp_path / "run/summary.json").read_text())["store_hash"] == pushed.version[:16]


def test_a_run_at_an_address_leaves_its_results_there_and_is_kept_by_the_next_one(
    config: Path, run_job: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, s3: str
) -> None:
    monkeypatch.setenv("VAVL_CACHE", str(tmp_path / "cache"))
    address = f"{s3}/run"
    words = (f"output_dir={address}", "training.max_epochs=1")
    run_job("train_model", config, *words, "--dry-run")
    storage = RunStorage(address)
    assert storage.tree() == {}
    assert not (tmp_path / "cache/runs").exists()
    done = run_job("train_model", config, *words)
    assert f"{address}: trained on small" in done.stdout
    assert "version 1" in done.stdout
    found = storage.tree()
    assert found.keys() >= {
        "run.json", "config.yaml", "journal.jsonl", "report.html", "summary.json", "outcome.json", "partitions.csv",
        "predictions/test.parquet", "predictions/validation.parquet",
    }  # fmt: skip
    summary = json.loads(storage.read("summary.json") or b"")
    assert summary["model_version"] == "1"
    first = json.loads(storage.read("run.json") or b"")
    assert first["state"] == "finished"
    assert address in (storage.read("config.yaml") or b"").decode()

    # From another machine, and stopped by an error: what it has by then is there.
    monkeypatch.setenv("VAVL_CACHE", str(tmp_path / "other"))
    run_job("train_model", config, *words, "training.optimizer.learning_rate=1e30", code=1)
    aside = storage.directory("earlier").directory(first["run_id"])
    assert aside.tree().keys() >= {"run.json", "summary.json", "outcome.json", "report.html"}
    assert json.loads(storage.read("run.json") or b"")["state"] == "running"
    last = json.loads((storage.read("journal.jsonl") or b"").splitlines()[-1])
    assert (last["kind"], last["status"]) == ("run_end", "FAILED")


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("s3://nowhere/run", "s3://nowhere/run: cannot be written: there is no such bucket"),
        ("foo://bucket/run", "addresses of foo:// are not known"),
        ("https://127.0.0.1/run", "https://127.0.0.1/run"),
        ("'s3://me:secret@bucket/run'", "give credentials by the environment"),
        ("none: s3://runs/run", "no credentials were found"),
    ],
)
def test_an_address_that_cannot_be_written_is_refused_before_training(
    config: Path, address: str, message: str, refused: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, s3: str
) -> None:
    if address.startswith("none: "):
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("VAVL_CACHE", str(config.parent / "cache"))
    words = [f"output_dir={address.removeprefix('none: ')}", f"tracking.uri=sqlite:///{config.parent}/untouched.db"]
    refused("train_model", config, *words, message=message)
    assert not (config.parent / "cache").exists()
    assert not (config.parent / "untouched.db").exists()


def test_other_jobs_refuse_an_address_before_anything_is_written(
    run_job: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = run_job("check_setup", ROOT / "jobs/configs/check_setup.yaml", "output_dir=s3://bucket/x", code=2)
    assert "output_dir: Value error, is an address" in done.stderr
    assert list(tmp_path.iterdir()) == []

"""jobs/compare_objectives.py: what it leaves, what it keeps, what it says when something fails."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import yaml
from tiny_plans import own_tracking, write_small_training

SUMMARY_KEYS = {
    "split", "reference", "main_measure", "scores", "differences", "significant", "left_out", "failed", "forced",
    "corpus", "protocol", "label_target", "clips", "speakers", "store_hash", "runs", "seconds", "partitions",
    "training_seconds", "mlflow_run_id",
}  # fmt: skip


@pytest.fixture
def config(small_store, small_corpus, tmp_path, monkeypatch, tracking_database):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.chdir(tmp_path)
    store = small_store(small_corpus(clips_per_speaker=20, without_audio=(0,)))
    training = {"max_epochs": 2, "optimizer": {"learning_rate": 1e-3}}
    tracking = {"model_name": "never-registered"}
    file = write_small_training(tmp_path / "train.yaml", store, training=training, tracking=tracking)
    content = {
        "output_dir": "compared",  # relative, as in the shipped configurations
        "training": str(file),
        "objective_sets": {
            "supervised": {"objectives.reconstruction.weight": 0},
            "smooth": {"objectives": {"supervised.label_smoothing": 0.2}},
        },
        "labelled_fractions": [0.5, 1.0],
        "seeds": [0],
        "tracking": own_tracking(tmp_path, tracking_database, flush_seconds=0.5),
    }
    path = tmp_path / "compare.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.mark.ray
def test_a_comparison_leaves_its_table_and_a_longer_one_keeps_the_runs(config, run_job):
    done = run_job("compare_objectives", config)
    folder = config.parent / "compared"
    first = {path: path.stat().st_mtime_ns for path in folder.glob("runs/*/*/*/outcome.json")}
    assert first

    done = run_job("compare_objectives", config, "seeds=[0, 1]", "test=false")
    assert f"{len(first)} are finished already" in done.stderr
    assert {path: path.stat().st_mtime_ns for path in first} == first
    rows = list(csv.DictReader((folder / "table.csv").open()))
    places = [(row["set"], row["labelled_fraction"], row["fold"], row["seed"], row["condition"]) for row in rows]
    assert len(set(places)) == len(rows) == 2 * 2 * 1 * 2 * 3
    assert all(0 <= float(row["accuracy"]) <= 1 and float(row["seconds"]) > 0 for row in rows)

    summary = json.loads((folder / "summary.json").read_text())
    assert summary.keys() >= SUMMARY_KEYS
    assert {score["runs"] for score in summary["scores"]} == {2}
    assert len(summary["differences"]) == 2 * 3 * 3
    assert summary["runs"]["kept"] == len(first)
    labelled = {
        entry["labelled_fraction"]: sum(
            clips for name, clips in entry["clips"].items() if not name.endswith("unlabelled")
        )
        for entry in summary["partitions"]
    }
    assert labelled == {0.5: 40, 1.0: 80}
    assert "data:image" in (folder / "report.html").read_text()
    assert {path.stem for path in (folder / "plots").glob("*.png")} == {"label_efficiency", "differences"}
    assert "smooth" in done.stdout
    assert "next:" in done.stdout
    # A finished run keeps its model and its predictions; its checkpoints would fill the disk.
    run = next(iter(first)).parent
    assert (run / "best").exists()
    assert not (run / "checkpoints").exists()
    _look_at_mlflow(config.parent, summary["mlflow_run_id"], runs=sum(summary["runs"].values()))


def _look_at_mlflow(folder: Path, parent: str, runs: int) -> None:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    experiment = client.get_experiment_by_name("vavl").experiment_id
    children = client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{parent}'")
    assert len(children) == runs == len(client.search_runs([experiment])) - 1
    assert {child.info.status for child in children} == {"FINISHED"}
    history = client.get_metric_history(children[0].info.run_id, "validation/audio_video/accuracy")
    assert len({point.step for point in history}) == 2
    names = {item.path for item in client.list_artifacts(parent)}
    assert names >= {"table.csv", "summary.json", "report.html", "plots", "config.yaml"}
    assert not client.search_registered_models()


@pytest.mark.ray
def test_a_failing_run_is_recorded_and_the_others_go_on(config, run_job):
    words = (
        "labelled_fractions=[1.0]", "overrides.training.max_epochs=1",
        "objective_sets.broken={training.optimizer: {learning_rate: 1.0e+30, gradient_clipping: 0}}",
        "objective_sets.impossible={data.composition.rows_per_step: {video_only_unlabelled: 4}}",
    )  # fmt: skip
    done = run_job("compare_objectives", config, *words, code=1)
    assert "1 run(s) failed; broken/" in done.stderr
    assert "is not finite" in done.stderr
    assert "Traceback" not in done.stderr
    summary = json.loads((config.parent / "compared" / "summary.json").read_text())
    assert [entry["run"].split("/")[0] for entry in summary["failed"]] == ["broken"]
    assert [entry["set"] for entry in summary["left_out"]] == ["impossible"]
    assert {score["set"] for score in summary["scores"]} == {"supervised", "smooth"}
    assert summary["runs"] == {"finished": 2, "kept": 0, "failed": 1}


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("objective_sets.x={training.seed: 3}", "training.seed belongs to the comparison"),
        ("overrides.training.launcher=ray", "training.launcher belongs to the comparison"),
        ("reference=nothing", "nothing is no objective set"),
        ("seeds=[1, 1]", "a value stands there twice"),
        ("labelled_fractions=[0]", "greater than 0"),
        ("training=nowhere.yaml", "cannot be read"),
    ],
)
def test_bad_settings_end_with_code_2_before_anything_starts(config, word, message, refused):
    refused("compare_objectives", config, word, message=message, made=config.parent / "compared")


def test_dry_run_shows_the_grid_and_starts_nothing(config, run_job):
    words = ("seeds=[0, 1, 2]", "objective_sets.copy={objectives.reconstruction.weight: 0}")
    impossible = "objective_sets.impossible={data.composition.rows_per_step: {video_only_unlabelled: 4}}"
    done = run_job("compare_objectives", config, "--dry-run", *words, impossible)
    assert "seeds 0/1/2" in done.stderr
    assert "equal ones are trained once" in done.stderr
    assert "left out: impossible, labels 100 %" in done.stderr
    assert "training.launcher=in_process" in done.stderr
    assert "runs fit at once (1 CPU a worker)" in done.stderr
    assert done.stderr.count("audit of") == 1
    assert not (config.parent / "compared").exists()

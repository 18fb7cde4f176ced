"""The first record of a run."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest
import yaml

from vavl.config.base import FrozenConfig
from vavl.tracking.journal import Journal
from vavl.tracking.run import CODE_VARIABLE, DatasetNote, TrackedRun, run_page, run_start, source_tags
from vavl.tracking.settings import TrackingSettings


class _Inner(FrozenConfig):
    seed: int = 3


class _Job(FrozenConfig):
    output_dir: Path
    training: _Inner = _Inner()


def test_run_start_holds_settings_code_and_data(tmp_path):
    journal = Journal(tmp_path / "journal.jsonl")
    dataset = DatasetNote("demo", "f" * 64, "/stores/demo", "datasets/demo.yaml", {"train": 9})
    tracking = TrackingSettings(experiment="trial")
    tags = {**source_tags(), **dataset.tags}
    journal.append("run_start", **run_start(_Job(output_dir=tmp_path), tracking, "run-1", dataset, tags))
    (record,) = journal.read()
    assert record.kind == "run_start"
    assert record.payload["run_id"] == record.payload["run_name"] == "run-1"
    assert record.payload["experiment"] == "trial"
    assert record.payload["params"] == {"output_dir": str(tmp_path), "training.seed": 3}
    assert yaml.safe_load(record.payload["config_yaml"])["training"] == {"seed": 3}
    assert record.payload["dataset"]["counts"] == {"train": 9}
    assert record.payload["tags"]["vavl.store_hash"] == "f" * 64
    assert record.payload["tags"]["vavl.corpus"] == "demo"
    assert record.payload["tags"].keys() >= {"mlflow.user", "vavl.torch", "vavl.ray", "vavl.deepspeed"}


def test_the_page_of_a_run_is_a_table_of_scores_with_a_link_to_the_report():
    metrics = {
        "validation/audio_video/accuracy": 0.5, "validation/audio_video/clips": 12.0, "validation/audio/uar": 0.25,
        "test/audio/loss": 3.0, "test/audio/accuracy:noise_10db": 0.125,
    }  # fmt: skip
    (page,) = run_page(metrics, ["best epoch 3"], "report.html").values()
    assert page.replace("&ensp;", "").splitlines() == [
        "[report.html](artifact:report.html) · best epoch 3",
        "",
        "| split | condition | clips | accuracy | uar |",
        "|---|---|---:|---:|---:|",
        "| validation | audio_video | 12 | 0.500 |  |",
        "| validation | audio |  |  | 0.250 |",
    ]


def test_source_tags_name_commit_or_hash(tmp_path, monkeypatch):
    monkeypatch.delenv(CODE_VARIABLE, raising=False)
    package = tmp_path / "vavl"
    package.mkdir()
    (package / "__init__.py").write_text("")
    monkeypatch.setattr("vavl.tracking.run.vavl.__file__", str(package / "__init__.py"))
    assert "mlflow.source.git.commit" not in source_tags()
    for words in (
        ["init", "-q"], ["add", "."],
        ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "first"],
    ):  # fmt: skip
        subprocess.run(["git", "-C", tmp_path, *words], check=True)
    tags = source_tags()
    assert len(tags["mlflow.source.git.commit"]) == 40
    assert tags["vavl.uncommitted_changes"] == "false"
    (package / "__init__.py").write_text("changed = 1\n")
    changed = source_tags()
    assert changed["vavl.uncommitted_changes"] == "true"
    assert changed["vavl.code_hash"] != tags["vavl.code_hash"]
    monkeypatch.setenv("PATH", "")
    assert "mlflow.source.git.commit" not in source_tags()


class _Work(TrackedRun):
    def start(self) -> None:
        self.journal.append("run_start", run_id="run", experiment=self._settings.experiment)
        self._follow(self.directory / "earlier")


def test_a_run_is_followed_with_the_load_of_its_machine(tmp_path, tracking):
    settings = tracking.model_copy(update={"system_metrics": True, "system_metrics_seconds": 0.05})

    def fail() -> _Work:
        with _Work(tmp_path, settings) as work:
            work.start()
            end = time.monotonic() + 30
            while not any(record.kind == "system" for record in work.journal.read()):
                assert time.monotonic() < end, "no sample came"
                time.sleep(0.02)
            raise RuntimeError("the work failed")

    with pytest.raises(RuntimeError, match="the work failed"):
        fail()
    records = list(Journal(tmp_path / "journal.jsonl").read())
    sample = next(record for record in records if record.kind == "system")
    assert 0 <= sample.payload["metrics"]["system/system_memory_usage_percentage"] <= 100
    # Nothing is measured behind the end.
    assert (records[-1].kind, records[-1].payload["status"]) == ("run_end", "FAILED")

"""check_setup: one line per check, exit code 1 when any fails, summary.json."""

from __future__ import annotations

from pathlib import Path

import pytest

from vavl.config.files import read_json

ROOT = Path(__file__).parents[2]


@pytest.fixture
def check_setup(run_job, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return lambda *words, **options: run_job(
        "check_setup", "jobs/configs/check_setup.yaml", f"output_dir={tmp_path}", *words, **options
    )


def test_every_check_gets_a_line_and_a_place_in_the_summary(check_setup, tmp_path):
    done = check_setup(f"tracking.uri=sqlite:///{tmp_path}/runs.db", "least_free_disk_gb=0.1")
    assert "ok   imports" in done.stdout
    summary = read_json(tmp_path / "summary.json")
    assert summary["fail"] == 0
    names = {check["name"] for check in summary["checks"]}
    assert names >= {
        "Python", "packages", "imports", "compiler", "build locks", "disk", "memory", "shared memory", "tracking",
        "corpus demo", "corpus ravdess", "GPU", "Ray",
    }  # fmt: skip
    lines = [line for line in done.stdout.splitlines() if line[:5].strip() in {"ok", "warn", "fail"}]
    assert len(lines) == len(summary["checks"])
    assert all(check["fix"] for check in summary["checks"] if check["status"] != "ok")


def test_a_failed_check_is_a_failed_job(check_setup, tmp_path):
    done = check_setup("try_imports=false", "least_free_disk_gb=1000000000", code=1)
    assert "fail disk" in done.stdout
    assert "error: setup: disk: 1 checks failed" in done.stderr
    assert read_json(tmp_path / "summary.json")["fail"] == 1


def test_a_dry_run_checks_nothing_but_the_settings(check_setup, tmp_path):
    check_setup("--dry-run")
    assert not (tmp_path / "summary.json").exists()

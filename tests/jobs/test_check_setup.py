"""check_setup: one line per check, exit code 1 when any fails, summary.json."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def _check_setup(output: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    words = ["jobs/check_setup.py", "jobs/configs/check_setup.yaml", f"output_dir={output}", *overrides]
    environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    return subprocess.run(
        [sys.executable, *words], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )


def test_every_check_gets_a_line_and_a_place_in_the_summary(tmp_path: Path) -> None:
    done = _check_setup(
        tmp_path, "try_imports=false", f"tracking.uri=sqlite:///{tmp_path}/runs.db", "least_free_disk_gb=0.1"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["fail"] == 0
    names = {check["name"] for check in summary["checks"]}
    assert names >= {
        "Python", "packages", "compiler", "build locks", "disk", "memory", "shared memory", "tracking",
        "corpus demo", "corpus ravdess", "GPU", "Ray",
    }  # fmt: skip
    lines = [line for line in done.stdout.splitlines() if line[:5].strip() in {"ok", "warn", "fail"}]
    assert len(lines) == len(summary["checks"])
    assert all(check["fix"] for check in summary["checks"] if check["status"] != "ok")


def test_a_failed_check_is_a_failed_job(tmp_path: Path) -> None:
    done = _check_setup(tmp_path, "try_imports=false", "least_free_disk_gb=1000000000")
    assert done.returncode == 1
    assert "fail disk" in done.stdout
    assert "error: setup: disk: 1 checks failed" in done.stderr
    assert json.loads((tmp_path / "summary.json").read_text())["fail"] == 1


def test_a_dry_run_checks_nothing_but_the_settings(tmp_path: Path) -> None:
    done = _check_setup(tmp_path, "--dry-run")
    assert done.returncode == 0
    assert not (tmp_path / "summary.json").exists()


def test_the_packages_of_this_environment_can_be_imported(tmp_path: Path) -> None:
    done = _check_setup(tmp_path, "least_free_disk_gb=0.1")
    assert "ok   imports" in done.stdout

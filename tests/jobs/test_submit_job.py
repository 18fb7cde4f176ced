"""submit_job: what is refused before anything is sent, and what --dry-run shows; the rest needs a cluster."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def _submit(output: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "jobs/submit_job.py", "jobs/configs/submit.yaml", f"output_dir={output}", *words]
    environment = {**os.environ, **variables}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def test_a_dry_run_shows_what_would_be_sent_and_asks_nobody(tmp_path: Path) -> None:
    done = _submit(
        tmp_path, "--dry-run", "address=http://127.0.0.1:9", "overrides=[training.workers=3]",
        "environment=[MLFLOW_TRACKING_URI]", MLFLOW_TRACKING_URI="http://tracking:5000",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "python jobs/train_model.py jobs/configs/demo.yaml training.workers=3" in done.stdout
    assert "MLFLOW_TRACKING_URI" in done.stdout
    assert "tracking:5000" not in done.stdout + done.stderr
    assert re.search(r"code +commit [0-9a-f]{12}", done.stdout)
    assert f"VAVL_ROOT  {ROOT}" in done.stdout
    assert "nothing was started" in done.stdout
    assert not (tmp_path / "summary.json").exists()


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("overrides=[training.workerz=3]", "training.workerz: unknown key; did you mean `workers`"),
        ("environment=[HF_TOKEN]", "HF_TOKEN looks like a secret"),
        ("environment=[VAVL_ABSENT]", "not set here: VAVL_ABSENT"),
        ("address=http://10.0.0.7:8265", "the cluster at http://10.0.0.7:8265 is not this machine"),
        ("job=jobs/submit_job.py", "is no job"),
    ],
)
def test_a_wrong_submission_is_refused_with_exit_code_2(tmp_path: Path, word: str, message: str) -> None:
    done = _submit(tmp_path, word, HF_TOKEN="hf")
    assert done.returncode == 2
    assert message in done.stderr


def test_a_cluster_that_is_not_there_is_failed_work(tmp_path: Path) -> None:
    done = _submit(tmp_path, "address=http://127.0.0.1:9")
    assert done.returncode == 1
    assert "no Ray job server answers" in done.stderr
    assert "ray start --head" in done.stderr

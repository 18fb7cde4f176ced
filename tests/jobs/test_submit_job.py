"""submit_job: what is refused before anything is sent, and what --dry-run shows; the rest needs a cluster."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NOBODY = "address=http://127.0.0.1:9"


@pytest.fixture
def words(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    return "submit_job", "jobs/configs/submit.yaml", f"output_dir={tmp_path}"


def test_a_dry_run_shows_what_would_be_sent_and_asks_nobody(words, run_job, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking:5000")
    given = ("overrides=[training.workers=3]", "environment=[MLFLOW_TRACKING_URI]")
    done = run_job(*words, "--dry-run", NOBODY, *given)
    assert "python jobs/train_model.py jobs/configs/demo.yaml training.workers=3" in done.stdout
    assert "MLFLOW_TRACKING_URI" in done.stdout
    assert "tracking:5000" not in done.stdout + done.stderr
    assert re.search(r"code +commit [0-9a-f]{12}", done.stdout)
    assert f"VAVL_ROOT  {ROOT}" in done.stdout
    assert "nothing was started" in done.stdout
    assert not (tmp_path / "summary.json").exists()


# What else is refused is in tests/unit/submission.
@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("overrides=[training.workerz=3]", "training.workerz: unknown key; did you mean `workers`"),
        ("environment=[HF_TOKEN]", "HF_TOKEN looks like a secret"),
    ],
)
def test_a_wrong_submission_is_refused_with_exit_code_2(words, run_job, monkeypatch, word, message):
    monkeypatch.setenv("HF_TOKEN", "hf")
    assert message in run_job(*words, word, code=2).stderr


def test_a_cluster_that_is_not_there_is_failed_work(words, run_job):
    done = run_job(*words, NOBODY, code=1)
    assert "no Ray job server answers" in done.stderr
    assert "ray start --head" in done.stderr

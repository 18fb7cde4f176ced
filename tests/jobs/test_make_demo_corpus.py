"""The job make_demo_corpus: shipped settings, summary, resumption, dry run and refusals."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from demo_corpus.settings import DemoCorpusSettings
from vavl.config.load import read_config
from vavl.job_config import MakeDemoCorpusJob

CONFIG = Path(__file__).parents[2] / "jobs" / "configs" / "demo_corpus.yaml"
TINY = ("corpus.women=1", "corpus.men=0", "corpus.sentences=1", "corpus.takes=1", "workers=1")


def test_the_shipped_settings_are_those_whose_difficulty_was_set():
    job = read_config(MakeDemoCorpusJob, CONFIG)
    assert job.corpus == DemoCorpusSettings()
    assert job.output_dir == Path("runs/demo_corpus")


def test_it_renders_and_says_what_comes_next_and_renders_nothing_twice(run_job, tmp_path):
    done = run_job("make_demo_corpus", CONFIG, f"output_dir={tmp_path}", *TINY)
    assert "6 (6 rendered now)" in done.stdout
    assert "python jobs/prepare_corpus.py jobs/configs/prepare/demo.yaml" in done.stdout
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary.keys() >= {"clips", "seconds", "clips_per_second", "seed", "settings_hash"}
    assert (summary["clips"], summary["rendered"], summary["seed"]) == (6, 6, 7)
    assert (tmp_path / "contact_sheet.png").stat().st_size > 10_000

    again = run_job("make_demo_corpus", CONFIG, f"output_dir={tmp_path}", *TINY)
    assert "6 (0 rendered now)" in again.stdout

    other = run_job("make_demo_corpus", CONFIG, f"output_dir={tmp_path}", *TINY, "corpus.seed=8", code=2)
    assert "other settings" in other.stderr
    assert "overwrite=true" in other.stderr


def test_a_dry_run_renders_nothing(run_job, tmp_path):
    run_job("make_demo_corpus", CONFIG, f"output_dir={tmp_path / 'new'}", "--dry-run")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("corpus.sentenses=2", "did you mean `sentences`"),
        ("corpus.takes=many", "corpus.takes: Input should be a valid integer"),
        ("corpus.image_size_px=161", "corpus.image_size_px"),
        ("workers=0", "workers: Input should be greater than or equal to 1"),
    ],
)
def test_wrong_settings_are_told_by_name(refused, tmp_path, override, told):
    refused("make_demo_corpus", CONFIG, f"output_dir={tmp_path / 'new'}", override, message=told, made=tmp_path / "new")

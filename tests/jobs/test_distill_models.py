"""jobs/distill_models.py: self-training in rounds, each taught by the one before."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import yaml
from tiny_plans import own_tracking, write_small_training


@pytest.fixture
def config(small_store, small_corpus, tmp_path, tracking_database):
    store = small_store(small_corpus(clips_per_speaker=20, without_audio=(0,), without_label=(1, 2)))
    tracking = own_tracking(tmp_path, tracking_database, system_metrics=False)
    training = {"launcher": "in_process", "engine": "torch", "max_steps": 3}
    student = {"training": training, "tracking": {**tracking, "model_name": "vavl-student"}}
    write_small_training(tmp_path / "student.yaml", store, **student)
    path = tmp_path / "distill.yaml"
    plan = {
        "output_dir": str(tmp_path / "distilled"), "student": str(tmp_path / "student.yaml"), "rounds": 2,
        "tracking": tracking,
    }  # fmt: skip
    path.write_text(yaml.safe_dump(plan))
    return path


def test_two_rounds_of_self_training_and_an_ensemble(config, run_job):
    start = time.monotonic()
    run_job("distill_models", config)
    taken = time.monotonic() - start
    folder = config.parent / "distilled"
    summary = json.loads((folder / "summary.json").read_text())
    first, second = summary["rounds"]
    assert (first["teachers"], second["teachers"]) == ([], [str(folder / "round-1")])
    assert summary["metrics"] == second["metrics"]
    assert (summary["model_name"], summary["model_version"]) == ("vavl-student", "1")
    rounds = [json.loads((folder / f"round-{number}/summary.json").read_text()) for number in (1, 2)]
    assert all(0 < one["seconds_to_first_step"] < one["seconds"] for one in rounds)
    assert sum(one["seconds"] for one in rounds) < taken  # each counts its own time alone
    learned = yaml.safe_load((folder / "round-2/config.yaml").read_text())["objectives"]["pseudo_label"]
    assert Path(learned["predictions"]).name == next(folder.glob("teachers-*.parquet")).name
    (run,) = {json.loads((folder / f"round-{number}/run.json").read_text())["run_id"] for number in (1,)}
    teachers = f"teachers=[{folder}/round-1, models:/vavl-student/1]"
    run_job("distill_models", config, teachers, "rounds=1", f"output_dir={config.parent / 'ensemble'}")
    run_job("distill_models", config)
    kept = json.loads((folder / "round-1/run.json").read_text())
    assert kept["run_id"] == run  # a finished round is not trained again
    assert not (folder / "round-1/earlier").exists()


def test_a_teacher_that_is_not_there_is_named(config, run_job):
    done = run_job("distill_models", config, "teachers=[nowhere]", "--dry-run", code=2)
    assert "there is no such directory" in done.stderr

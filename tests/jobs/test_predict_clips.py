"""The job predict_clips: what it leaves, what it says, and a kill in the middle that Ray's workers continue."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from media_model import write_media_model
from rendered_media import moving_square, tone, write_mp4, write_wav

from vavl.config.files import read_json

ROOT = Path(__file__).parents[2]
SUMMARY_KEYS = {
    "input", "clips", "predicted", "failed", "one_side", "failed_by_reason", "conditions", "labels", "kept",
    "worked_on", "seconds", "clips_per_second", "unavailable", "left_out", "model", "files",
}  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return write_media_model(tmp_path_factory.mktemp("run") / "best").parent


@pytest.fixture(scope="module")
def film(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("film")
    return write_mp4(folder / "ein Film.mp4", moving_square(20, side=64), sound=tone(220, 0.8, amplitude=0.3))


def test_a_person_with_a_file_gets_a_table_and_a_timeline(run_job, film, model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = run_job("predict_clips", film, f"model={model}", "timeline=true", "windows.thumbnails=2")
    assert done.code == 0, done.stderr
    folder = tmp_path / "runs/predictions/ein Film.mp4"
    summary = read_json(folder / "summary.json")
    assert summary.keys() == SUMMARY_KEYS
    assert (summary["input"], summary["clips"], summary["predicted"]) == ("file", 1, 1)
    assert summary["conditions"] == {"audio_video": 1, "audio": 1, "video": 1}
    assert summary["model"].keys() == {"address", "name", "version", "mlflow_run_id", "hash"}
    place = "runs/predictions/ein Film.mp4/timeline.png"
    for word in ("audio + video", "audio alone", "video alone", "label", "glad", f"next: look at {place}"):
        assert word in done.stdout
    assert (folder / "timeline.png").stat().st_size > 10_000
    assert summary["files"]["timelines"] == [place]
    again = run_job("predict_clips", folder / "config.yaml")
    assert again.code == 0, again.stderr
    assert read_json(folder / "summary.json")["kept"] == 1


def test_a_dry_run_says_what_it_found_and_starts_nothing(run_job, film, model, tmp_path):
    done = run_job(
        "predict_clips", film.parent, f"model={model}", f"output_dir={tmp_path / 'out'}", "--dry-run"
    )
    assert done.code == 0, done.stderr
    assert "video alone  1 clips" in done.stdout
    assert "nothing was started" in done.stdout
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["model={model}/missing"], "there is no such directory"),
        (["model={model}", "conditions=[audio,audio]"], "each may stand there once"),
        (["model={model}", "conditions=[sound]"], "conditions.0"),
        (["model={model}", "clips_per_batch=0"], "greater than or equal to 1"),
        ([], "model: Field required"),
    ],
)
def test_wrong_settings_are_exit_code_2(run_job, film, model, tmp_path, words, problem):
    given = [word.format(model=model) for word in words]
    done = run_job("predict_clips", film, *given, f"output_dir={tmp_path}", "--dry-run")
    assert done.code == 2
    assert problem in done.stderr


def test_a_file_that_is_not_there_is_exit_code_2_and_only_failures_are_1(run_job, model, tmp_path):
    missing = run_job("predict_clips", tmp_path / "missing.mp4", f"model={model}")
    assert (missing.code, "no such directory or file" in missing.stderr) == (2, True)
    (tmp_path / "bad.wav").write_bytes(b"bad")
    bad = run_job("predict_clips", tmp_path / "bad.wav", f"model={model}", f"output_dir={tmp_path / 'out'}")
    assert (bad.code, "none of 1 clips could be predicted" in bad.stderr) == (1, True)
    assert "bad.wav" in (tmp_path / "out/failures.csv").read_text()


@pytest.mark.ray
def test_a_killed_job_is_continued_by_workers_with_the_rows_of_this_process(
    run_job, model, tmp_path, monkeypatch
):
    """A job in its own process is killed; the next one lets Ray's workers go on; next to it a job without Ray."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "platform"))  # workers import what this process does
    media = tmp_path / "media"
    for number in range(70):
        noise = 0.02 * np.random.default_rng(number).normal(size=4000)
        write_wav(media / f"wav/c{number:02d}.wav", tone(150 + 5 * number, 0.25, amplitude=0.4) + noise)
        if number % 3:
            write_mp4(media / f"mp4/c{number:02d}.mp4", moving_square(5, side=64, seed=number))
    (media / "wav/c07.wav").write_bytes(b"broken")
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    words = [f"model={model}", "conditions=[audio_video,audio,video]"]
    log = tmp_path / "killed.log"
    with log.open("w") as stream:
        command = [sys.executable, str(ROOT / "jobs/predict_clips.py"), str(media), *words, "workers=0"]
        job = subprocess.Popen([*command, f"output_dir={killed}"], cwd=ROOT, stdout=stream, stderr=stream)
    end = time.monotonic() + 120
    while not list((killed / "parts").glob("*.parquet")):
        assert job.poll() is None, log.read_text()
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.005)
    os.kill(job.pid, signal.SIGKILL)
    job.wait()
    assert not (killed / "predictions.parquet").exists()

    alone = run_job("predict_clips", media, *words, "workers=0", f"output_dir={whole}")
    assert alone.code == 0, alone.stderr
    done = run_job("predict_clips", media, *words, "workers=2", f"output_dir={killed}")
    assert done.code == 0, done.stderr
    assert "Ray workers, 1 CPU each" in done.stderr
    summary = read_json(killed / "summary.json")
    assert summary["kept"] >= 31
    assert summary["kept"] + summary["worked_on"] == 70
    by_ray, here = (pq.read_table(folder / "predictions.parquet") for folder in (killed, whole))
    assert len(here) == 70 + 2 * 45  # a clip lost its sound
    numbers = [name for name in here.column_names if name.startswith("probability_")]
    assert by_ray.drop_columns(numbers).equals(here.drop_columns(numbers))
    for name in numbers:
        np.testing.assert_allclose(by_ray[name].to_numpy(), here[name].to_numpy(), atol=1e-6)

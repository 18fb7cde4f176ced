"""The job predict_clips: what it leaves, what it says, and a kill in the middle that Ray's workers continue."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from media_model import write_media_model
from own_process import ROOT, start_job
from rendered_media import moving_square, tone, write_mp4, write_wav

from vavl.config.files import read_json

SUMMARY_KEYS = {
    "input", "clips", "predicted", "failed", "one_side", "failed_by_reason", "conditions", "labels", "kept",
    "worked_on", "seconds", "clips_per_second", "unavailable", "left_out", "model", "files",
}  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_media_model(tmp_path_factory.mktemp("run") / "best").parent


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    folder = tmp_path_factory.mktemp("film")
    return write_mp4(folder / "ein Film.mp4", moving_square(20, side=64), sound=tone(220, 0.8, amplitude=0.3))


def test_a_person_with_a_file_gets_a_table_and_a_timeline(run_job, film, model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = run_job("predict_clips", film, f"model={model}", "timeline=true", "windows.thumbnails=2")
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
    run_job("predict_clips", folder / "config.yaml")
    assert read_json(folder / "summary.json")["kept"] == 1


def test_a_dry_run_says_what_it_found_and_starts_nothing(run_job, film, model, tmp_path):
    done = run_job("predict_clips", film.parent, f"model={model}", f"output_dir={tmp_path / 'out'}", "--dry-run")
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
def test_wrong_settings_are_exit_code_2(refused, film, model, tmp_path, words, problem):
    given = [word.format(model=model) for word in words]
    refused("predict_clips", film, *given, f"output_dir={tmp_path}", "--dry-run", message=problem)


def test_a_file_that_is_not_there_is_exit_code_2_and_only_failures_are_1(run_job, model, tmp_path):
    missing = run_job("predict_clips", tmp_path / "missing.mp4", f"model={model}", code=2)
    assert "no such directory or file" in missing.stderr
    (tmp_path / "bad.wav").write_bytes(b"bad")
    bad = run_job("predict_clips", tmp_path / "bad.wav", f"model={model}", f"output_dir={tmp_path / 'out'}", code=1)
    assert "none of 1 clips could be predicted" in bad.stderr
    assert "bad.wav" in (tmp_path / "out/failures.csv").read_text()


@pytest.mark.ray
def test_a_killed_job_is_continued_by_workers_with_the_rows_of_this_process(run_job, model, tmp_path, monkeypatch):
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
    job = start_job("predict_clips", media, *words, "workers=0", f"output_dir={killed}", log=log, cwd=ROOT)
    job.wait_until(lambda: list((killed / "parts").glob("*.parquet")))
    job.kill()
    assert not (killed / "predictions.parquet").exists()

    run_job("predict_clips", media, *words, "workers=0", f"output_dir={whole}")
    done = run_job("predict_clips", media, *words, "workers=2", f"output_dir={killed}")
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


def make_traps(media: Path, outside: Path) -> dict[str, str]:
    """Put everything into a directory that is no file; return clip -> its reason."""
    os.mkfifo(media / "pipe.wav")
    os.mkfifo(media / "half.wav")  # its video is fine
    (media / "loop.wav").symlink_to("loop.wav")
    (media / "zero.mp4").symlink_to("/dev/zero")
    (media / "gone.flac").symlink_to("nowhere.flac")
    (media / "folder.wav").mkdir()
    (media / "out.wav").symlink_to(outside)
    Path(os.fsdecode(os.fsencode(media) + b"/\xff\xe9.wav")).write_bytes(b"x")
    with socket.socket(socket.AF_UNIX) as listening:
        os.chdir(media)  # the path of a socket is short
        listening.bind("socket.mp3")
    return {
        "pipe": "audio: not a regular file",
        "loop": "audio: a link that leads to itself",
        "zero": "video: a link out of the input directory, to /dev/zero",
        "gone": "audio: the file does not exist",
        "folder": "audio: not a regular file",
        "out": f"audio: a link out of the input directory, to {outside}",
        r"\udcff\udce9.wav": "the name is not UTF-8: rename the file",
        "socket": "audio: not a regular file",
    }


def test_whatever_lies_in_a_directory_gets_its_row_and_stops_nothing(run_job, model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    media, outside = tmp_path / "media", tmp_path / "outside.wav"
    write_wav(outside, tone(220, 0.3, amplitude=0.3))
    write_wav(media / "good.wav", tone(220, 0.3, amplitude=0.3))
    write_wav(media / "holds.wav/inner.wav", tone(220, 0.3, amplitude=0.3))
    write_mp4(media / "half.mp4", moving_square(7, side=64))
    reasons = make_traps(media, outside)
    out = tmp_path / "out"
    words = [f"model={model}", f"output_dir={out}", "workers=0", "seconds_per_clip=20"]
    run_job("predict_clips", media, *words)
    rows = {row["clip_id"]: row for row in pq.read_table(out / "predictions.parquet").to_pylist()}
    predicted = {clip_id for clip_id, row in rows.items() if row["condition"] is not None}
    assert predicted == {"good", "half", "holds.wav/inner"}
    assert {name: rows[name]["error"] for name in reasons} == reasons
    assert rows["half"]["error"] == "audio: not a regular file"
    assert set(rows) == predicted | set(reasons)
    run_job("predict_clips", media, *words, f"root={tmp_path}", "retry_failed=true")
    rows = {row["clip_id"]: row for row in pq.read_table(out / "predictions.parquet").to_pylist()}
    assert (rows["out"]["error"], rows["out"]["condition"]) == (None, "audio")


def test_whatever_a_table_names_gets_its_row_too(run_job, model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    media, outside = tmp_path / "media", tmp_path / "outside.wav"
    write_wav(outside, tone(220, 0.3, amplitude=0.3))
    write_wav(media / "good.wav", tone(220, 0.3, amplitude=0.3))
    reasons = {name: reason for name, reason in make_traps(media, outside).items() if "udc" not in name}
    files = {path.stem: path.name for path in media.iterdir() if path.stem in reasons or path.stem == "good"}
    lines = [f"{name},,{file}" if file.endswith(".mp4") else f"{name},{file}," for name, file in files.items()]
    (media / "clips.csv").write_text("\n".join(["clip_id,audio_path,video_path", *lines]))
    run_job("predict_clips", media / "clips.csv", f"model={model}", f"output_dir={tmp_path / 'out'}")
    rows = {row["clip_id"]: row for row in pq.read_table(tmp_path / "out/predictions.parquet").to_pylist()}
    assert rows["good"]["error"] is None
    assert {name: rows[name]["error"] for name in reasons} == reasons


def test_a_file_without_the_right_to_read_it_gets_its_row(run_job, model, tmp_path, monkeypatch):
    media = tmp_path / "media"
    for name in ("good", "locked"):
        write_wav(media / f"{name}.wav", tone(220, 0.3, amplitude=0.3))
    real = os.access  # the superuser may read everything
    monkeypatch.setattr(os, "access", lambda path, mode: "locked" not in str(path) and real(path, mode))
    run_job("predict_clips", media, f"model={model}", f"output_dir={tmp_path / 'out'}", "workers=0")
    rows = {row["clip_id"]: row for row in pq.read_table(tmp_path / "out/predictions.parquet").to_pylist()}
    assert rows["good"]["error"] is None
    assert rows["locked"]["error"] == "audio: cannot be read: permission denied"


def test_an_input_whose_name_is_no_text_is_named(run_job, model, tmp_path):
    media = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
    media.mkdir()
    done = run_job("predict_clips", media, f"model={model}", f"output_dir={tmp_path / 'out'}", code=2)
    assert "the name is not UTF-8" in done.stderr

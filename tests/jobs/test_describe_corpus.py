"""The job describe_corpus: from a directory of media to a card that prepare_corpus takes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rendered_media import moving_square, tone, write_mp4
from small_media_corpus import write_small_corpus

from vavl.config.files import read_json
from vavl.corpora.card import read_card
from vavl.store.store import FeatureStore

RunJob = Callable[..., Any]


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    write_small_corpus(folder, takes=2)
    return folder / "media"


def test_the_proposal_prepares_the_corpus(run_job: RunJob, media: Path, tmp_path: Path) -> None:
    done = run_job("describe_corpus", media, f"output_dir={tmp_path}", "name=tiny_found")
    folder = tmp_path / "tiny_found"
    assert f"next: answer the DECIDE lines of the card, then python jobs/prepare_corpus.py {folder}" in done.stdout
    summary = read_json(folder / "summary.json")
    assert summary["valid"]
    assert (summary["clips"], summary["paired_clips"], summary["speakers"]) == (24, 24, 6)
    assert (summary["frame_rates_hz"], summary["sample_rates_hz"]) == ({"25": 24}, {"16000": 24})
    assert summary["unreadable"] == []
    page = (folder / "description.html").read_text()
    assert page.count("data:image/svg+xml") == 2  # contact sheet and lengths
    assert "(?P&lt;clip&gt;" in page
    assert read_card(folder / "card.yaml").name == "tiny_found"

    words = (folder / "prepare.yaml", f"output_dir={tmp_path / 'store'}", "workers=0")
    refused = run_job("prepare_corpus", *words, code=2)
    lines = (folder / "card.yaml").read_text().splitlines(keepends=True)
    for number, line in enumerate(lines, start=1):
        assert (f"line {number}: " in refused.stderr) == line.startswith("# DECIDE: ")
    assert not (tmp_path / "store").exists()

    decided = [line for line in lines if not line.startswith("# DECIDE: ")]
    (folder / "card.yaml").write_text("".join(decided))
    run_job("prepare_corpus", *words)
    assert FeatureStore.open(tmp_path / "store").info["video"].clips == 24


def test_files_with_sound_and_pictures_in_folders_of_classes(run_job: RunJob, tmp_path: Path) -> None:
    for emotion in ("happy", "sad", "angry"):
        for number in range(3):
            path = tmp_path / "clips" / emotion / f"IMG_{number}.mp4"
            write_mp4(path, moving_square(3, side=64), sound=tone(200, 0.12))
    (tmp_path / "clips" / "sad" / "IMG_9.mp4").write_bytes(b"not a video")
    run_job("describe_corpus", tmp_path / "clips", f"output_dir={tmp_path / 'out'}")
    summary = read_json(tmp_path / "out" / "clips" / "summary.json")
    assert (summary["clips"], summary["paired_clips"]) == (10, 10)
    assert summary["classes"] == ["angry", "happy", "sad"]
    assert [entry["file"] for entry in summary["unreadable"]] == ["sad/IMG_9.mp4"]
    card = read_card(tmp_path / "out" / "clips" / "card.yaml")
    assert card.audio is not None
    assert card.audio.model_dump()["pattern"] == card.video.model_dump()["pattern"]  # type: ignore[union-attr]


def test_a_proposal_is_not_replaced_unless_that_is_said(run_job: RunJob, media: Path, tmp_path: Path) -> None:
    words = ("describe_corpus", media, f"output_dir={tmp_path}", "pictured_clips=0", "probed_files=0")
    run_job(*words)
    card = tmp_path / "media" / "card.yaml"
    card.write_text("# mine\n")
    again = run_job(*words, code=2)
    assert "say overwrite=true" in again.stderr
    assert card.read_text() == "# mine\n"
    run_job(*words, "overwrite=true")
    assert card.read_text().startswith("# Proposed by")


def test_a_folder_that_is_none_or_empty_is_refused(run_job: RunJob, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name, problem in (("missing", "cannot be read"), ("empty", "no audio or video file")):
        done = run_job("describe_corpus", tmp_path / name, f"output_dir={tmp_path / 'out'}", code=2)
        assert problem in done.stderr


def test_a_card_that_cannot_work_is_written_and_told(run_job: RunJob, tmp_path: Path) -> None:
    for speaker in ("f01", "m01"):
        for take in range(3):
            path = tmp_path / "two" / f"{speaker}_happy_{take}.mp4"
            write_mp4(path, moving_square(3, side=64))
    done = run_job("describe_corpus", tmp_path / "two", f"output_dir={tmp_path / 'out'}", code=2)
    assert "the proposed card does not work yet" in done.stderr
    assert (tmp_path / "out" / "two" / "card.yaml").exists()
    assert not read_json(tmp_path / "out" / "two" / "summary.json")["valid"]

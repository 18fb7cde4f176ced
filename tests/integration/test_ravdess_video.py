"""Real recordings with pixels: prepare, look at faces, train a tiny run, predict; and silent tracks as published."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from tiny_plans import own_tracking, write_small_training

from vavl.config.files import read_json
from vavl.media.sound import read_audio

ROOT_VARIABLE = "RAVDESS_VIDEO_ROOT"
FIELDS = r"(?P<clip>01-(?P<emotion>\d\d)-\d\d-(?P<take>\d\d-\d\d)-05)"
CARD = {
    "name": "ravdess_video",
    "title": "RAVDESS recordings of one actor; a take stands for a speaker, so no score means anything",
    "licence": "CC BY-NC-SA 4.0",
    "citation": "Livingstone and Russo 2018",
    "obtain": "https://zenodo.org/records/1188976",
    "root_environment_variable": ROOT_VARIABLE,
    "classes": ["calm", "aroused"],
    "audio": {"pattern": f"(?:av/01|video_only/02)-{FIELDS}", "suffixes": [".mp4"]},
    "video": {"source": "files", "pattern": f"(?:av/01|video_only/02)-{FIELDS}", "suffixes": [".mp4"]},
    "speaker": {"group": "take"},
    "labels": {
        "intended": {
            "source": "pattern", "target": "arousal of the intended emotion", "group": "emotion",
            "map": {"01": "calm", "03": "aroused", "04": "calm", "06": "aroused", "08": "aroused"},
        }
    },
    "splits": {
        "protocol": "takes",
        "folds": {"source": "list", "test_speakers": {0: ["02-02"]}},
        "validation_speakers": 1,
        "untested_speakers": "train",
    },
    "expected": {"clips": 14, "speakers": 4},
}  # fmt: skip


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Return a directory with the recordings that have sound, and the two published without, under other names."""
    given = os.environ.get(ROOT_VARIABLE)
    if given is None:
        pytest.skip(f"{ROOT_VARIABLE} is not set")
    media = tmp_path / "media"
    shutil.copytree(Path(given) / "av", media / "av")
    (media / "video_only").mkdir()
    for path in (Path(given) / "video_only").iterdir():
        (media / "av" / path.name.replace("02-", "01-", 1)).unlink()  # the same performance, with sound
        shutil.copy(path, media / "video_only")
    (tmp_path / "card.yaml").write_text(yaml.safe_dump(CARD))
    return tmp_path


@pytest.mark.realdata
@pytest.mark.realmodel
def test_real_recordings_go_all_the_way(corpus: Path, run_job: Callable[..., Any], tracking_database: Path) -> None:
    if "YUNET_ONNX" not in os.environ:
        pytest.skip("YUNET_ONNX is not set")
    config = corpus / "prepare.yaml"
    faces = {"detector": "yunet", "yunet_model": os.environ["YUNET_ONNX"]}
    content = {
        "output_dir": str(corpus / "store"), "card": str(corpus / "card.yaml"), "root": str(corpus / "media"),
        "workers": 0, "faces_preview": 2, "features": {"video": {"faces": faces, "frame_rate_hz": 5}},
    }  # fmt: skip
    config.write_text(yaml.safe_dump(content))
    run_job("prepare_corpus", config)
    summary = read_json(corpus / "store/summary.json")
    assert summary["face_share"] >= 0.99
    assert summary["without_signal"] == {"audio": 2}
    assert (summary["audio_clips"], summary["video_clips"], summary["quarantined"]) == (12, 14, 0)
    assert (corpus / "store/faces.png").stat().st_size > 10_000

    train = write_small_training(
        corpus / "train.yaml",
        corpus / "store",
        output_dir=str(corpus / "run"),
        data={"store": str(corpus / "store"), "composition": {"batch_size": 4}},
        training={"launcher": "in_process", "engine": "torch", "max_epochs": 1},
        tracking=own_tracking(corpus, tracking_database),
    )
    run_job("train_model", train)

    run_job(
        "predict_clips",
        corpus / "media",
        f"model={corpus / 'run'}",
        f"output_dir={corpus / 'predictions'}",
        "workers=0",
    )
    table = pd.read_parquet(corpus / "predictions/predictions.parquet").set_index("clip_id")
    assert len(table) == 14
    silent = table.index.str.startswith("video_only")
    assert set(table[silent]["condition"]) == {"video"}
    assert set(table[~silent]["condition"]) == {"audio_video"}


@pytest.mark.realdata
def test_the_sound_of_a_recording_is_the_published_sound_a_picture_later(corpus: Path) -> None:
    published = os.environ.get("RAVDESS_ROOT")
    if published is None:
        pytest.skip("RAVDESS_ROOT is not set")
    film = read_audio(corpus / "media/av/01-01-06-01-01-01-05.mp4", 16_000)
    (own,) = Path(published).rglob("03-01-06-01-01-01-05.*")
    sound = read_audio(own, 16_000)
    late = round(16_000 / 29.97)
    length = min(len(sound), len(film) - late)
    assert np.corrcoef(film[late : late + length], sound[:length])[0, 1] > 0.95

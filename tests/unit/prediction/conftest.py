"""A directory of clips of every kind, a model that reads them, and predictions of it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from media_model import write_media_model
from rendered_media import moving_square, tone, write_mp4, write_wav

from vavl.prediction.plan import plan_prediction
from vavl.prediction.predict import PredictionResult, predict_clips
from vavl.prediction.results import result_table
from vavl.prediction.settings import PredictionSettings

UNICODE = "été 雨/Ünï_ё 🙂"


def sound(number: int) -> np.ndarray:
    noise = 0.02 * np.random.default_rng(number).normal(size=4800)
    return tone(180 + 40 * number, 0.3, amplitude=0.4) + noise


@pytest.fixture(scope="session")
def made_media(tmp_path_factory):
    folder = tmp_path_factory.mktemp("media")
    for number, name in enumerate(("pair", UNICODE)):
        write_wav(folder / f"{name}.wav", sound(number))
        write_mp4(folder / f"{name}.mp4", moving_square(7, side=64, seed=number))
    write_wav(folder / "only_heard.flac", sound(2))
    write_mp4(folder / "only_seen.mp4", moving_square(7, side=64, seed=3))
    write_mp4(folder / "film.mp4", moving_square(7, side=64, seed=4), sound=sound(4))
    write_wav(folder / "half.wav", sound(5))
    (folder / "half.mp4").write_bytes(b"no video at all")
    (folder / "broken.wav").write_bytes(b"RIFF")
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "notes.txt").write_text("no media")
    return folder


@pytest.fixture
def media(made_media, tmp_path):
    """A copy of the directory that a test may change."""
    return Path(shutil.copytree(made_media, tmp_path / "media"))


@pytest.fixture(scope="session")
def media_model(tmp_path_factory):
    return write_media_model(tmp_path_factory.mktemp("model"))


Predict = Callable[..., PredictionResult]


@pytest.fixture
def predict(media_model, tmp_path):
    """A function that predicts an input in this process, by default with the media model."""

    def run(place: Path | str, model: Path = media_model, **changes: Any) -> PredictionResult:
        settings = PredictionSettings.model_validate(
            {
                "input": place, "model": str(model), "output_dir": tmp_path / "out", "workers": 0,
                "clips_per_batch": 3, **changes,
            }
        )  # fmt: skip
        return predict_clips(plan_prediction(settings, model), settings)

    return run


@pytest.fixture
def rows_of_result():
    """A function that gives the rows of a result by clip and condition."""

    def rows(result: PredictionResult) -> dict[tuple[str, str | None], dict[str, Any]]:
        table = result_table(result).to_pylist()
        found = {(row["clip_id"], row["condition"]): row for row in table}
        assert len(found) == len(table)
        return found

    return rows

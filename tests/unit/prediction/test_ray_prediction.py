"""Workers of Ray: clips that end or block their process get a row that says so, all others are predicted."""

from __future__ import annotations

import numpy as np
import pytest
from deadly_clips import DeadlyClips
from media_model import MEDIA

from vavl.models.saved_model import load_model
from vavl.prediction.plan import PredictionPlan
from vavl.prediction.predict import predict_clips
from vavl.prediction.settings import PredictionSettings
from vavl.prediction.sources import ClipInput, ClipsFound

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("two_ray_workers")]

WIDTH = MEDIA["audio"].width


def test_clips_that_end_or_block_their_process_are_told_and_all_others_are_predicted(
    media_model, tmp_path, monkeypatch, rows_of_result
):
    monkeypatch.setattr("vavl.prediction.predict._CLIPS_OF_STORE", 3)
    names = ["a", "b_deadly", "c", "d", "e_hanging", "f", "g"]
    model = load_model(media_model)
    clips = [ClipInput(name, audio=f"{name}.wav") for name in names]
    plan = PredictionPlan(ClipsFound("folder", clips), DeadlyClips(WIDTH), media_model, model.description, None, {})
    settings = PredictionSettings.model_validate(
        {"input": tmp_path, "model": "m", "output_dir": tmp_path / "out", "workers": 2, "seconds_per_clip": 3}
    )
    rows = rows_of_result(predict_clips(plan, settings))
    assert "crash or out of memory" in rows["b_deadly", None]["error"]
    assert rows["e_hanging", None]["error"] == "takes longer than seconds_per_clip allows: 3 s"
    good = {name for name, condition in rows if condition == "audio"}
    assert good == set(names) - {"b_deadly", "e_hanging"}
    for name in good:
        values = [rows[name, "audio"][f"probability_{label}"] for label in model.classes]
        assert np.isclose(sum(values), 1, atol=1e-5)
    assert sorted(path.name for path in (tmp_path / "out/model").iterdir()) == ["model.json", "model.safetensors"]

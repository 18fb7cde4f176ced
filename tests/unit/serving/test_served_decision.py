"""Parameters of the registered model, and clips that are unlike those of its training run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from mlflow.exceptions import MlflowException
from served_models import CLASSES, served, values_of, write_model

from vavl.errors import ConfigError
from vavl.models.clips import TrainingProfile
from vavl.models.saved_model import load_model, save_model

COLUMNS = ["label", *(f"probability_{name}" for name in CLASSES), "condition", "error"]


def test_parameters_choose_labels_and_profiles_mark_clips(tmp_path: Path) -> None:
    """Parameters pass MLflow's signature; a model that knows its training clips says which ones are unlike them."""
    folder = write_model(tmp_path / "m", class_shares=(0.5, 0.25, 0.25))
    model = served(folder, tmp_path / "served")
    features = np.random.default_rng(3).normal(size=(5, 4)).astype(np.float32)
    table = pd.DataFrame({"audio_features": [features, None]})
    plain = model.predict(table)
    assert list(plain.columns) == COLUMNS
    p = values_of(plain)[0]
    answer = model.predict(table, params={"classes": ["joy", "anger"], "abstain_below": 0.999})
    np.testing.assert_allclose(values_of(answer)[0], [p[0] / p[:2].sum(), p[1] / p[:2].sum(), 0])
    assert answer["label"][0] is None
    assert answer["warning"][0].startswith("below confidence (0.")
    assert answer["error"][1].startswith("row: has neither audio nor video")
    shares = {"anger": 1.0, "joy": 1.0, "sadness": 1.0}
    weighted = p / [0.5, 0.25, 0.25]
    corrected = values_of(model.predict(table, params={"class_shares": shares}))[0]
    np.testing.assert_allclose(corrected, weighted / weighted.sum())
    with pytest.raises(ConfigError, match="did you mean 'joy'"):
        model.predict(table, params={"classes": ["jay", "anger"]})
    with pytest.raises(MlflowException, match="no_class"):
        model.predict(table, params={"class_shares": {"no_class": 1.0}})


def test_a_model_that_knows_its_training_clips_marks_others(tmp_path: Path) -> None:
    profile = TrainingProfile(frame_rate_hz=None, shortest_frames=5, longest_frames=9, far=0.5)
    folder = write_model(tmp_path / "m")
    description = load_model(folder).description
    marked = description.audio.model_copy(update={"profile": profile})
    save_model(folder, load_model(folder).network.state_dict(), description.model_copy(update={"audio": marked}))
    model = served(folder, tmp_path / "served")
    like = np.random.default_rng(3).normal(size=(5, 4)).astype(np.float32)
    answer = model.predict(
        pd.DataFrame({"audio_features": [like, like + 3, None], "video_features": [None, None, like]})
    )
    assert list(answer["out_of_distribution"]) == [False, True, None]
    assert list(answer.columns) == [*COLUMNS, "out_of_distribution", "distance", "warning"]
    assert answer["warning"][1].startswith("audio: features far from those of the training clips (")
    assert answer["error"].isna().all()

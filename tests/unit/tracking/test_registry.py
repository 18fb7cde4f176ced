"""The registered model: no pickle in it, optional columns, the same version for the same record."""

from __future__ import annotations

import json
import logging
import pickletools
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile
import yaml

from vavl.errors import TrackingError
from vavl.features.audio import audio_info, extract_audio
from vavl.features.audio_settings import AudioFeatureSettings
from vavl.models.saved_model import ClipFeatures, load_model
from vavl.models.settings import AttributeTask, ClassTask
from vavl.tracking.journal import Journal
from vavl.tracking.mlflow_writer import import_mlflow
from vavl.tracking.registry import save_served_model, serving_requirements
from vavl.tracking.replay import Replay
from vavl.tracking.settings import TrackingSettings

CLASSES = ("anger", "joy", "sadness")
AUDIO_WIDTH, VIDEO_WIDTH = 5, 4
MakeModelFolder = Callable[..., Path]


@pytest.fixture(scope="module")
def served_folder(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    import_mlflow()
    target = tmp_path_factory.mktemp("served") / "model"
    save_served_model(model_folder, target)
    return target


@pytest.fixture(scope="module")
def served(served_folder: Path) -> Any:
    import mlflow.pyfunc

    return mlflow.pyfunc.load_model(str(served_folder))


@pytest.fixture
def audio() -> np.ndarray[Any, Any]:
    return np.random.default_rng(1).normal(size=(7, AUDIO_WIDTH)).astype(np.float32)


@pytest.fixture
def video() -> np.ndarray[Any, Any]:
    return np.random.default_rng(2).normal(size=(6, VIDEO_WIDTH)).astype(np.float32)


def _is_pickle(file: Path) -> bool:
    content = file.read_bytes()
    if not content.startswith(b"\x80"):
        return False
    try:
        list(pickletools.genops(content))
    except (ValueError, IndexError):
        return False
    return True


def test_logged_model_holds_no_pickle(served_folder: Path) -> None:
    files = [file for file in served_folder.rglob("*") if file.is_file()]
    names = {file.relative_to(served_folder).as_posix() for file in files}
    assert {"MLmodel", "served_model.py", "code/vavl/models/vavl.py"} <= names
    assert any(name.endswith("model.safetensors") for name in names)
    suffixes = {file.suffix for file in files}
    assert suffixes <= {"", ".py", ".typed", ".json", ".safetensors", ".txt", ".yaml", ".css", ".md"}, (
        suffixes
    )
    assert not [file for file in files if _is_pickle(file)]
    flavor = yaml.safe_load((served_folder / "MLmodel").read_text())["flavors"]["python_function"]
    assert flavor["model_code_path"].endswith("served_model.py")
    assert "python_model" not in flavor


def test_requirements_name_versions_and_neither_ray_nor_deepspeed() -> None:
    lines = serving_requirements()
    assert any(line.startswith("torch==") for line in lines)
    assert all("==" in line and "+" not in line for line in lines)
    assert not [line for line in lines if line.split("==")[0] in {"ray", "deepspeed"}]


def test_columns_are_optional_and_rows_may_lack_a_modality(served: Any, audio: Any, video: Any) -> None:
    table = pd.DataFrame(
        {
            "audio_features": [audio.tolist(), audio.tolist(), None],
            "video_features": [video.tolist(), None, video.tolist()],
        }
    )
    answer = served.predict(table)
    assert list(answer["condition"]) == ["audio_video", "audio", "video"]
    assert list(answer.columns) == [
        "label",
        *(f"probability_{name}" for name in CLASSES),
        "condition",
        "error",
    ]
    probabilities = answer[[f"probability_{name}" for name in CLASSES]].to_numpy(dtype=float)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    assert [CLASSES[place] for place in probabilities.argmax(axis=1)] == list(answer["label"])
    assert answer["error"].isna().all()


def test_the_served_model_says_what_the_model_says(
    served: Any, model_folder: Path, audio: Any, video: Any
) -> None:
    answer = served.predict(pd.DataFrame({"audio_features": [audio.tolist()]}))
    (expected,) = load_model(model_folder).predict([ClipFeatures(audio=audio)])
    found = [answer[f"probability_{name}"][0] for name in CLASSES]
    np.testing.assert_allclose(found, expected.probabilities, rtol=1e-5)
    assert answer["label"][0] == expected.label


@pytest.mark.parametrize("absent", [None, float("nan"), ""])
def test_empty_cells_mean_absent(served: Any, audio: Any, absent: Any) -> None:
    table = pd.DataFrame(
        {"audio_features": [audio.tolist()], "video_features": [absent], "video_path": [None]}
    )
    assert served.predict(table)["condition"][0] == "audio"


def test_a_bad_row_tells_its_error_and_spares_the_others(served: Any, audio: Any, video: Any) -> None:
    table = pd.DataFrame(
        {
            "audio_features": [None, audio.tolist(), [[1.0, 2.0]], [["x"]]],
            "video_path": [None, None, None, None],
        }
    )
    answer = served.predict(table)
    assert answer["label"][1] in CLASSES
    assert list(answer["error"].isna()) == [False, True, False, False]
    assert "neither audio nor video" in answer["error"][0]
    assert "(frames, 5)" in answer["error"][2]
    assert "not a table (frame, channel) of numbers" in answer["error"][3]
    assert answer["label"][[0, 2, 3]].isna().all()


def test_media_files_are_read_with_the_extractor_of_the_model(
    tmp_path: Path, make_model_folder: MakeModelFolder
) -> None:
    import_mlflow()
    import mlflow.pyfunc

    settings = AudioFeatureSettings(mel_bands=AUDIO_WIDTH)
    info = audio_info(settings)
    provenance = {"extractor": info.extractor, "version": info.version, "settings": dict(info.settings)}
    folder = make_model_folder(tmp_path / "media", ClassTask(classes=CLASSES), provenance)
    save_served_model(folder, tmp_path / "served")
    sound = tmp_path / "sound.wav"
    soundfile.write(sound, np.random.default_rng(3).normal(scale=0.1, size=8000), 16000)
    features = extract_audio(sound, settings).values
    table = pd.DataFrame(
        {
            "audio_path": [str(sound), None, str(tmp_path / "none.wav"), None],
            "audio_features": [None, features.tolist(), None, None],
            "video_path": [None, None, None, "clip.mp4"],
        }
    )
    answer = mlflow.pyfunc.load_model(str(tmp_path / "served")).predict(table)
    columns = [f"probability_{name}" for name in CLASSES]
    np.testing.assert_allclose(answer[columns].iloc[0].astype(float), answer[columns].iloc[1].astype(float))
    assert "the file does not exist" in answer["error"][2]
    assert "cannot be computed from a media file" in answer["error"][3]


def test_array_cells_and_the_index_are_kept(served: Any, audio: Any) -> None:
    # A Parquet reader gives nested lists as an array of arrays.
    rows = np.empty(len(audio), dtype=object)
    rows[:] = list(audio)
    table = pd.DataFrame({"audio_features": [rows, audio.tolist()]}, index=["a", "b"])
    answer = served.predict(table)
    assert list(answer.index) == ["a", "b"]
    assert answer["error"].isna().all(), list(answer["error"])
    assert answer["label"]["a"] == answer["label"]["b"]


def test_attributes_become_columns(tmp_path: Path, audio: Any, make_model_folder: MakeModelFolder) -> None:
    import_mlflow()
    import mlflow.pyfunc

    folder = make_model_folder(tmp_path / "attributes", AttributeTask())
    save_served_model(folder, tmp_path / "served")
    answer = mlflow.pyfunc.load_model(str(tmp_path / "served")).predict(
        pd.DataFrame({"audio_features": [audio.tolist()]})
    )
    assert list(answer.columns) == ["label", "arousal", "valence", "dominance", "condition", "error"]
    assert answer["arousal"].notna().all()


def test_prediction_needs_neither_ray_nor_deepspeed_nor_the_installed_package(
    served_folder: Path, tmp_path: Path, audio: Any
) -> None:
    (tmp_path / "input.json").write_text(json.dumps(audio.tolist()))
    code = f"""
import json, sys, warnings
sys.path = [entry for entry in sys.path if not entry.endswith("platform")]
sys.modules["ray"] = sys.modules["deepspeed"] = None
sys.meta_path = [finder for finder in sys.meta_path if "editable" not in repr(finder).lower()]
import mlflow.pyfunc, pandas
model = mlflow.pyfunc.load_model({str(served_folder)!r})
features = json.load(open({str(tmp_path / "input.json")!r}))
answer = model.predict(pandas.DataFrame({{"audio_features": [features]}}))
import vavl
assert vavl.__file__.startswith({str(served_folder)!r}), vavl.__file__
print(answer["label"][0])
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] in CLASSES


def test_other_code_in_the_process_is_told(
    served_folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import mlflow.pyfunc

    monkeypatch.setattr("vavl.tracking.registry.code_hash", lambda package: "other")
    with caplog.at_level(logging.WARNING):
        mlflow.pyfunc.load_model(str(served_folder))
    assert "made with other code" in caplog.text


def test_no_model_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrackingError, match=r"model\.json: the file does not exist"):
        save_served_model(tmp_path, tmp_path / "served")


def test_a_journal_record_registers_one_version(
    model_folder: Path, tmp_path: Path, tracking: TrackingSettings, tracking_client: Any, audio: Any
) -> None:

    from vavl.tracking.replay_state import state_path

    journal = Journal(tmp_path / "journal.jsonl")
    name = f"vavl-{tmp_path.name}"
    journal.append("run_start", run_id="run", experiment=tracking.experiment)
    tags = {"config_hash": "abc", "test/audio_video/accuracy": 0.5, "label_target": "intended emotion"}
    shutil.copytree(model_folder, tmp_path / "best")
    journal.append("model", folder="best", name=name, tags=tags)
    journal.append("run_end", status="FINISHED", metrics={})
    replay = Replay(journal, tracking)
    assert replay.finish(60), replay.state
    assert (replay.state.model_name, replay.state.model_version) == (name, "1")

    state_path(journal.path).unlink()
    again = Replay(journal, tracking)
    assert again.finish(60)
    assert again.state.model_version == "1"
    (version,) = tracking_client.search_model_versions(f"name = '{name}'")
    assert version.run_id == replay.state.mlflow_run_id
    assert version.tags["config_hash"] == "abc"
    assert version.tags["label_target"] == "intended emotion"
    (output,) = tracking_client.get_run(version.run_id).outputs.model_outputs
    logged = tracking_client.get_logged_model(output.model_id)
    assert logged.status == "READY"
    assert tracking_client.get_model_version_download_uri(name, "1") == logged.artifact_location
    answer = _load_registered(tracking, name).predict(pd.DataFrame({"audio_features": [audio.tolist()]}))
    assert answer["label"][0] in CLASSES


def _load_registered(tracking: TrackingSettings, name: str) -> Any:
    import mlflow

    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(tracking.uri)
    try:
        return mlflow.pyfunc.load_model(f"models:/{name}/1")
    finally:
        mlflow.set_tracking_uri(before)

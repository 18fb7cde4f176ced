"""The registered model: no pickle in it, optional columns, the same version for the same record."""

from __future__ import annotations

import pickletools
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from served_models import CLASSES

from vavl.config.files import read_json
from vavl.errors import TrackingError
from vavl.extractors import image_network, opensmile_features, speech_transformer
from vavl.serving.registry import register_model, save_served_model, serving_requirements
from vavl.tracking.journal import Journal
from vavl.tracking.mlflow_writer import import_mlflow
from vavl.tracking.replayer import Replayer
from vavl.tracking.settings import TrackingSettings


def _is_pickle(file: Path) -> bool:
    """Say whether a file is a pickle, or an archive that may hold one as torch's files do."""
    content = file.read_bytes()
    if content.startswith((b"PK", b"\x1f\x8b")):
        return True
    try:
        # Pickles of protocol 0 and 1 have no magic bytes: whatever reads as one to its last byte is one.
        *_, last = pickletools.genops(content)
    except Exception:  # noqa: BLE001  pickletools raises whatever the bytes lead it to
        return False
    return last[0].name == "STOP" and last[2] == len(content) - 1


def test_the_look_for_pickles_finds_them(tmp_path: Path) -> None:
    import pickle

    import torch

    torch.save({"a": torch.zeros(1)}, tmp_path / "torch")
    for protocol in range(6):
        (tmp_path / str(protocol)).write_bytes(pickle.dumps({"a": [1, "b"]}, protocol))
    assert all(_is_pickle(file) for file in tmp_path.iterdir())
    assert not _is_pickle(Path(__file__))


def test_logged_model_holds_no_pickle(model_folder: Path, tmp_path: Path) -> None:
    import_mlflow()
    save_served_model(model_folder, tmp_path / "served")
    files = [file for file in (tmp_path / "served").rglob("*") if file.is_file()]
    names = {file.relative_to(tmp_path / "served").as_posix() for file in files}
    assert {"MLmodel", "served_model.py", "code/vavl/models/vavl.py"} <= names
    assert any(name.endswith("model.safetensors") for name in names)
    suffixes = {file.suffix for file in files}
    assert suffixes <= {"", ".py", ".typed", ".json", ".safetensors", ".txt", ".yaml", ".css", ".md"}
    assert not [file for file in files if _is_pickle(file)]
    assert not [name for name in names if "pkl" in name or "pickle" in name]
    description = yaml.safe_load((tmp_path / "served/MLmodel").read_text())
    flavor = description["flavors"]["python_function"]
    assert flavor["model_code_path"].endswith("served_model.py")
    assert "python_model" not in flavor
    assert '"required": false' in description["signature"]["inputs"]
    assert '"required": true' not in description["signature"]["inputs"]


def test_requirements_name_versions_and_neither_ray_nor_deepspeed(model_folder: Path) -> None:
    lines = serving_requirements(read_json(model_folder / "model.json"))
    assert any(line.startswith("torch==") for line in lines)
    assert all("==" in line and "+" not in line for line in lines)
    assert not [line for line in lines if line.split("==")[0] in {"ray", "deepspeed", "transformers"}]


@pytest.mark.parametrize(
    ("extractor", "package"),
    [
        (speech_transformer.NAME, "transformers"),
        (image_network.NAME, "transformers"),
        (opensmile_features.NAME, "opensmile"),
    ],
)
def test_requirements_follow_the_extractors(model_folder: Path, extractor: str, package: str) -> None:
    model = read_json(model_folder / "model.json")
    model["audio"]["extractor"]["extractor"] = extractor
    assert [line.split("==")[0] for line in serving_requirements(model)].count(package) == 1
    parts = [{"extractor": "log_mel"}, {"extractor": extractor}]
    model["audio"]["extractor"] = {"extractor": f"log_mel+{extractor}", "settings": {"parts": parts}}
    assert [line.split("==")[0] for line in serving_requirements(model)].count(package) == 1


def test_no_model_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrackingError, match=r"model\.json: the file does not exist"):
        save_served_model(tmp_path, tmp_path / "served")


def test_a_journal_record_registers_one_version(
    model_folder: Path, tmp_path: Path, tracking: TrackingSettings, tracking_client: Any
) -> None:
    from vavl.tracking.records import state_path

    journal = Journal(tmp_path / "journal.jsonl")
    name = f"vavl-{tmp_path.name}"
    journal.append("run_start", run_id="run", experiment=tracking.experiment)
    tags = {"config_hash": "abc", "test/audio_video/accuracy": 0.5, "label_target": "intended emotion"}
    shutil.copytree(model_folder, tmp_path / "best")
    journal.append("model", folder="best", name=name, tags=tags)
    journal.append("run_end", status="FINISHED", metrics={})
    replay = Replayer([journal], tracking, register_model)
    assert replay.finish(60), replay.state
    assert (replay.state.model_name, replay.state.model_version) == (name, "1")

    state_path(journal.path).unlink()
    again = Replayer([journal], tracking, register_model)
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
    answer = _load_registered(tracking, name).predict(pd.DataFrame({"audio_features": [[[0.5] * 4]]}))
    assert answer["label"][0] in CLASSES


def _load_registered(tracking: TrackingSettings, name: str) -> Any:
    import mlflow

    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(tracking.uri)
    try:
        return mlflow.pyfunc.load_model(f"models:/{name}/1")
    finally:
        mlflow.set_tracking_uri(before)

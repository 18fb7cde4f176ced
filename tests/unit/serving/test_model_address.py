"""One text names a model: a registered version, an alias, or one of several kinds of directory."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tracking_fixtures import open_registry

from vavl.errors import InputError, TrackingError
from vavl.models.saved_model import load_model
from vavl.serving.model_address import resolve_model
from vavl.serving.registry import register_model, save_served_model
from vavl.tracking.holdings import ModelNote
from vavl.tracking.settings import TrackingSettings


@pytest.fixture(scope="module")
def registry(tracking_database: Path, model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Settings of a store with two versions of one model, the first under an alias."""
    folder = tmp_path_factory.mktemp("registry")
    uri, client, run = open_registry(tracking_database, folder)
    other = Path(shutil.copytree(model_folder, folder / "other"))
    (other / "note.txt").write_text("other files")
    for number, files in enumerate((model_folder, other), 1):
        register_model(client, run, ModelNote(files, "vavl-test", f"record {number}", {"fold": number}))
    client.set_registered_model_alias("vavl-test", "champion", "1")
    return TrackingSettings(uri=uri), run


@pytest.mark.parametrize(("address", "version"), [("models:/vavl-test/2", "2"), ("models:/vavl-test@champion", "1")])
def test_a_registered_model_is_found_by_version_and_alias(registry: Any, address: str, version: str) -> None:
    tracking, run = registry
    found = resolve_model(address, tracking)
    assert (found.name, found.version, found.mlflow_run_id) == ("vavl-test", version, run)
    assert found.tags["fold"] == version
    assert str(found.model_id) in {part for part in found.directory.parts if part.startswith("m-")}
    assert found.title == f"vavl-test version {version}"
    assert load_model(found.directory).classes == ("anger", "joy", "sadness")


def test_folders_of_a_model_a_run_and_a_downloaded_model_are_found(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VAVL_ROOT", str(tmp_path))
    shutil.copytree(model_folder, tmp_path / "run" / "best")
    save_served_model(model_folder, tmp_path / "served")
    for address, folder in (
        (str(model_folder), model_folder),
        ("run", tmp_path / "run" / "best"),
        ("served", tmp_path / "served" / "artifacts" / "model"),
    ):
        found = resolve_model(address, TrackingSettings())
        assert (found.directory, found.name, found.version) == (folder, None, None)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("models:/nobody/1", "there is no registered model nobody\n.*choose one of .*vavl-test"),
        ("models:/vavl-test/7", "has no version 7\n.*@champion, models:/vavl-test/2, models:/vavl-test/1"),
        ("models:/vavl-test@best", "has no alias best\n.*models:/vavl-test@champion"),
        ("models:/vavl-test", "is no address of a registered model"),
        ("no/such/folder", "there is no such directory"),
        (".", "holds no model.json"),
    ],
)
def test_an_address_that_leads_nowhere_says_what_there_is(
    registry: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message):
        resolve_model(address, registry[0])


def test_a_store_that_is_not_there_is_no_empty_one(tmp_path: Path) -> None:
    missing = tmp_path / "no.db"
    with pytest.raises(InputError, match="there is no tracking store"):
        resolve_model("models:/a/1", TrackingSettings(uri=f"sqlite:///{missing}"))
    assert not missing.exists()
    with pytest.raises(TrackingError, match="does not answer"):
        resolve_model("models:/a/1", TrackingSettings(uri="http://127.0.0.1:9"))


def test_a_database_that_is_damaged_is_named_in_one_line(registry: Any, tmp_path: Path) -> None:
    damaged = Path(shutil.copy(registry[0].uri.removeprefix("sqlite:///"), tmp_path / "damaged.db"))
    with damaged.open("r+b") as file:  # its first pages say that it is a database
        file.seek(4096)
        file.write(b"\xff" * 4096 * 20)
    with pytest.raises(TrackingError, match="the tracking store") as refusal:
        resolve_model("models:/vavl-test/1", TrackingSettings(uri=f"sqlite:///{damaged}"))
    assert refusal.value.problem.count("\n") == 0


def test_files_that_another_training_did_not_write_are_refused(
    registry: Any, tmp_path: Path, client_of: Callable[[TrackingSettings], Any]
) -> None:
    tracking, run = registry
    client = client_of(tracking)
    (tmp_path / "MLmodel").write_text("{}")
    client.create_registered_model("foreign")
    client.create_model_version("foreign", source=tmp_path.as_uri(), run_id=run)
    with pytest.raises(InputError, match=r"foreign version 1: holds no model\.json and no model\.safetensors"):
        resolve_model("models:/foreign/1", tracking)

"""A registered model that is not what was registered is refused on every way to a prediction."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import pytest
from served_models import served, write_model
from tracking_fixtures import open_registry

from vavl.errors import InputError
from vavl.serving.model_address import resolve_model
from vavl.serving.registry import register_model, save_served_model
from vavl.serving.served_code import ACCEPT_VARIABLE, CHECKSUMS_FILE, CHECKSUMS_TAG
from vavl.tracking.holdings import FILES_TAG, ModelNote
from vavl.tracking.settings import TrackingSettings

pytestmark = pytest.mark.promise

NAME = "vavl-kept"


@dataclass(frozen=True)
class Registry:
    """A store with one registered version, and where its files and those of another model lie."""

    tracking: TrackingSettings
    client: Any
    model: Path
    files: Path
    other: Path

    def resolve(self) -> Path:
        """Find the model as evaluation, prediction and promotion do."""
        return resolve_model(f"models:/{NAME}/1", self.tracking).directory

    def load(self) -> Any:
        """Load the model as MLflow's users do."""
        before = mlflow.get_tracking_uri()
        mlflow.set_tracking_uri(self.tracking.uri)
        try:
            return mlflow.pyfunc.load_model(f"models:/{NAME}/1")
        finally:
            mlflow.set_tracking_uri(before)


@pytest.fixture(scope="module")
def made(tracking_database: Path, model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Registry:
    folder = tmp_path_factory.mktemp("registry")
    uri, client, run = open_registry(tracking_database, folder)
    register_model(client, run, ModelNote(model_folder, NAME, "record"))
    logged = client.get_model_version_download_uri(NAME, "1").removeprefix("file://")
    save_served_model(write_model(folder / "others_best", spread=0.5), folder / "other")
    return Registry(TrackingSettings(uri=uri), client, model_folder, Path(logged), folder / "other")


@pytest.fixture
def registry(made: Registry, tmp_path: Path) -> Iterator[Registry]:
    """The registry, made whole again after the test."""
    tags = made.client.get_model_version(NAME, "1").tags
    shutil.copytree(made.files, tmp_path / "kept")
    yield made
    shutil.rmtree(made.files)
    shutil.copytree(tmp_path / "kept", made.files)
    for key, value in tags.items():
        made.client.set_model_version_tag(NAME, "1", key, value)


def swap_class_names(registry: Registry) -> str:
    file = registry.files / "artifacts/model/model.json"
    content = json.loads(file.read_text())
    content["task"]["classes"].reverse()
    file.write_text(json.dumps(content))
    return r"artifacts/model/model\.json is changed"


def take_weights_of_another_model(registry: Registry) -> str:
    place = "artifacts/model/model.safetensors"
    shutil.copyfile(registry.other / place, registry.files / place)
    return r"artifacts/model/model\.safetensors is changed"


def take_both_files_of_another_model(registry: Registry) -> str:
    shutil.copytree(registry.other / "artifacts", registry.files / "artifacts", dirs_exist_ok=True)
    return r"model\.json is changed, artifacts/model/model\.safetensors is changed"


def take_files_and_checksums_of_another_model(registry: Registry) -> str:
    take_both_files_of_another_model(registry)
    shutil.copyfile(registry.other / CHECKSUMS_FILE, registry.files / CHECKSUMS_FILE)
    return "that of another model, or was changed|MLmodel is changed"


def change_code(registry: Registry) -> str:
    with (registry.files / "code/vavl/features.py").open("a") as file:
        file.write("\n# changed\n")
    return r"code/vavl/features\.py is changed"


def add_a_file(registry: Registry) -> str:
    (registry.files / "code/sitecustomize.py").write_text("")
    return r"code/sitecustomize\.py is added"


def add_a_link_to_a_directory(registry: Registry) -> str:
    (registry.files / "code/numpy").symlink_to(registry.other)
    return "code/numpy is added"


def remove_a_file(registry: Registry) -> str:
    (registry.files / "requirements.txt").unlink()
    return r"requirements\.txt is missing"


def remove_the_checksums(registry: Registry) -> str:
    (registry.files / CHECKSUMS_FILE).unlink()
    return r"checksums\.json is missing"


def spoil_the_checksums(registry: Registry) -> str:
    (registry.files / CHECKSUMS_FILE).write_text("[]\n")
    return r"checksums\.json is that of another model|holds no list"


CHANGES = [
    swap_class_names, take_weights_of_another_model, take_both_files_of_another_model,
    take_files_and_checksums_of_another_model, change_code, add_a_file, add_a_link_to_a_directory, remove_a_file,
    remove_the_checksums, spoil_the_checksums,
]  # fmt: skip


def test_an_unchanged_model_is_loaded_again_and_again(registry: Registry, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        for _ in range(2):  # MLflow and Python leave files of their own there
            registry.load()
            assert registry.resolve() == registry.files / "artifacts/model"
    assert (registry.files / "registered_model_meta").exists()
    assert "checksums" not in caplog.text


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_model_is_refused_by_name(
    registry: Registry, change: Callable[[Registry], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    message = change(registry)
    for way in (registry.resolve, registry.load):
        with pytest.raises(Exception, match=message) as refusal:
            way()
        assert ACCEPT_VARIABLE in str(refusal.value)
    if change is not remove_the_checksums:  # the directory alone has lost what it could be compared with
        with pytest.raises(InputError, match=message):
            resolve_model(str(registry.files), registry.tracking)
    monkeypatch.setenv(ACCEPT_VARIABLE, "yes")
    with pytest.raises(InputError, match=message):
        registry.resolve()


@pytest.mark.parametrize("change", [swap_class_names, take_files_and_checksums_of_another_model, change_code])
def test_a_changed_model_is_used_where_the_user_says_so(
    registry: Registry,
    change: Callable[[Registry], str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    change(registry)
    monkeypatch.setenv(ACCEPT_VARIABLE, "true")
    for way in (registry.resolve, registry.load):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            way()
        assert "is not what was registered" in caplog.text


def test_another_model_in_the_place_of_this_one_is_refused(registry: Registry) -> None:
    """Its files agree with each other: only the version, and the name of the place, tell."""
    run = registry.client.get_model_version(NAME, "1").run_id
    other = registry.other.parent / "others_best"
    register_model(registry.client, run, ModelNote(other, NAME, "another record"))
    logged = Path(registry.client.get_model_version_download_uri(NAME, "2").removeprefix("file://"))
    shutil.rmtree(registry.files)
    shutil.copytree(logged, registry.files)
    with pytest.raises(InputError, match=r"vavl-kept version 1.*checksums\.json is that of another model"):
        registry.resolve()
    with pytest.raises(InputError, match=f"the files of {logged.parts[-2]} lie in the place of"):
        registry.load()


def test_a_version_of_an_earlier_time_is_loaded_with_one_line(
    registry: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    registry.client.delete_model_version_tag(NAME, "1", CHECKSUMS_TAG)
    (registry.files / CHECKSUMS_FILE).unlink()
    with caplog.at_level(logging.WARNING):
        registry.resolve()
    assert not caplog.text  # the digest over both model files is older
    swap_class_names(registry)
    with pytest.raises(InputError, match="are not those of this version"):
        registry.resolve()
    registry.client.delete_model_version_tag(NAME, "1", FILES_TAG)
    with caplog.at_level(logging.WARNING):
        registry.resolve()
        assert [record.message for record in caplog.records] == [
            "vavl-kept version 1 was registered without checksums, its files are not checked"
        ]
        caplog.clear()
        resolve_model(str(registry.files), registry.tracking)
    assert len(caplog.records) == 1


def test_a_version_gets_a_lost_file_back_under_the_same_checksums(registry: Registry) -> None:
    tags = registry.client.get_model_version(NAME, "1").tags
    run = registry.client.get_model_version(NAME, "1").run_id
    (registry.files / "artifacts/model/model.safetensors").unlink()
    assert register_model(registry.client, run, ModelNote(registry.model, NAME, "record")) == "1"
    registry.resolve()
    assert registry.client.get_model_version(NAME, "1").tags == tags


def test_a_copied_model_is_checked_by_its_own_list(model_folder: Path, tmp_path: Path) -> None:
    served(model_folder, tmp_path / "served")
    copy = shutil.copytree(tmp_path / "served", tmp_path / "copy")
    assert mlflow.pyfunc.load_model(str(copy)) is not None
    (copy / "artifacts/model/more.txt").write_text("more")
    with pytest.raises(InputError, match=r"artifacts/model/more\.txt is added"):
        mlflow.pyfunc.load_model(str(copy))

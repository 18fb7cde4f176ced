"""Files of pretrained networks: found in a directory or the hub's cache; what is missing is named with its place."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError
from tiny_networks import PREPROCESSING, save_tiny

from vavl.config.files import sha256_of_file
from vavl.config.places import anchored
from vavl.errors import ConfigError
from vavl.extractors.pretrained import find_model
from vavl.extractors.settings import PretrainedModel

COMMIT = "0123456789" * 4
KEY = "features.video.backbone"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def empty_hub(tmp_path, monkeypatch):
    """Point the hub's cache to an empty directory and forbid its network."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def fill_hub(hub: Path, tiny: Path, names: list[str]) -> Path:
    """Lay files into the hub's cache as a download does."""
    folder = hub / "models--someone--tiny" / "snapshots" / COMMIT
    folder.mkdir(parents=True)
    for name in names:
        (folder / name).symlink_to(tiny / name)
    return folder


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({}, "either a directory or a name on the hub"),
        ({"folder": "a", "hub": "b/c", "revision": COMMIT}, "either a directory or a name on the hub"),
        ({"hub": "google/vit"}, "google/vit needs a revision"),
        ({"hub": "google/vit", "revision": "main"}, "should match pattern"),
        ({"hub": "../vit", "revision": COMMIT}, "should match pattern"),
        ({"folder": "a", "revision": COMMIT}, "belongs to a name on the hub"),
    ],
)
def test_settings_name_one_model_at_a_fixed_state(settings, problem):
    with pytest.raises(ValidationError, match=problem):
        PretrainedModel(**settings)


def test_a_folder_counts_from_the_root_of_results(tmp_path):
    assert anchored(PretrainedModel(folder="models/vit"), tmp_path).folder == tmp_path / "models/vit"


def test_a_folder_gives_its_files_with_their_hashes(tiny):
    files = find_model(PretrainedModel(folder=tiny), KEY)
    assert files.names == ("config.json", "model.safetensors", "preprocessor_config.json")
    assert files.sha256() == {name: sha256_of_file(tiny / name) for name in files.names}
    assert files.read_json("preprocessor_config.json") == PREPROCESSING


def test_a_file_that_changed_has_another_hash(tmp_path, tiny):
    for name in ("config.json", "model.safetensors", "preprocessor_config.json"):
        (tmp_path / name).write_bytes((tiny / name).read_bytes())
    files = find_model(PretrainedModel(folder=tmp_path), KEY)
    before = files.sha256()
    (tmp_path / "model.safetensors").write_bytes(b"other")
    assert files.sha256() != before


def test_sharded_weights_are_all_looked_for(tmp_path, tiny):
    for name in ("config.json", "preprocessor_config.json"):
        (tmp_path / name).write_bytes((tiny / name).read_bytes())
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    (tmp_path / "model-00001-of-00002.safetensors").write_bytes(b"a")
    with pytest.raises(ConfigError, match=r"model-00002-of-00002\.safetensors is missing"):
        find_model(PretrainedModel(folder=tmp_path), KEY)
    (tmp_path / "model-00002-of-00002.safetensors").write_bytes(b"b")
    assert len(find_model(PretrainedModel(folder=tmp_path), KEY).names) == 5


@pytest.mark.parametrize("index", ["[1]", "no", json.dumps({"weight_map": {"a": "../secret.safetensors"}})])
def test_an_index_that_is_broken_or_leads_out_is_refused(tmp_path, index):
    (tmp_path / "model.safetensors.index.json").write_text(index)
    with pytest.raises(ConfigError, match=r"weight_map: (not readable|names a file in another directory)"):
        find_model(PretrainedModel(folder=tmp_path), KEY)


def test_missing_folders_and_files_say_what_to_fill(tmp_path, tiny):
    with pytest.raises(ConfigError, match=r"absent does not exist\n.*fill it with config\.json, model\.safe"):
        find_model(PretrainedModel(folder=tmp_path / "absent"), KEY)
    with pytest.raises(ConfigError, match=r"config\.json is missing\n.*fill the directory with"):
        find_model(PretrainedModel(folder=tmp_path), KEY)
    with pytest.raises(ConfigError, match=r"vocab\.json is missing"):
        find_model(PretrainedModel(folder=tiny), KEY, also=("vocab.json",))


def test_pickled_weights_are_refused(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04")
    with pytest.raises(ConfigError, match=r"pickles \(\.bin\)"):
        find_model(PretrainedModel(folder=tmp_path), KEY)


def test_a_file_that_is_not_json_is_named(tmp_path, tiny):
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((tiny / name).read_bytes())
    (tmp_path / "preprocessor_config.json").write_text("[1, 2]")
    with pytest.raises(ConfigError, match=r"preprocessor_config\.json: does not hold a JSON object"):
        find_model(PretrainedModel(folder=tmp_path), KEY).read_json("preprocessor_config.json")


def test_the_hubs_cache_is_used_without_network(empty_hub, tiny):
    names = ["config.json", "model.safetensors", "preprocessor_config.json"]
    folder = fill_hub(empty_hub, tiny, names)
    files = find_model(PretrainedModel(hub="someone/tiny", revision=COMMIT), KEY)
    assert files.directory == folder.resolve()


@pytest.mark.parametrize("names", [[], ["config.json"]])
def test_without_network_the_error_says_which_folder_to_fill(empty_hub, tiny, names):
    if names:
        fill_hub(empty_hub, tiny, names)
    with pytest.raises(ConfigError) as refused:
        find_model(PretrainedModel(hub="someone/tiny", revision=COMMIT), KEY)
    assert "not on this machine and cannot be downloaded" in refused.value.problem
    assert f"hf download someone/tiny --revision {COMMIT} --local-dir DIRECTORY" in refused.value.fix
    assert f"{KEY}.folder" in refused.value.fix
    assert str(empty_hub / "models--someone--tiny") in refused.value.fix


def test_without_transformers_the_command_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ConfigError, match=r"\.\[backbones\]"):
        find_model(PretrainedModel(hub="someone/tiny", revision=COMMIT), KEY)

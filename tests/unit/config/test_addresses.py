"""An address of a store stays what it is; nothing secret gets into the settings."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from vavl.config.addresses import absolute_store
from vavl.config.load import read_config, save_config, validate
from vavl.data.settings import DataSettings
from vavl.errors import ConfigError


@pytest.mark.parametrize(
    "address", ["s3://bucket/stores/demo", "gs://b/s", "file:///data/store", "http://host:8000/s", "memory://x"]
)
def test_an_address_survives_settings_and_files(address: str, tmp_path: Path) -> None:
    settings = DataSettings(store=address)
    assert settings.store == address
    assert absolute_store(settings.store) == address
    save_config(settings, tmp_path / "saved.yaml")
    assert yaml.safe_load((tmp_path / "saved.yaml").read_text())["store"] == address
    assert read_config(DataSettings, tmp_path / "saved.yaml") == settings


def test_a_folder_is_a_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert DataSettings(store="runs/store").store == Path("runs/store")
    assert DataSettings(store=Path("a:/b")).store == Path("a:/b")
    assert absolute_store(Path("runs/store")) == tmp_path / "runs/store"
    assert DataSettings(store="s3://bucket/store/").store == "s3://bucket/store"


@pytest.mark.parametrize(
    ("place", "message"),
    [
        (Path("s3://bucket/store"), "lost a slash"),
        ("simple::s3://bucket/store", "neither a directory nor an address"),
        ("https://me:hunter2@host/store", "credentials by the environment"),
        ("https://host/store?X-Amz-Signature=hunter2", "credentials by the environment"),
    ],
)
def test_what_cannot_be_an_address_is_refused_and_no_secret_repeated(place: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        validate(DataSettings, {"store": place}, "train.yaml")
    assert "hunter2" not in str(caught.value)

"""Addresses of tracking stores."""

from __future__ import annotations

import subprocess
import sys

import pytest

from vavl.config.load import validate
from vavl.errors import ConfigError
from vavl.tracking.settings import TrackingPlace, TrackingSettings, TrackingTarget, tracking_place


def test_default_is_an_absolute_sqlite_file_and_artifact_folder(tmp_path):
    place = tracking_place(TrackingSettings(), {"VAVL_ROOT": str(tmp_path)})
    assert place.uri == f"sqlite:///{tmp_path}/runs/mlflow.db"
    assert place.database == tmp_path / "runs" / "mlflow.db"
    assert place.artifact_location == (tmp_path / "runs" / "mlartifacts").as_uri()
    assert "mlflow server" in place.show_command


def test_server_comes_from_the_environment_and_keeps_its_own_artifacts(tmp_path):
    place = tracking_place(TrackingSettings(), {"MLFLOW_TRACKING_URI": "https://host:5000", "VAVL_ROOT": str(tmp_path)})
    assert place == TrackingPlace("https://host:5000", None)
    assert place.database is None
    assert place.show_command == "https://host:5000"


def test_settings_win_over_the_environment_and_relative_places_become_absolute(tmp_path):
    settings = TrackingSettings(uri="sqlite:///my/runs.db", artifact_location="my/files")
    place = tracking_place(settings, {"MLFLOW_TRACKING_URI": "https://host", "VAVL_ROOT": str(tmp_path)})
    assert place.uri == f"sqlite:///{tmp_path}/my/runs.db"
    assert place.artifact_location == (tmp_path / "my" / "files").as_uri()
    assert tracking_place(TrackingSettings(artifact_location="s3://bucket"), {}).artifact_location == "s3://bucket"


def test_a_data_base_gets_a_folder_for_artifacts_and_its_address_stays_in_the_environment(tmp_path):
    address = "postgresql://me@host/data?password=secret"
    place = tracking_place(TrackingSettings(), {"MLFLOW_TRACKING_URI": address, "VAVL_ROOT": str(tmp_path)})
    assert place.uri == address
    assert place.artifact_location == (tmp_path / "runs" / "mlartifacts").as_uri()
    assert place.public_uri == "postgresql://host/data"
    assert "$MLFLOW_TRACKING_URI" in place.show_command
    with pytest.raises(ConfigError, match="MLFLOW_TRACKING_URI") as caught:
        validate(TrackingSettings, {"uri": address}, "train.yaml")
    assert "secret" not in str(caught.value)


def test_passwords_do_not_leave_the_address():
    place = TrackingPlace("https://me:secret@host:5000/path", None)
    assert place.public_uri == "https://host:5000/path"
    assert "secret" not in place.show_command


def test_reading_settings_imports_neither_mlflow_nor_torch():
    code = (
        "import sys, vavl.tracking.settings, vavl.tracking.journal, vavl.tracking.replay; "
        "sys.exit(bool({'mlflow', 'torch', 'pandas'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    "address",
    [
        "http://me:hunter2@server:5000", "https://server/mlflow?token=hunter2", "https://hunter2@server",
        "https://server?x=1&access_token=hunter2",
        "https://server#api_key=hunter2", "postgresql://me@host/data?sslpassword=hunter2", "s3://b/a?X-Sig=hunter2",
    ],
)  # fmt: skip
@pytest.mark.parametrize("key", ["uri", "artifact_location"])
def test_a_token_in_an_address_is_refused_and_not_repeated(address, key):
    with pytest.raises(ConfigError, match=r"MLFLOW_TRACKING_TOKEN.*MLFLOW_TRACKING_PASSWORD") as caught:
        validate(TrackingSettings, {key: address}, "train.yaml")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "address",
    ["postgresql://me@host/data?sslmode=require&sslkey=/keys/me", "https://server/signature", "sqlite:///a.db"],
)
def test_an_address_without_a_secret_is_taken(address):
    assert validate(TrackingSettings, {"uri": address}, "train.yaml").uri == address


def test_a_target_replaces_only_what_it_names():
    settings = TrackingSettings(uri="http://a", experiment="mine", request_retries=3)
    changed = TrackingTarget(uri="http://b", request_timeout_seconds=2).applied_to(settings)
    assert (changed.uri, changed.experiment, changed.request_retries) == ("http://b", "mine", 3)
    assert changed.request_timeout_seconds == 2
    assert TrackingTarget().applied_to(settings) == settings
    with pytest.raises(ConfigError, match="MLFLOW_TRACKING_PASSWORD"):
        validate(TrackingTarget, {"uri": "http://me:hunter2@server"}, "sync.yaml")

"""One SQLite tracking store per test session, whatever its processes: making its tables takes seconds."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from served_models import write_model

from vavl.tracking.settings import TrackingSettings


@pytest.fixture(scope="session")
def tracking_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file with MLflow's tables and nothing in them, to be copied."""
    from mlflow.tracking import MlflowClient

    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # that all processes of the session have
    database = folder / "mlflow.db"
    with FileLock(f"{database}.lock"):
        if not database.exists():
            part = database.with_suffix(".part")
            MlflowClient(f"sqlite:///{part}").search_experiments(max_results=1)
            part.rename(database)
    return database


def open_registry(tracking_database: Path, folder: Path) -> tuple[str, Any, str]:
    """Return address, client and a run of a registry of its own in a directory."""
    from vavl.tracking.mlflow_writer import import_mlflow

    import_mlflow()
    from mlflow.tracking import MlflowClient

    uri = f"sqlite:///{shutil.copy(tracking_database, folder / 'mlflow.db')}"
    client = MlflowClient(uri, registry_uri=uri)
    experiment = client.create_experiment("models", (folder / "artifacts").as_uri())
    return uri, client, client.create_run(experiment).info.run_id


@pytest.fixture(scope="session")
def shared_database(tracking_database: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The SQLite file that most tests write into."""
    return Path(shutil.copy(tracking_database, tmp_path_factory.mktemp("tracking") / "shared.db"))


@pytest.fixture
def tracking(
    shared_database: Path, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> TrackingSettings:
    """Settings of the shared store, with an experiment of the test's own and no system metrics."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    # Set through monkeypatch, so that what the writer sets for its process ends with the test.
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")
    monkeypatch.setenv("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    return TrackingSettings(
        uri=f"sqlite:///{shared_database}",
        artifact_location=str(tmp_path / "artifacts"),
        experiment=f"{request.node.name}-{tmp_path.name}",
        flush_seconds=0.05,
        system_metrics=False,
    )


@pytest.fixture
def private_tracking(tracking_database: Path, tmp_path: Path, tracking: TrackingSettings) -> TrackingSettings:
    """Settings of a store of the test's own, which it may lock or remove."""
    copy = tmp_path / "own.db"
    shutil.copy(tracking_database, copy)
    return tracking.model_copy(update={"uri": f"sqlite:///{copy}"})


@pytest.fixture
def client_of() -> Callable[[TrackingSettings], Any]:
    """A function that gives an MLflow client for some settings."""
    from mlflow.tracking import MlflowClient

    return lambda settings: MlflowClient(settings.uri, registry_uri=settings.uri)


@pytest.fixture
def tracking_client(tracking: TrackingSettings, client_of: Callable[[TrackingSettings], Any]) -> Any:
    """An MLflow client of the shared store."""
    return client_of(tracking)


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny untrained model of three classes, 4 channels on either modality."""
    return write_model(tmp_path_factory.mktemp("model") / "demo")

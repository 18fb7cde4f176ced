"""A tracking server as a team runs one: MLflow on PostgreSQL, artifacts by proxy, a study next to it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from mlflow_server import MlflowServer
from own_process import wait_until
from postgres_server import PostgresServer, reason_to_skip
from rival_promotion import champions_and_winners, make_models, race, reasons

from vavl.serving.model_address import resolve_model
from vavl.serving.registry import register_model
from vavl.tracking.journal import Journal
from vavl.tracking.mlflow_writer import open_client
from vavl.tracking.records import state_path
from vavl.tracking.replayer import Replayer
from vavl.tracking.settings import TrackingPlace, TrackingSettings, tracking_place

pytestmark = [
    pytest.mark.skipif(reason_to_skip() is not None, reason=str(reason_to_skip())),
    pytest.mark.promise,
]

SETTINGS = TrackingSettings(experiment="team", flush_seconds=0.05, system_metrics=False)


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    server = PostgresServer()
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="module")
def store(postgres: PostgresServer) -> str:
    """Address of MLflow's database, with its password."""
    return postgres.create_database("mlflow")


@pytest.fixture(scope="module")
def server(store: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    server = MlflowServer(tmp_path_factory.mktemp("server"), store=store)
    try:
        server.start()
        yield server
    finally:
        server.kill()


@pytest.fixture(scope="module")
def model_folder(trained: Callable[..., Any]) -> Path:
    """The model of a training run of an instant."""
    folder: Path = trained().folder
    return folder / "best"


@pytest.fixture
def over_http(server: MlflowServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> TrackingSettings:
    """Settings of a training run that knows the server by ``MLFLOW_TRACKING_URI`` alone."""
    server.start()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.address)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    monkeypatch.setenv("VAVL_STORE_CACHE", str(tmp_path / "cache"))
    return SETTINGS


@pytest.fixture
def client(over_http: TrackingSettings) -> Any:
    return open_client(over_http, tracking_place(over_http, os.environ))


def files_below(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


@pytest.mark.slow
def test_a_server_killed_in_the_middle_of_a_replay_loses_nothing(
    over_http: TrackingSettings,
    server: MlflowServer,
    client: Any,
    postgres: PostgresServer,
    model_folder: Path,
    tmp_path: Path,
) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    replay = Replayer([journal], over_http, register_model)
    replay.start()
    journal.append("run_start", run_id="run", experiment="team", config_yaml="a: 1\n", params={"a": 1})
    for step in range(1, 40):
        journal.append("step", step=step, metrics={"loss": 1 / step})
    wait_until(lambda: replay.state.seq >= 2)
    server.kill()
    for step in range(40, 81):
        journal.append("step", step=step, metrics={"loss": 1 / step})
    journal.append("model", folder=model_folder, name="team-model", tags={"corpus": "demo"})
    journal.append("artifact", path="journal.jsonl")
    journal.append("run_end", status="FINISHED")
    assert not replay.finish(1)
    server.start()
    assert Replayer([journal], over_http, register_model).finish(120)
    (run,) = client.search_runs([client.get_experiment_by_name("team").experiment_id])
    assert run.info.status == "FINISHED"
    points = client.get_metric_history(run.info.run_id, "loss")
    assert sorted((point.step, point.value) for point in points) == [(step, 1 / step) for step in range(1, 81)]
    assert run.info.artifact_uri.startswith("mlflow-artifacts:")
    assert {file.path for file in client.list_artifacts(run.info.run_id)} == {"config.yaml", "journal.jsonl"}
    (version,) = client.search_model_versions("name = 'team-model'")
    assert version.tags["corpus"] == "demo"
    said = [*files_below(tmp_path), *files_below(server.folder)]
    assert state_path(journal.path) in said
    assert server.folder / "server.log" in said
    assert not [path for path in said if postgres.password.encode() in path.read_bytes()]


def test_a_model_comes_back_through_the_proxy(
    over_http: TrackingSettings,
    server: MlflowServer,
    client: Any,
    model_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import mlflow

    journal = Journal(tmp_path / "journal.jsonl")
    journal.append("run_start", run_id="loaded", experiment="team", config_yaml="a: 1\n", params={})
    journal.append("model", folder=model_folder, name="loaded-model")
    journal.append("run_end", status="FINISHED")
    assert Replayer([journal], over_http, register_model).finish(120)
    client.set_registered_model_alias("loaded-model", "champion", "1")
    found = resolve_model("models:/loaded-model@champion", over_http)
    assert found.version == "1"
    for name in ("model.json", "model.safetensors"):
        assert (found.directory / name).read_bytes() == (model_folder / name).read_bytes()
    monkeypatch.chdir(tmp_path)
    mlflow.set_tracking_uri(server.address)
    try:
        served = mlflow.pyfunc.load_model("models:/loaded-model@champion")
    finally:
        mlflow.set_tracking_uri(None)
    frames = np.random.default_rng(0).normal(size=(6, 6)).tolist()
    answer = served.predict(pd.DataFrame({"audio_features": [frames], "video_features": [None]}))
    assert answer["condition"].tolist() == ["audio"]
    assert answer["error"].isna().all()


@pytest.mark.slow
def test_two_processes_cannot_both_win_behind_a_server(
    over_http: TrackingSettings, server: MlflowServer, store: str, tmp_path: Path
) -> None:
    # Versions without files: a server refuses to be told of them, its database takes them.
    direct = open_client(SETTINGS, TrackingPlace(store, None))
    models = [f"rivals-{number}" for number in range(6)]
    make_models(direct, models)
    said = race(server.address, models, tmp_path)
    champions, winners = champions_and_winners(direct, models, said)
    assert champions == winners  # one won at most
    assert all("is version" in text or "is being moved" in text for text in reasons(said)), said


def test_a_data_base_without_a_server_keeps_its_password_to_itself(
    store: str,
    postgres: PostgresServer,
    server: MlflowServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    monkeypatch.chdir(tmp_path)
    place = tracking_place(SETTINGS, os.environ)
    assert place.artifact_location == (tmp_path / "runs" / "mlartifacts").as_uri()
    settings = SETTINGS.model_copy(update={"experiment": "direct"})
    journal = Journal(tmp_path / "journal.jsonl")
    journal.append("run_start", run_id="direct", experiment="direct", config_yaml="a: 1\n", params={"a": 1})
    journal.append("step", step=1, metrics={"loss": 1.0})
    journal.append("run_end", status="FINISHED")
    replay = Replayer([journal], settings, register_model)
    with caplog.at_level("DEBUG"):
        assert replay.finish(60)
    client = open_client(settings, place)
    run = client.get_run(replay.state.mlflow_run_id)
    printed = capfd.readouterr()
    said = [str(run.to_dictionary()), replay.place.show_command, caplog.text, printed.out, printed.err]
    said += [path.read_text() for path in files_below(tmp_path)]
    assert "127.0.0.1" in " ".join(said)  # the place is told, the password is not
    assert not [text for text in said if postgres.password in text]


def test_a_study_of_optuna_lives_on_the_same_server(postgres: PostgresServer) -> None:
    import optuna

    address = postgres.create_database("optuna")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(study_name="sweep", storage=address, directions=["maximize", "maximize"])
    study.optimize(lambda trial: (trial.suggest_float("rate", 0, 1), trial.number), n_trials=3)
    # Another process would open it the same way: by its name and the address from the environment.
    again = optuna.load_study(study_name="sweep", storage=optuna.storages.RDBStorage(address))
    assert [trial.params for trial in again.trials] == [trial.params for trial in study.trials]
    assert again.directions == study.directions

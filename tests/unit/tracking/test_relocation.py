"""A copied or moved project is noticed before it touches the files of the original, and is mended by one command."""

from __future__ import annotations

import shlex
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from vavl.errors import InputError
from vavl.serving.model_address import resolve_model
from vavl.serving.registry import register_model
from vavl.tracking.journal import Journal
from vavl.tracking.relocation import moved_artifacts, refuse_moved, relocate
from vavl.tracking.replayer import Replayer
from vavl.tracking.settings import TrackingSettings, TrackingTarget
from vavl.tracking.sync import compare_runs

pytestmark = pytest.mark.promise

ALL_PLACES = """
SELECT artifact_location FROM experiments WHERE name = 'vavl' UNION ALL SELECT artifact_uri FROM runs
UNION ALL SELECT artifact_location FROM logged_models UNION ALL SELECT source FROM model_versions
UNION ALL SELECT coalesce(storage_location, source) FROM model_versions
"""
SYNC = Path(__file__).parents[3] / "jobs" / "sync_tracking.py"
MODEL = "models:/mine/1"


@pytest.fixture
def settings(monkeypatch):
    """Settings without an address: ``runs/mlflow.db`` and ``runs/mlartifacts`` of the current directory."""
    for name in ("MLFLOW_TRACKING_URI", "VAVL_ROOT"):
        monkeypatch.delenv(name, raising=False)
    return TrackingSettings(system_metrics=False, flush_seconds=0.05)


@pytest.fixture
def project(tmp_path, tracking_database, settings, model_folder, monkeypatch):
    """A project with a run that is tracked and has a registered model; the current directory."""
    project = tmp_path / "my project"
    run = project / "runs" / "one"
    shutil.copytree(model_folder, run / "best")
    shutil.copy(tracking_database, project / "runs" / "mlflow.db")
    monkeypatch.chdir(project)
    journal = Journal(run / "journal.jsonl")
    journal.append("run_start", run_id="one", run_name="one", experiment="vavl", config_yaml="training: {seed: 1}\n")
    journal.append("model", folder="best", name="mine", tags={})
    journal.append("run_end", status="FINISHED", metrics={})
    assert Replayer([journal], settings, register_model).finish(120)
    return project


def places(project: Path) -> list[str]:
    with sqlite3.connect(project / "runs" / "mlflow.db") as connection:
        return [row[0] for row in connection.execute(ALL_PLACES)]


@pytest.mark.parametrize("how", [shutil.copytree, shutil.move])
def test_a_copied_or_moved_project_is_refused_until_it_is_mended(project, settings, how, monkeypatch):
    refuse_moved(settings)
    assert resolve_model(MODEL, settings).directory.is_relative_to(project)
    other = project.with_name("other") / "place"
    other.parent.mkdir()
    how(project, other)
    monkeypatch.chdir(other)
    database = other / "runs" / "mlflow.db"

    with pytest.raises(InputError) as refused:
        refuse_moved(settings)
    assert refused.value.file == str(database)
    assert project.as_uri() in refused.value.problem
    assert refused.value.fix == f"python jobs/sync_tracking.py {database.parent} relocate=true"
    for use in (lambda: resolve_model(MODEL, settings), lambda: compare_runs(other / "runs", TrackingTarget())):
        with pytest.raises(InputError, match="the project was copied or moved"):
            use()

    before, now = (f"{place.as_uri()}/runs/mlartifacts" for place in (project, other))
    command = shlex.split(refused.value.fix)
    assert f"{database}: {before} -> {now}" in sync(*command[2:], "--dry-run")
    assert moved_artifacts(database) == {before: now}
    assert "1 places rewritten" in sync(*command[2:])
    assert len(places(other)) == 5
    assert all(str(other) in place for place in places(other))
    with sqlite3.connect(f"{database}.before-relocation") as kept:
        assert all(project.as_uri() in row[0] for row in kept.execute(ALL_PLACES))
    refuse_moved(settings)
    assert resolve_model(MODEL, settings).directory.is_relative_to(other)
    assert relocate(database) == {}
    # The run stays in the store that came with it, and nothing is sent twice.
    assert "every run has arrived already" in sync(command[2])


def sync(*words: str) -> str:
    """Run jobs/sync_tracking.py as a person does: MLflow keeps the places of a process that has used them."""
    done = subprocess.run([sys.executable, SYNC, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_artifacts_on_another_disk_or_gone_are_left_alone(project, settings, tmp_path):
    database = project / "runs" / "mlflow.db"
    shutil.move(project / "runs" / "mlartifacts", tmp_path / "unmounted")
    assert moved_artifacts(database) == {}
    (project / "runs" / "mlartifacts").mkdir()  # empty: nothing of these runs
    assert moved_artifacts(database) == {}
    assert moved_artifacts(tmp_path / "none.db") == {}
    (tmp_path / "no.db").write_text("no database")
    assert moved_artifacts(tmp_path / "no.db") == {}


def test_a_store_that_the_settings_name_is_named_in_the_command(project, settings, monkeypatch, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(project, other)
    named = settings.model_copy(update={"uri": f"sqlite:///{other}/runs/mlflow.db"})
    with pytest.raises(InputError) as refused:
        refuse_moved(named)
    assert refused.value.fix.endswith(f"relocate=true tracking.uri=sqlite:///{other}/runs/mlflow.db")


def test_a_moved_project_whose_database_is_a_server_is_refused_with_what_can_be_done(
    project: Path, settings: TrackingSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # An address that names its driver is one of a server to this project, and a file to MLflow.
    server = settings.model_copy(update={"uri": f"sqlite+pysqlite:///{project}/runs/mlflow.db"})
    refuse_moved(server)
    other = tmp_path / "other"
    shutil.copytree(project, other)
    monkeypatch.chdir(other)
    with pytest.raises(InputError, match="copied or moved: artifacts of experiment vavl lie in") as refused:
        refuse_moved(server)
    assert str(other / "runs" / "mlartifacts") in refused.value.problem
    assert "tracking.experiment=NAME" in refused.value.fix
    refuse_moved(server.model_copy(update={"experiment": "new"}))
    shutil.rmtree(other / "runs" / "mlartifacts")
    refuse_moved(server)

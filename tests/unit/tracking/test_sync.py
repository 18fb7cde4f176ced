"""Which runs lack something in which store, by what the store says itself, and what became of them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from vavl.errors import ConfigError, InputError, TrackingError
from vavl.serving.registry import register_model
from vavl.tracking.journal import Journal
from vavl.tracking.mlflow_writer import logged_model_of
from vavl.tracking.records import ReplayState, read_state, write_state
from vavl.tracking.replayer import Replayer, following
from vavl.tracking.settings import TrackingSettings, TrackingTarget
from vavl.tracking.sync import (
    SyncedRun,
    compare_runs,
    print_results,
    refuse_failures,
    settings_of,
    summary_directory,
    sync_runs,
    write_summary,
)

SERVER = "http://127.0.0.1:9"


@pytest.fixture(autouse=True)
def _no_other_store(monkeypatch, tmp_path):
    for name in ("MLFLOW_TRACKING_URI", "VAVL_ROOT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


def run(folder: Path, tracking: dict[str, Any] | None = None, *kinds: str) -> Journal:
    folder.mkdir(parents=True)
    if tracking is not None:
        (folder / "config.yaml").write_text(yaml.safe_dump({"tracking": tracking}))
    journal = Journal(folder / "journal.jsonl")
    for kind in kinds or ("run_start", "step", "run_end"):
        journal.append(kind, run_id="run", experiment="mine", step=1)  # type: ignore[arg-type]
    return journal


def only(folder: Path, target: TrackingTarget | None = None) -> SyncedRun:
    (entry,) = compare_runs(folder, target or TrackingTarget())
    return entry


def sync(folder: Path, tracking: TrackingSettings) -> list[SyncedRun]:
    target = TrackingTarget(uri=tracking.uri, artifact_location=tracking.artifact_location)
    return list(sync_runs(compare_runs(folder, target), 60, register_model))


def test_a_run_goes_where_its_configuration_says(tmp_path):
    run(tmp_path / "runs" / "one", {"uri": SERVER, "experiment": "mine"})
    entry = only(tmp_path / "runs")
    assert (entry.name, entry.store, len(entry.lacking)) == ("one", SERVER, 3)
    assert "refused" in entry.problem
    assert entry.settings.experiment == "mine"
    assert only(tmp_path / "runs" / "one").name == "one"
    assert only(tmp_path / "runs", TrackingTarget(uri="http://127.0.0.1:7")).store == "http://127.0.0.1:7"


def test_the_runs_of_a_comparison_go_where_the_comparison_goes(tmp_path):
    config = yaml.safe_dump({"tracking": {"uri": SERVER}})
    comparison = Journal(tmp_path / "compare" / "journal.jsonl")
    comparison.append("run_start", run_id="all", config_yaml=config)
    comparison.append("run_end", status="FINISHED")
    child = run(tmp_path / "compare" / "runs" / "one")
    (child.path.parent / "config.yaml").write_text("training: {seed: 1}\n")
    assert [entry.store for entry in compare_runs(tmp_path, TrackingTarget())] == [SERVER, SERVER]


def test_a_run_without_any_configuration_goes_to_the_local_store(tmp_path, monkeypatch):
    run(tmp_path / "one")
    entry = only(tmp_path)
    assert (entry.store, len(entry.lacking), entry.problem) == (f"sqlite:///{tmp_path}/runs/mlflow.db", 3, "")
    assert not (tmp_path / "runs").exists()  # looking makes no store
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:secret@127.0.0.1:9")
    assert only(tmp_path).store == SERVER


def test_a_run_continues_in_the_store_that_it_began_in(tmp_path, monkeypatch):
    journal = run(tmp_path / "one", {"uri": None})
    monkeypatch.setenv("MLFLOW_TRACKING_URI", SERVER)
    replay = Replayer([journal], TrackingSettings(system_metrics=False))
    replay.start()  # nothing ever arrives there
    assert not replay.finish(0.1)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert settings_of(journal.path, TrackingTarget()).uri == SERVER
    assert settings_of(journal.path, TrackingTarget(uri="http://other")).uri == "http://other"


def test_what_arrived_is_not_listed_unless_the_run_has_no_end(tmp_path, tracking):
    experiment = {"uri": tracking.uri, "experiment": tracking.experiment}
    whole = run(tmp_path / "a", experiment)
    run(tmp_path / "b", experiment, "run_start", "step", "system")
    run(tmp_path / "c", experiment, "run_start", "run_end", "run_start")
    for journal in tmp_path.rglob("journal.jsonl"):
        text = journal.read_text().replace('"run"', f'"{journal.parent.name}"').replace("mine", tracking.experiment)
        journal.write_text(text)
    assert [result.state for result in sync(tmp_path, tracking)] == ["arrived", "unfinished", "unfinished"]
    found = compare_runs(tmp_path, TrackingTarget())
    assert [(entry.name, entry.lacking, entry.state) for entry in found] == [
        ("b", (), "unfinished"),
        ("c", (), "unfinished"),
    ]
    whole.append("system", metrics={"system/cpu_utilization_percentage": 1.0})
    assert [entry.name for entry in compare_runs(tmp_path, TrackingTarget())] == ["a", "b", "c"]


def test_a_living_run_is_left_to_itself(tmp_path):
    follower = following(run(tmp_path / "one").path)
    follower.acquire(0)
    assert only(tmp_path).state == "left to its run"
    follower.release()
    assert only(tmp_path).state == "lacking"


def test_no_run_and_broken_settings_are_named(tmp_path):
    with pytest.raises(InputError, match="holds no run"):
        compare_runs(tmp_path, TrackingTarget())
    run(tmp_path / "one", {"urri": SERVER})
    with pytest.raises(ConfigError, match="did you mean `uri`"):
        compare_runs(tmp_path, TrackingTarget())


def whole_run(folder: Path, tracking: TrackingSettings, model_folder: Path | None = None) -> Journal:
    """Write a finished run that has one of everything."""
    journal = Journal(folder / "journal.jsonl")
    journal.append(
        "run_start", run_id=folder.name, experiment=tracking.experiment, config_yaml="a: 1\n", params={"a": 1}
    )
    journal.append_all([("step", {"step": step, "metrics": {"loss": 1 / step}}) for step in range(1, 9)])
    journal.append("event", what="restarted", step=3, message="worker 1 was lost")
    (folder / "pictures" / "deep").mkdir(parents=True)
    for name in ("report.html", "pictures/one.svg", "pictures/deep/two.svg"):
        (folder / name).write_text(name)
    journal.append("artifact", path="report.html", artifact_path=None)
    journal.append("artifact", path="pictures", artifact_path=None)
    if model_folder is not None:
        journal.append("model", folder=str(model_folder), name=f"of {tracking.experiment}", tags={})
    journal.append("run_end", status="FINISHED", metrics={"test/accuracy": 0.5})
    return journal


def test_the_notes_next_to_a_journal_are_not_believed(
    tmp_path: Path, private_tracking: TrackingSettings, tracking_database: Path, client_of: Any, model_folder: Path
) -> None:
    journal = whole_run(tmp_path / "runs" / "one", private_tracking, model_folder)
    (first,) = sync(tmp_path / "runs", private_tracking)
    assert (first.state, first.sent, first.missing) == ("arrived", 14, 0)
    assert sync(tmp_path / "runs", private_tracking) == []
    # Somebody cleans the artifact store up, and puts back a database of before.
    artifacts = Path(str(private_tracking.artifact_location))
    (report,) = artifacts.glob("*/artifacts/report.html")
    report.write_text("cut")
    (plot,) = artifacts.rglob("two.svg")
    plot.unlink()
    (weights,) = artifacts.rglob("model.safetensors")
    weights.write_bytes(weights.read_bytes()[:10])
    (entry,) = compare_runs(tmp_path / "runs", TrackingTarget(uri=private_tracking.uri))
    assert entry.lacking == (11, 12, 13)
    (second,) = sync(tmp_path / "runs", private_tracking)
    assert (second.state, second.sent, second.missing) == ("arrived", 3, 0)
    assert report.read_text() == "report.html"
    assert plot.exists()
    assert weights.read_bytes() == (model_folder / "model.safetensors").read_bytes()
    client = client_of(private_tracking)
    (version,) = client.search_model_versions(f"name = 'of {private_tracking.experiment}'")
    assert logged_model_of(version) is not None
    assert sync(tmp_path / "runs", private_tracking) == []
    # The database is replaced by an empty one: the notes say that all of it arrived.
    database = Path(str(private_tracking.uri).removeprefix("sqlite:///"))
    shutil.copy(tracking_database, database.with_suffix(".new"))
    database.with_suffix(".new").replace(database)
    (third,) = sync(tmp_path / "runs", private_tracking)
    assert (third.state, third.sent, third.missing) == ("arrived", 14, 0)
    assert third.mlflow_run_id not in (None, first.mlflow_run_id)
    assert read_state(journal.path, str(private_tracking.uri)).mlflow_run_id == third.mlflow_run_id


def test_an_older_copy_of_the_database_gets_what_it_lacks_in_the_same_run(tmp_path, private_tracking, client_of):
    journal = whole_run(tmp_path / "runs" / "one", private_tracking)
    database = Path(str(private_tracking.uri).removeprefix("sqlite:///"))
    lines = journal.path.read_text().splitlines(keepends=True)
    journal.path.write_text("".join(lines[:5]))
    (first,) = sync(tmp_path / "runs", private_tracking)
    assert first.state == "unfinished"
    shutil.copy(database, tmp_path / "backup.db")
    journal.path.write_text("".join(lines))
    assert [result.sent for result in sync(tmp_path / "runs", private_tracking)] == [8]
    shutil.copy(tmp_path / "backup.db", database)
    (second,) = sync(tmp_path / "runs", private_tracking)
    # The artifacts are still there.
    assert (second.state, second.sent, second.mlflow_run_id) == ("arrived", 5, first.mlflow_run_id)
    client = client_of(private_tracking)
    assert client.get_run(second.mlflow_run_id).info.status == "FINISHED"
    assert [point.step for point in client.get_metric_history(second.mlflow_run_id, "loss")] == [*range(1, 9)]


def test_notes_of_an_earlier_version_that_passed_records_over_are_made_good(tmp_path, tracking, tracking_client):
    journal = whole_run(tmp_path / "runs" / "one", tracking)
    last = list(journal.read())[-1]
    noted = ReplayState(seq=last.seq, offset=last.end, run_id="one", refused={11: "OSError: No space left on device"})
    write_state(journal.path, str(tracking.uri), noted)
    (result,) = sync(tmp_path / "runs", tracking)
    assert (result.state, result.sent) == ("arrived", 13)
    assert tracking_client.get_run(result.mlflow_run_id).info.status == "FINISHED"


def gone(folder: Path, tracking: TrackingSettings) -> None:
    journal = run(folder, {"uri": tracking.uri, "experiment": tracking.experiment}, "run_start")
    journal.append("artifact", path="gone.png")
    journal.append("run_end", status="FINISHED")


def test_a_store_that_is_away_costs_the_others_nothing(tmp_path, tracking, capsys):
    run(tmp_path / "runs" / "a", {"uri": SERVER})
    gone(tmp_path / "runs" / "b", tracking)
    first, second = sync_runs(compare_runs(tmp_path / "runs", TrackingTarget()), 60, register_model)
    assert (first.state, first.sent, first.missing, first.mlflow_run_id) == ("not arrived", 0, 3, None)
    assert "refused" in first.problem
    # The store is there and will never take one of the records.
    assert (second.state, second.sent, second.missing) == ("refused in part", 2, 0)
    assert "gone.png does not exist" in second.problem
    with pytest.raises(TrackingError, match="2 of the runs did not arrive whole"):
        refuse_failures([first, second])
    refuse_failures([])
    print_results([first, second])
    printed = capsys.readouterr().out
    assert first.problem in printed
    assert str(second.mlflow_run_id) in printed
    # It is said again each time, until the file is back or the record is given up.
    (again,) = sync(tmp_path / "runs" / "b", tracking)
    assert (again.state, again.sent) == ("refused in part", 0)


def test_the_summary_tells_of_every_run_and_overwrites_none(tmp_path, tracking):
    gone(tmp_path / "a", tracking)
    results = sync(tmp_path / "a", tracking)
    content = json.loads(write_summary(results, tmp_path).read_text())
    assert content.keys() == {"complete", "sent", "missing", "runs"}
    assert content["complete"] is False
    assert content["runs"][0]["state"] == "refused in part"
    assert summary_directory(tmp_path, None) == tmp_path
    assert summary_directory(tmp_path / "a", None) == tmp_path / "a" / "sync"
    assert summary_directory(tmp_path / "a", tmp_path / "x") == tmp_path / "x"

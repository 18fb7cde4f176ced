"""Scores of a run stand with the model that it trained or measured; what is known at its end is on its page."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from vavl.serving.registry import register_model
from vavl.tracking.journal import Journal
from vavl.tracking.mlflow_writer import logged_model_of
from vavl.tracking.replayer import Replayer
from vavl.tracking.run import best_scores, run_page
from vavl.tracking.settings import TrackingSettings, TrackingTarget
from vavl.tracking.sync import compare_runs, sync_runs

SCORES = {"validation/audio/accuracy": 0.5, "test/audio_video/uar": 0.25}
BEST = best_scores(SCORES)


def trained(folder: Path, tracking: TrackingSettings, model_folder: Path) -> Journal:
    """Write what a finished training run leaves."""
    journal = Journal(folder / "journal.jsonl")
    journal.append("run_start", run_id=folder.name, experiment=tracking.experiment)
    for epoch in (1, 2):
        journal.append("epoch", epoch=epoch, step=epoch * 5, metrics={"validation/audio/accuracy": epoch * 0.25})
    tags = {"corpus": "demo", "fold": 0, "label_set": "", "test/audio_video/uar": "0.2500"}
    journal.append("model", folder=model_folder, name=name_of(folder), tags=tags)
    tags = {**run_page(SCORES, ["best epoch 2 of 2"], "report.html"), "vavl.best_epoch": "2"}
    journal.append("run_end", status="FINISHED", metrics=BEST, tags=tags)
    return journal


def name_of(folder: Path) -> str:
    return f"vavl-{folder.parent.name}"


def replay(journal: Journal, tracking: TrackingSettings) -> Replayer:
    done = Replayer([journal], tracking, register_model)
    assert done.finish(60), done.error
    return done


def model_scores(client: Any, name: str) -> dict[str, tuple[float, int]]:
    """Return value and step of each score of version 1."""
    model = client.get_logged_model(logged_model_of(client.get_model_version(name, "1")))
    return {metric.key: (metric.value, metric.step) for metric in model.metrics or ()}


def test_scores_of_the_best_epoch_are_metrics_of_run_and_model(tmp_path, tracking, tracking_client, model_folder):
    done = replay(trained(tmp_path / "run", tracking, model_folder), tracking)
    run = tracking_client.get_run(done.state.mlflow_run_id)
    assert {name: run.data.metrics[name] for name in BEST} == BEST
    curve = tracking_client.get_metric_history(run.info.run_id, "validation/audio/accuracy")
    assert [(point.step, point.value) for point in curve] == [(5, 0.25), (10, 0.5)]
    assert model_scores(tracking_client, name_of(tmp_path / "run")) == {
        name: (value, 10) for name, value in BEST.items()
    }
    assert run.data.tags["vavl.best_epoch"] == "2"
    page = run.data.tags["mlflow.note.content"]
    link = f"#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}/artifacts/report.html"
    assert page.startswith(f"[report.html]({link}) · best epoch 2 of 2\n\n| split")


def test_version_and_model_say_how_they_are_loaded(tmp_path, tracking, tracking_client, model_folder):
    replay(trained(tmp_path / "run", tracking, model_folder), tracking)
    name = name_of(tmp_path / "run")
    page = tracking_client.get_model_version(name, "1").description
    assert "| test | audio_video | 0.250 |" in page.replace("&ensp;", "")
    assert "- corpus: demo\n- fold: 0\n\n" in page
    assert f'mlflow.pyfunc.load_model("models:/{name}/1")' in page
    assert f"models:/{name}@champion" in tracking_client.get_registered_model(name).description
    # What a person writes there stays.
    tracking_client.update_model_version(name, "1", "mine")
    replay(trained(tmp_path / "again" / "run", tracking, model_folder), tracking)
    assert tracking_client.get_model_version(name, "1").description == "mine"


def test_a_model_that_is_registered_after_the_end_gets_the_scores_of_its_run(
    tmp_path: Path, tracking: TrackingSettings, tracking_client: Any, model_folder: Path
) -> None:
    """As the best trial of a sweep is."""
    journal = Journal(tmp_path / "trial" / "journal.jsonl")
    journal.append("run_start", run_id="trial", experiment=tracking.experiment)
    journal.append("epoch", epoch=1, step=5, metrics={"loss": 1.0})
    journal.append("run_end", status="FINISHED", metrics=BEST)
    *_, end = journal.read()
    replay(journal, tracking)
    name = name_of(tmp_path / "trial")
    journal.append("model", at=end.time, folder=model_folder, name=name, tags={}, metrics=BEST)
    done = replay(journal, tracking)
    assert model_scores(tracking_client, name) == {key: (value, 5) for key, value in BEST.items()}
    for key in BEST:
        assert len(tracking_client.get_metric_history(done.state.mlflow_run_id, key)) == 1


@pytest.mark.parametrize("is_known", [True, False], ids=["in this store", "in another store"])
def test_an_evaluation_gives_its_scores_to_the_model(tmp_path, tracking, tracking_client, model_folder, is_known):
    replay(trained(tmp_path / "run", tracking, model_folder), tracking)
    name = name_of(tmp_path / "run")
    model_id = logged_model_of(tracking_client.get_model_version(name, "1"))
    link = {"name": name, "version": "1", "what": "other.test", "model_id": model_id}
    if not is_known:
        link = {**link, "name": "elsewhere", "model_id": "m-" + 32 * "0"}
    journal = Journal(tmp_path / "evaluation" / "journal.jsonl")
    data = {"name": "other", "store_hash": "0" * 64, "path": "/stores/other", "counts": {"test": 4}}
    journal.append("run_start", run_id="evaluation", experiment=tracking.experiment, evaluates=link, dataset=data)
    journal.append("run_end", status="FINISHED", metrics={"test/video/uar": 0.125})
    done = replay(journal, tracking)
    run = tracking_client.get_run(done.state.mlflow_run_id)
    assert run.data.metrics == {"test/video/uar": 0.125}
    assert ("test/video/uar" in model_scores(tracking_client, name)) is is_known
    # The page of models groups scores by what they were measured on.
    measured = {
        metric.key: (metric.dataset_name, metric.dataset_digest)
        for metric in tracking_client.get_logged_model(model_id).metrics
    }
    assert measured.get("test/video/uar") == (("other", "0" * 36) if is_known else None)
    assert [(one.dataset.name, one.dataset.digest) for one in run.inputs.dataset_inputs] == [("other", "0" * 36)]


def test_scores_that_a_store_lost_are_sent_again(tmp_path, private_tracking, client_of, model_folder):
    target = TrackingTarget(uri=private_tracking.uri, artifact_location=private_tracking.artifact_location)
    trained(tmp_path / "run", private_tracking, model_folder)
    (first,) = sync_runs(compare_runs(tmp_path / "run", target), 60, register_model)
    assert (first.state, first.missing) == ("arrived", 0)
    assert compare_runs(tmp_path / "run", target) == []
    with closing(sqlite3.connect(str(private_tracking.uri).removeprefix("sqlite:///"))) as database:
        database.execute("DELETE FROM logged_model_metrics")
        database.execute("DELETE FROM tags WHERE key = 'vavl.best_epoch'")
        database.commit()
    (entry,) = compare_runs(tmp_path / "run", target)
    assert entry.lacking == (5,)
    (second,) = sync_runs([entry], 60, register_model)
    assert (second.state, second.sent) == ("arrived", 1)
    client = client_of(private_tracking)
    assert model_scores(client, name_of(tmp_path / "run")).keys() == BEST.keys()
    assert client.get_run(second.mlflow_run_id).data.tags["vavl.best_epoch"] == "2"


def test_a_journal_of_an_earlier_version_arrives_as_it_did(tmp_path, tracking, tracking_client):
    journal = Journal(tmp_path / "journal.jsonl")
    journal.append("run_start", run_id="old", experiment=tracking.experiment)
    journal.append("epoch", epoch=1, step=3, metrics={"validation/audio/accuracy": 0.25})
    journal.append("run_end", status="FINISHED", metrics=SCORES)
    done = replay(journal, tracking)
    assert tracking_client.get_run(done.state.mlflow_run_id).data.metrics == {**SCORES, "epoch": 1.0}


def test_an_end_whose_tags_are_no_tags_is_set_aside(tmp_path, tracking):
    journal = Journal(tmp_path / "journal.jsonl")
    journal.append("run_start", run_id="odd", experiment=tracking.experiment)
    journal.append("run_end", status="FINISHED", metrics={}, tags=["a"])
    journal.append("step", step=1, metrics={"loss": 1.0})
    done = Replayer([journal], tracking)
    assert not done.finish(60)
    assert "tags is ['a'], no dict" in done.state.refused[2]
    assert done.state.seq == 3

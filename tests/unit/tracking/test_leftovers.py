"""Runs that ended while the tracking store was away reach it at the next start."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from vavl.serving.registry import register_model
from vavl.tracking.journal import Journal
from vavl.tracking.leftovers import replay_leftovers, unfinished_journals
from vavl.tracking.replay import Replay
from vavl.tracking.settings import TrackingSettings


def _ended_run(folder: Path, tracking: TrackingSettings) -> Journal:
    journal = Journal(folder / "journal.jsonl")
    journal.append("run_start", run_id=folder.name, experiment=tracking.experiment)
    (folder / "report.html").write_text("")
    journal.append("artifact", path="report.html")
    journal.append("run_end", status="FINISHED", metrics={"test/audio/accuracy": 0.5})
    return journal


def test_a_run_put_aside_before_it_was_replayed_arrives(
    tmp_path: Path, tracking: TrackingSettings, tracking_client: Any
) -> None:
    down = tracking.model_copy(update={"uri": "http://127.0.0.1:9"})
    journal = _ended_run(tmp_path / "run", tracking)
    assert Replay(journal, down, register_model).finish(0.1) is False
    earlier = tmp_path / "again" / "earlier"
    earlier.mkdir(parents=True)
    shutil.move(tmp_path / "run", earlier / "run")

    assert list(unfinished_journals(earlier, tracking)) == [earlier / "run" / "journal.jsonl"]
    thread = replay_leftovers(earlier, tracking, register_model)
    assert thread is not None
    thread.join(60)
    assert list(unfinished_journals(earlier, tracking)) == []
    assert replay_leftovers(earlier, tracking, register_model) is None
    experiment = tracking_client.get_experiment_by_name(tracking.experiment)
    (run,) = tracking_client.search_runs([experiment.experiment_id])
    assert run.data.metrics["test/audio/accuracy"] == 0.5
    assert tracking_client.list_artifacts(run.info.run_id)[0].path == "report.html"


def test_a_run_that_another_store_holds_stays_there(tmp_path: Path, tracking: TrackingSettings) -> None:
    journal = _ended_run(tmp_path / "run", tracking)
    assert Replay(journal, tracking, register_model).finish(60)
    other = tracking.model_copy(update={"uri": f"sqlite:///{tmp_path}/other.db"})
    assert list(unfinished_journals(tmp_path, other)) == []

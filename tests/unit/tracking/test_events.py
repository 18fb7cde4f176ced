"""Events of a run: listed once, whatever is reported again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from vavl.tracking.events import count_events, event_line, run_events
from vavl.tracking.journal import Journal
from vavl.tracking.replayer import Replayer
from vavl.tracking.settings import TrackingSettings


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "journal.jsonl")


def skipped(step: int, time: float) -> dict[str, Any]:
    return {"what": "skipped_step", "step": step, "message": "loss is not finite", "clips": ["a", "b"], "time": time}


def test_an_event_that_is_reported_again_is_the_same_event(journal: Journal) -> None:
    journal.append("event", **skipped(7, 10.0))
    journal.append("event", **skipped(7, 10.0))  # from a checkpoint, after a resume
    journal.append("event", **skipped(7, 30.0))  # it happened again
    journal.append("event", what="resumed", message="from step 5")
    events = run_events(journal.read())
    assert count_events(events) == {"resumed": 1, "skipped_step": 2}
    assert [event.time for event in events[:2]] == [10.0, 30.0]
    assert events[0].facts == {"clips": ["a", "b"]}
    assert event_line(events[0]) == "skipped step at step 7: loss is not finite"
    assert event_line(events[2]) == "resumed: from step 5"
    assert events[0].moment == "1970-01-01 00:00:10"


def test_a_journal_of_several_runs_gives_those_of_one(journal: Journal) -> None:
    for name in ("one", "two"):
        journal.append("run_start", run_id=name)
        journal.append("event", what="stopped", message=name)
    assert [event.message for event in run_events(journal.read(), "one")] == ["one"]
    assert len(run_events(journal.read())) == 2


def test_mlflow_shows_the_list_and_counts(
    journal: Journal, tracking: TrackingSettings, tracking_client: Any, tmp_path: Path
) -> None:
    journal.append("run_start", run_id="run", experiment=tracking.experiment)
    journal.append("step", step=6, metrics={"loss": 1.0})
    journal.append("event", **skipped(7, 10.0))
    replay = Replayer([journal], tracking)
    assert replay.run_once()
    journal.append("event", **skipped(7, 10.0))
    journal.append("event", what="restarted", step=5, message="worker 1 was lost", attempt=2)
    journal.append("event", what="stopped", step=9, message="asked to")
    assert replay.finish(60)
    run_id = replay.state.mlflow_run_id
    run = tracking_client.get_run(run_id)
    counts = {name: value for name, value in run.data.tags.items() if name.startswith("vavl.events.")}
    assert counts == {
        "vavl.events.restarted": "1", "vavl.events.skipped_step": "1", "vavl.events.stopped": "1"
    }  # fmt: skip
    assert run.data.tags["vavl.last_event"] == "stopped at step 9: asked to"
    assert run.data.metrics == {"loss": 1.0}
    (file,) = [file.path for file in tracking_client.list_artifacts(run_id)]
    listed = json.loads(Path(tracking_client.download_artifacts(run_id, file, str(tmp_path))).read_text())
    assert [entry["what"] for entry in listed] == ["skipped_step", "restarted", "stopped"]
    assert listed[1] == {
        "time": listed[1]["time"], "what": "restarted", "step": 5, "message": "worker 1 was lost", "attempt": 2
    }  # fmt: skip

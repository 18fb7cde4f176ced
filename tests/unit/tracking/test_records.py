"""Whatever a damaged line of a journal holds: it is named, and the lines around it arrive."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from vavl.errors import TrackingError
from vavl.tracking.journal import Journal, run_events
from vavl.tracking.records import set_aside_path
from vavl.tracking.replayer import Replayer
from vavl.tracking.settings import TrackingTarget
from vavl.tracking.sync import compare_runs

pytestmark = pytest.mark.promise

ODD: tuple[Any, ...] = (7, 2**80, True, "", "odd", "../out", "half \ud83d", "nul \0", [1, [2]], {"a": {"b": [1]}})
START: dict[str, Any] = {
    "run_name": "demo", "params": {"seed": 1}, "tags": {"a": "b"}, "config_yaml": "a: 1\n",
    "dataset": {"name": "demo", "store_hash": "f", "path": "/stores", "card": "demo", "counts": {"train": 9}},
    "evaluates": {"name": "none", "version": "1", "what": "demo.test", "model_id": None},
    "parent": {"run_id": "above", "run_name": "above"},
}  # fmt: skip
LATER: tuple[tuple[str, dict[str, Any]], ...] = (
    ("step", {"step": 1, "metrics": {"loss": 1.0}}),
    ("epoch", {"step": 1, "epoch": 1, "metrics": {"score": 1.0}}),
    ("system", {"metrics": {"system/cpu": 1.0}}),
    ("event", {"what": "restarted", "step": 1, "message": "again"}),
    ("artifact", {"path": "page.html", "artifact_path": None}),
    ("model", {"folder": ".", "name": "odd", "tags": {"a": "b"}, "metrics": {"best/score": 1.0}}),
    ("run_end", {"status": "FINISHED", "metrics": {"best/score": 1.0}, "tags": {"a": "b"}}),
)


def changed(payload: dict[str, Any], odds: Sequence[Any] = ODD) -> Iterator[dict[str, Any]]:
    """Yield the payload with each value replaced by each odd one, down to the second level."""
    for key, value in payload.items():
        for odd in odds:
            yield {**payload, key: odd}
            if isinstance(value, dict):
                yield from ({**payload, key: {**value, inner: odd}} for inner in value)


@pytest.fixture
def journal(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "page.html").write_text("page")
    return Journal(tmp_path / "run" / "journal.jsonl")


def register(client: Any, run_id: str, note: Any) -> str:
    """Stand for the registry: no directory here holds a model."""
    assert isinstance(note.tags, dict)
    assert client.get_run(run_id)
    raise TrackingError(str(note.directory), "", "holds no model", "train one")


def test_no_value_of_a_line_stops_those_behind_it(journal, tracking, tracking_client):
    journal.append("run_start", run_id="run", experiment=tracking.experiment)
    for kind, payload in LATER:
        for odd in changed(payload):
            journal.append(kind, **odd)  # type: ignore[arg-type]
        for moment in (-1e300, 1e300, -1.0):
            journal.append(kind, at=moment, **payload)  # type: ignore[arg-type]
    journal.append("step", step=10, metrics={"last": 1.0})
    replay = Replayer([journal], tracking, register)
    assert not replay.finish(300)
    *_, last = journal.read()
    assert (replay.state.seq, replay.error) == (last.seq, "")
    listed = json.loads(set_aside_path(journal.path).read_text())[str(tracking.uri)]
    assert {entry["kind"] for entry in listed.values()} == {kind for kind, _ in LATER} - {"event"}
    run = tracking_client.get_run(replay.state.mlflow_run_id)
    assert run.data.metrics["last"] == 1.0
    # What is looked at without a store does not stumble either.
    assert run_events(journal.read(), "run")
    (entry,) = compare_runs(journal.path.parent, TrackingTarget(uri=tracking.uri))
    assert entry.problem == ""


def test_a_run_is_opened_without_what_its_first_record_spoils(journal, tracking, tracking_client):
    starts = list(changed(START, (7, 2**80, "", "../out", "half \ud83d")))
    for number, payload in enumerate(starts):
        journal.append("run_start", run_id=f"run {number}", experiment=tracking.experiment, **payload)
        journal.append("step", step=1, metrics={"loss": 1.0})
    replay = Replayer([journal], tracking, register)
    assert not replay.finish(300)
    assert replay.error == ""
    experiment = tracking_client.get_experiment_by_name(tracking.experiment).experiment_id
    runs = tracking_client.search_runs([experiment], "metrics.loss = 1", max_results=1000)
    assert len({run.data.tags["vavl.run_id"] for run in runs}) == len(starts)
    reasons = " ".join(replay.state.refused.values())
    for part in ("run_name", "params", "tags", "dataset", "evaluates", "parent", "config_yaml"):
        assert f"{part} is 7, left out" in reasons

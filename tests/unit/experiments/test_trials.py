"""Parent and children of a comparison in MLflow, whatever arrives first and however late."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from vavl.experiments.trials import TrialLogs
from vavl.tracking.journal import Journal
from vavl.tracking.replayer import Replayer
from vavl.tracking.settings import TrackingSettings

PARENT = {"run_id": "comparison-1", "run_name": "the comparison"}


def run_start(settings: TrackingSettings, run_id: str, parent: dict[str, str] | None = None) -> dict[str, Any]:
    return {
        "run_id": run_id, "run_name": f"name of {run_id}", "experiment": settings.experiment,
        "params": {"training.seed": 0}, "tags": {}, "dataset": None, "config_yaml": "", "parent": parent,
    }  # fmt: skip


def child(folder: Path, settings: TrackingSettings, run_id: str) -> Path:
    journal = Journal(folder / run_id / "journal.jsonl")
    journal.append("run_start", **run_start(settings, run_id, PARENT))
    journal.append("epoch", epoch=1, step=3, metrics={"validation/audio/accuracy": 0.5})
    journal.append("run_end", status="FINISHED", metrics={"validation/audio/accuracy": 0.5})
    return journal.path


def runs(client: Any, settings: TrackingSettings) -> dict[str, Any]:
    experiment = client.get_experiment_by_name(settings.experiment)
    found = client.search_runs([experiment.experiment_id]) if experiment else []
    return {run.data.tags["vavl.run_id"]: run for run in found}


def test_a_child_that_comes_before_its_parent_finds_it(tmp_path, tracking, tracking_client):
    assert Replayer([Journal(child(tmp_path, tracking, "a"))], tracking).finish()
    parent = Journal(tmp_path / "journal.jsonl")
    parent.append("run_start", **run_start(tracking, PARENT["run_id"]))
    parent.append("run_end", status="FINISHED", metrics={"all/accuracy": 0.6})
    assert Replayer([parent], tracking).finish()
    assert Replayer([Journal(child(tmp_path, tracking, "b"))], tracking).finish()
    found = runs(tracking_client, tracking)
    assert found.keys() == {"a", "b", PARENT["run_id"]}
    above = found[PARENT["run_id"]]
    assert above.info.status == "FINISHED"
    assert above.data.metrics == {"all/accuracy": 0.6}
    assert "mlflow.parentRunId" not in above.data.tags
    for name in ("a", "b"):
        assert found[name].data.tags["mlflow.parentRunId"] == above.info.run_id


def test_a_store_that_is_away_is_not_waited_for_once_per_child(
    tmp_path: Path, tracking: TrackingSettings, tracking_client: Any, caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("vavl.tracking.replayer._PATIENCE_SECONDS", 1.0)
    away = tracking.model_copy(update={"uri": "http://127.0.0.1:9"})
    queue = Replayer([], away)
    queue.start()
    journals = [child(tmp_path, away, f"run-{number}") for number in range(20)]
    for journal in journals:
        queue.add(journal)
    start = time.monotonic()
    assert not queue.finish(60)
    assert time.monotonic() - start < 30
    assert "20 journal(s)" in caplog.text
    assert caplog.text.count("cannot be written now") == 1
    # Nothing is lost: another queue brings them.
    later = Replayer([], tracking)
    later.start()
    for journal in journals:
        later.add(journal)
    assert later.finish(60)
    assert len(runs(tracking_client, tracking)) == len(journals) + 1


def test_a_child_keeps_epochs_with_the_means_of_their_steps(tmp_path, tracking):
    log = TrialLogs(tmp_path, tracking, {}, PARENT).of("run", {})
    steps = [{"kind": "step", "step": step, "metrics": {"train/loss/total": float(step)}} for step in range(4)]
    epoch = {"kind": "epoch", "epoch": 1, "step": 3, "metrics": {"validation/audio/accuracy": 0.5}}
    log(steps[:2])
    log([steps[2], epoch, steps[3]])
    log([{**epoch, "epoch": 2}])
    records = list(log.journal.read())
    assert [record.kind for record in records] == ["epoch", "epoch"]
    assert [record.payload["metrics"]["train/loss/total"] for record in records] == [1.0, 3.0]

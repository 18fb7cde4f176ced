"""What became of runs that were brought into their stores."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vavl.errors import TrackingError
from vavl.serving.registry import register_model
from vavl.tracking.journal import Journal
from vavl.tracking.settings import TrackingSettings
from vavl.tracking.sync import print_results, refuse_failures, summary_folder, sync_runs, write_summary
from vavl.tracking.sync_survey import Waiting


def waiting(folder: Path, tracking: TrackingSettings) -> Waiting:
    journal = Journal(folder / "journal.jsonl")
    journal.append("run_start", run_id=str(folder), experiment=tracking.experiment)
    journal.append("artifact", path="gone.png")
    journal.append("run_end", status="FINISHED")
    return Waiting(
        journal.path, folder.name, tracking, str(tracking.uri), 3, is_ended=True, is_followed=False
    )


def test_a_store_that_is_away_costs_the_others_nothing(
    tmp_path: Path, tracking: TrackingSettings, capsys: pytest.CaptureFixture[str]
) -> None:
    away = tracking.model_copy(update={"uri": "http://127.0.0.1:9"})
    entries = [waiting(tmp_path / "a", away), waiting(tmp_path / "b", tracking)]
    first, second = sync_runs(entries, 60, register_model)
    assert (first.state, first.sent, first.missing, first.mlflow_run_id) == ("not arrived", 0, 3, None)
    assert "refused" in first.problem
    # The store is there and will never take one of the records.
    assert (second.state, second.sent, second.missing) == ("refused in part", 3, 0)
    assert "gone.png does not exist" in second.problem
    with pytest.raises(TrackingError, match="2 of the runs did not arrive whole"):
        refuse_failures([first, second])
    refuse_failures([])
    print_results([first, second])
    printed = capsys.readouterr().out
    assert first.problem in printed
    assert str(second.mlflow_run_id) in printed


def test_the_summary_tells_of_every_run_and_overwrites_none(
    tmp_path: Path, tracking: TrackingSettings
) -> None:
    results = list(sync_runs([waiting(tmp_path / "a", tracking)], 60, register_model))
    content = json.loads(write_summary(results, tmp_path).read_text())
    assert content.keys() == {"complete", "sent", "missing", "runs"}
    assert content["complete"] is False
    assert content["runs"][0]["state"] == "refused in part"
    assert summary_folder(tmp_path, None) == tmp_path
    assert summary_folder(tmp_path / "a", None) == tmp_path / "a" / "sync"
    assert summary_folder(tmp_path / "a", tmp_path / "x") == tmp_path / "x"

"""Which runs lack something, and in which store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from vavl.errors import ConfigError, InputError
from vavl.tracking.journal import Journal
from vavl.tracking.replay import Replay
from vavl.tracking.replay_lock import Follower
from vavl.tracking.replay_state import ReplayState, write_state
from vavl.tracking.settings import TrackingSettings, TrackingTarget
from vavl.tracking.sync_survey import Waiting, waiting_journals

SERVER = "http://10.0.0.1:5000"


@pytest.fixture(autouse=True)
def _no_other_store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("MLFLOW_TRACKING_URI", "VAVL_ROOT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


def run(folder: Path, tracking: dict[str, Any] | None = None, *kinds: str) -> Journal:
    folder.mkdir(parents=True)
    if tracking is not None:
        (folder / "config.yaml").write_text(yaml.safe_dump({"tracking": tracking}))
    journal = Journal(folder / "journal.jsonl")
    for kind in kinds or ("run_start", "step", "run_end"):
        journal.append(kind, run_id="run", step=1)  # type: ignore[arg-type]
    return journal


def only(folder: Path, target: TrackingTarget | None = None) -> Waiting:
    (entry,) = waiting_journals(folder, target or TrackingTarget())
    return entry


def test_a_run_goes_where_its_configuration_says(tmp_path: Path) -> None:
    run(tmp_path / "runs" / "one", {"uri": SERVER, "experiment": "mine"})
    entry = only(tmp_path / "runs")
    assert (entry.name, entry.store, entry.missing, entry.is_ended) == ("one", SERVER, 3, True)
    assert entry.settings.experiment == "mine"
    assert only(tmp_path / "runs" / "one").name == "one"
    assert only(tmp_path / "runs", TrackingTarget(uri="http://other")).store == "http://other"


def test_the_trainings_of_a_comparison_go_where_the_comparison_goes(tmp_path: Path) -> None:
    config = yaml.safe_dump({"tracking": {"uri": SERVER}})
    comparison = Journal(tmp_path / "compare" / "journal.jsonl")
    comparison.append("run_start", run_id="all", config_yaml=config)
    comparison.append("run_end", status="FINISHED")
    child = run(tmp_path / "compare" / "runs" / "one")
    (child.path.parent / "config.yaml").write_text("training: {seed: 1}\n")
    assert [entry.store for entry in waiting_journals(tmp_path, TrackingTarget())] == [SERVER, SERVER]


def test_a_run_without_any_configuration_goes_to_the_local_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path / "one")
    assert only(tmp_path).store == f"sqlite:///{tmp_path}/runs/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:secret@tracking")
    assert only(tmp_path).store == "http://tracking"


def test_a_run_goes_on_in_the_store_that_it_began_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = run(tmp_path / "one", {"uri": None})
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    replay = Replay(journal, TrackingSettings(system_metrics=False))
    replay.start()  # nothing ever arrives there
    assert not replay.finish(0.1)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert only(tmp_path).store == "http://127.0.0.1:9"
    assert only(tmp_path, TrackingTarget(uri=SERVER)).store == SERVER


def test_what_arrived_is_not_listed_unless_the_run_has_no_end(tmp_path: Path) -> None:
    whole, open_run = run(tmp_path / "a"), run(tmp_path / "b", None, "run_start", "step", "system")
    resumed = run(tmp_path / "c", None, "run_start", "run_end", "run_start")
    local = f"sqlite:///{tmp_path}/runs/mlflow.db"
    for journal in (whole, open_run, resumed):
        last = list(journal.read())[-1]
        write_state(journal.path, local, ReplayState(seq=last.seq, offset=last.end))
    found = waiting_journals(tmp_path, TrackingTarget())
    assert [(entry.name, entry.missing, entry.is_ended) for entry in found] == [
        ("b", 0, False),
        ("c", 0, False),
    ]
    whole.append("system", metrics={})
    assert [entry.name for entry in waiting_journals(tmp_path, TrackingTarget())] == ["a", "b", "c"]


def test_the_end_is_found_behind_long_lines(tmp_path: Path) -> None:
    journal = run(tmp_path / "one", None, "run_start")
    journal.append("run_start", run_id="run", config_yaml="# " + "x" * 200_000)
    assert not only(tmp_path).is_ended
    journal.append("run_end", status="FINISHED")
    for _ in range(100):
        journal.append("system", metrics={"system/cpu_utilization_percentage": 1.0})
    assert only(tmp_path).is_ended


def test_a_living_run_is_seen(tmp_path: Path) -> None:
    follower = Follower(run(tmp_path / "one").path)
    assert follower.take()
    assert only(tmp_path).is_followed
    follower.release()
    assert not only(tmp_path).is_followed


def test_no_run_and_broken_settings_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no run"):
        waiting_journals(tmp_path, TrackingTarget())
    run(tmp_path / "one", {"urri": SERVER})
    with pytest.raises(ConfigError, match="did you mean `uri`"):
        waiting_journals(tmp_path, TrackingTarget())

"""A run at an address: resumed on another machine, published while it works, put aside without loss."""

from __future__ import annotations

import json
import secrets
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from vavl.config.load import read_config
from vavl.errors import InputError
from vavl.training import run_directory
from vavl.training.checkpoint import CHECKPOINTS_DIRECTORY
from vavl.training.loop import BEST_DIRECTORY
from vavl.training.pseudo_labels import PSEUDO_LABELS_FILE
from vavl.training.run_data import check_run
from vavl.training.run_directory import OUTCOME_FILE, claim_run_directory, resolved
from vavl.training.settings import TrainingPlan
from vavl.training.stop import STOP_FILE
from vavl.training.storage import RunStorage
from vavl.training.worker import PARTITIONS_FILE, PREDICTIONS_DIRECTORY

Machine = Callable[[str], None]
RESULTS = ("best/weights", "outcome.json", "partitions.csv", "predictions/test.parquet")


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Return a function that lets this process be another machine, with files of its own."""
    return lambda name: monkeypatch.setenv("VAVL_CACHE", str(tmp_path / name))


@pytest.fixture(params=["memory", "s3"])
def chosen(request: pytest.FixtureRequest, plan: Callable[..., TrainingPlan], machine: Machine) -> TrainingPlan:
    machine("first")
    name = request.getfixturevalue("s3") if request.param == "s3" else f"memory://{secrets.token_hex(4)}"
    return plan().model_copy(update={"output_dir": f"{name}/my run"})


def changed(plan: TrainingPlan, **training: object) -> TrainingPlan:
    return plan.model_copy(update={"training": plan.training.model_copy(update=training)})


def leave_results(plan: TrainingPlan) -> RunStorage:
    """Write what the workers of a run write."""
    storage = RunStorage(plan.output_dir)
    for name in (
        "outcome.json",
        "partitions.csv",
        "best/weights",
        "predictions/test.parquet",
        "checkpoints/a/step-1/x",
    ):
        storage.write(name, b"{}")
    return storage


def at(plan: TrainingPlan, name: str) -> dict:
    content = RunStorage(plan.output_dir).read(name)
    assert content is not None
    return json.loads(content)


def test_a_run_belongs_to_its_address(chosen: TrainingPlan, tmp_path: Path) -> None:
    folder = claim_run_directory(chosen)
    assert not folder.is_resumed
    assert folder.path.parent == tmp_path / "first/runs"
    assert folder.path.name.startswith("my_run-")
    assert at(chosen, "run.json")["run_id"] == folder.run_id
    assert at(chosen, "run.json")["state"] == "running"
    assert read_config(TrainingPlan, folder.path / "config.yaml") == chosen
    assert RunStorage(chosen.output_dir).read("config.yaml") == (folder.path / "config.yaml").read_bytes()


def test_another_machine_resumes_with_what_was_published(chosen: TrainingPlan, machine: Machine) -> None:
    first = claim_run_directory(chosen)
    (first.path / "journal.jsonl").write_text("one\n")
    with first.publishing():
        (first.path / "pages").mkdir()
        (first.path / "pages/journal.jsonl").write_text("two\n")
        (first.path / "journal.jsonl.followed").touch()
        (first.path / ".half.partial").write_text("half")
    leave_results(chosen)
    machine("second")
    again = claim_run_directory(chosen)
    assert again.is_resumed
    assert again.run_id == first.run_id
    assert again.path != first.path
    found = {path.relative_to(again.path).as_posix() for path in again.path.rglob("*") if path.is_file()}
    # Neither locks and half files, nor what workers read themselves.
    assert found == {"run.json", "config.yaml", "journal.jsonl", "pages/journal.jsonl"}


def test_the_last_machine_to_publish_keeps_what_it_has(chosen: TrainingPlan, machine: Machine) -> None:
    first = claim_run_directory(chosen)
    (first.path / "journal.jsonl").write_text("not published before the kill\n")
    assert claim_run_directory(chosen).path == first.path
    assert (first.path / "journal.jsonl").exists()
    machine("second")
    second = claim_run_directory(chosen)
    with second.publishing():
        (second.path / "journal.jsonl").write_text("newer\n")
    machine("first")
    assert claim_run_directory(chosen).is_resumed
    assert (first.path / "journal.jsonl").read_text() == "newer\n"


def test_a_run_that_was_removed_from_its_address_begins_anew(chosen: TrainingPlan) -> None:
    first = claim_run_directory(chosen)
    for name in RunStorage(chosen.output_dir).tree():
        RunStorage(chosen.output_dir).remove(name)
    again = claim_run_directory(chosen)
    assert not again.is_resumed
    assert again.run_id != first.run_id


@pytest.mark.parametrize("where", ["first", "second"])
def test_another_run_puts_the_earlier_one_aside(chosen: TrainingPlan, machine: Machine, where: str) -> None:
    first = claim_run_directory(chosen)
    storage = leave_results(chosen)
    storage.write("earlier/former/outcome.json", b"{}")
    (first.path / "summary.json").write_text("{}")
    first.collect()
    first.finish()
    assert at(chosen, "run.json")["state"] == "finished"
    machine(where)
    again = claim_run_directory(changed(chosen, seed=5))
    assert not again.is_resumed
    aside = f"earlier/{first.run_id}"
    kept = {f"{aside}/{name}" for name in (*RESULTS, "config.yaml", "run.json", "summary.json")}
    assert set(storage.tree()) == kept | {"run.json", "config.yaml", "earlier/former/outcome.json"}
    assert at(chosen, f"{aside}/run.json")["run_id"] == first.run_id
    assert {path.name for path in again.path.iterdir()} == {"run.json", "config.yaml", "earlier"}
    assert (again.path / aside / "summary.json").exists()


def test_a_move_aside_that_was_interrupted_is_continued(
    chosen: TrainingPlan, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = claim_run_directory(chosen)
    storage = leave_results(chosen)
    moved: list[str] = []

    def killed(self: RunStorage, name: str, target: str) -> None:
        if len(moved) == 3:
            raise KeyboardInterrupt
        moved.append(name)
        real_move(self, name, target)

    real_move = RunStorage.move
    with monkeypatch.context() as patch:
        patch.setattr(RunStorage, "move", killed)
        with pytest.raises(KeyboardInterrupt):
            claim_run_directory(changed(chosen, resume="never"))
    assert "run.json" not in moved
    machine("second")
    claim_run_directory(changed(chosen, resume="never"))
    assert set(storage.tree(f"earlier/{first.run_id}")) >= {"run.json", "outcome.json", "best/weights"}


def test_what_changes_is_published_while_the_run_works(chosen: TrainingPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_directory, "_PAUSE_SECONDS", 0.05)
    monkeypatch.setattr(run_directory, "_LEAST_PAUSE_PER_SECOND", 0)
    folder = claim_run_directory(chosen)
    storage = RunStorage(chosen.output_dir)

    def work() -> None:
        with folder.publishing():
            (folder.path / "journal.jsonl").write_text("one\n")
            wait_for(lambda: storage.read("journal.jsonl") == b"one\n")
            (folder.path / "journal.jsonl").write_text("one\ntwo\n")
            raise InputError("run", "", "the run failed", "repair it")

    with pytest.raises(InputError, match="the run failed"):
        work()
    assert storage.read("journal.jsonl") == b"one\ntwo\n"
    assert at(chosen, "run.json")["state"] == "running"
    assert not any(thread.name == "publish-run" for thread in threading.enumerate())


def test_storage_that_is_away_stops_no_run(
    chosen: TrainingPlan, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(run_directory, "_PAUSE_SECONDS", 0.02)
    folder = claim_run_directory(chosen)
    away = InputError("s3://runs", "", "cannot be written", "wait")

    def fail(*_: object) -> None:
        raise away

    def work() -> None:
        with folder.publishing():
            (folder.path / "journal.jsonl").write_text("one\n")
            wait_for(lambda: "keeps what cannot be published now" in caplog.text)
            time.sleep(0.3)

    with monkeypatch.context() as patch:
        patch.setattr(RunStorage, "put", fail)
        with pytest.raises(InputError, match="cannot be written"):
            work()
    assert caplog.text.count("keeps what cannot be published now") == 1
    # The next start on this machine has it all.
    assert claim_run_directory(chosen).is_resumed
    assert (folder.path / "journal.jsonl").exists()


def test_the_state_of_the_replay_never_counts_records_that_the_published_journal_lacks(
    chosen: TrainingPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = claim_run_directory(chosen)
    journal, state = folder.path / "journal.jsonl", folder.path / "journal.jsonl.replayed.json"
    journal.write_text("1")
    state.write_text("1")
    real_copy = shutil.copyfile

    def copy_while_it_grows(source: Path, target: Path) -> None:
        real_copy(source, target)
        count = int(journal.read_text()) + 1
        journal.write_text(str(count))
        state.write_text(str(count))

    monkeypatch.setattr(shutil, "copyfile", copy_while_it_grows)
    folder.publish()
    storage = RunStorage(chosen.output_dir)
    assert int(storage.read(state.name) or 0) <= int(storage.read(journal.name) or 0)


def test_results_are_collected_and_replace_older_ones(chosen: TrainingPlan) -> None:
    folder = claim_run_directory(chosen)
    storage = leave_results(chosen)
    (folder.path / "best").mkdir()
    (folder.path / "best/former").write_text("of an earlier attempt")
    folder.collect()
    assert [path.name for path in (folder.path / "best").iterdir()] == ["weights"]
    for name in ("outcome.json", "partitions.csv", "predictions/test.parquet"):
        assert (folder.path / name).exists()
    assert not (folder.path / "checkpoints").exists()
    storage.write("outcome.json", b"of the workers")
    folder.finish()
    assert storage.read("outcome.json") == b"of the workers"


def test_the_names_are_those_of_the_workers() -> None:
    assert set(run_directory.RESULTS) == {
        BEST_DIRECTORY,
        OUTCOME_FILE,
        PARTITIONS_FILE,
        PREDICTIONS_DIRECTORY,
        PSEUDO_LABELS_FILE,
    }
    assert set(run_directory._WORK) == {CHECKPOINTS_DIRECTORY, STOP_FILE}


def test_a_directory_needs_no_copy(plan: Callable[..., TrainingPlan]) -> None:
    folder = claim_run_directory(plan())
    assert (folder.path, folder.is_resumed) == (plan().output_dir, False)
    with folder.publishing():
        folder.collect()
    folder.finish()
    assert at(plan(), "run.json")["state"] == "finished"


def test_a_damaged_run_json_is_said(chosen: TrainingPlan) -> None:
    RunStorage(chosen.output_dir).write("run.json", b"{half")
    with pytest.raises(InputError, match="not valid JSON"):
        resolved(chosen)


def test_a_bucket_that_is_not_there_is_said_before_the_run(s3: str, plan: Callable[..., TrainingPlan]) -> None:
    chosen = plan().model_copy(update={"output_dir": "s3://nowhere/run"})
    with pytest.raises(InputError, match="there is no such bucket"):
        check_run(chosen)


def wait_for(is_so: Callable[[], bool], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.02)

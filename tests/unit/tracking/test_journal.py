"""The journal survives killed writers, several writers and values that JSON does not know."""

from __future__ import annotations

import json
import multiprocessing
import pickle
import resource
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vavl.errors import TrackingError
from vavl.tracking import journal as journal_module
from vavl.tracking.journal import (
    Journal,
    JournalReader,
    JournalSink,
    clean,
    count_events,
    run_events,
)
from vavl.tracking.replayer import Replayer


@pytest.fixture
def journal(tmp_path):
    return Journal(tmp_path / "journal.jsonl")


def test_records_come_back_in_order_with_increasing_numbers(tmp_path):
    journal = Journal(tmp_path / "deep" / "journal.jsonl", clock=lambda: 12.5)
    assert journal.append("step", step=1, metrics={"loss": 0.5}) == 1
    assert journal.append_all([("step", {"step": 2}), ("step", {"step": 3})]) == 3
    records = list(journal.read())
    assert [record.seq for record in records] == [1, 2, 3]
    assert records[0].payload == {"step": 1, "metrics": {"loss": 0.5}}
    assert records[0].kind == "step"
    assert records[0].time == 12.5
    assert [record.seq for record in journal.read(after_seq=2)] == [3]
    assert [record.seq for record in journal.read(offset=records[1].end)] == [3]


def test_no_file_reads_as_empty(tmp_path):
    assert list(Journal(tmp_path / "none.jsonl").read()) == []


def test_torn_last_line_spoils_only_itself(journal, caplog):
    journal.append("step", step=1)
    with journal.path.open("a") as file:
        file.write('{"seq": 2, "kind": "st')
    assert [record.payload["step"] for record in journal.read()] == [1]
    assert journal.append("step", step=3) == 2
    assert [(record.seq, record.payload["step"]) for record in journal.read()] == [(1, 1), (2, 3)]
    assert "torn line" in caplog.text


def test_whole_line_without_its_end_is_not_lost(journal):
    journal.append("step", step=1)
    journal.path.write_bytes(journal.path.read_bytes()[:-1])
    assert list(journal.read()) == []  # its writer may be at work still
    assert journal.append("step", step=2) == 2
    assert [record.payload["step"] for record in journal.read()] == [1, 2]


def test_last_number_is_found_behind_a_line_longer_than_the_tail(journal):
    journal.append("step", step=1)
    journal.append("run_start", config_yaml="x" * 300_000)
    assert journal.append("step", step=3) == 3


def _append_many(path: Path, count: int) -> None:
    journal = Journal(path)
    for step in range(count):
        journal.append("step", step=step, filler="x" * 500)


def test_two_processes_take_turns(tmp_path):
    path = tmp_path / "journal.jsonl"
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_append_many, args=(path, 200)) for _ in range(2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    records = list(Journal(path).read())
    assert [record.seq for record in records] == list(range(1, 401))
    assert sorted(record.payload["step"] for record in records) == sorted([*range(200), *range(200)])


def test_values_that_json_does_not_know_are_cleaned(journal, tmp_path):
    metrics = {"nan": float("nan"), "inf": np.float32("inf"), "good": np.float64(0.5), "count": np.int64(3)}
    journal.append("epoch", epoch=1, step=4, metrics=metrics, path=tmp_path, matrix=np.array([[1.0, np.nan]]))
    (record,) = journal.read()
    assert record.payload["metrics"] == {"nan": None, "inf": None, "good": 0.5, "count": 3}
    assert record.payload["matrix"] == [[1.0, None]]
    assert record.payload["path"] == str(tmp_path)
    json.loads(journal.path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} in the journal"))


def test_clean_keeps_text_and_truth():
    assert clean({"a": ("x", True, None), 3: {1}}) == {"a": ["x", True, None], "3": [1]}


def test_unknown_kind_is_refused(tmp_path):
    with pytest.raises(ValueError, match="unknown kinds of record"):
        Journal(tmp_path / "journal.jsonl").append("stepp", step=1)  # type: ignore[arg-type]


def test_unwritable_file_names_place_and_fix(tmp_path):
    (tmp_path / "journal.jsonl").mkdir()
    with pytest.raises(TrackingError, match="journal cannot be written"):
        Journal(tmp_path / "journal.jsonl").append("step", step=1)


def test_a_journal_travels_into_a_process_with_another_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    journal = Journal(Path("journal.jsonl"))
    monkeypatch.chdir("/")
    copy = pickle.loads(pickle.dumps(journal))
    assert copy == journal
    assert copy.path == tmp_path / "journal.jsonl"


def steps_of(reader: JournalReader) -> list[int]:
    return [record.payload["step"] for record in reader.read()]


def test_a_reader_yields_every_record_once(journal):
    reader = JournalReader(journal)
    assert steps_of(reader) == []
    journal.append_all([("step", {"step": step}) for step in range(3)])
    records = reader.read()
    assert next(records).payload["step"] == 0  # what is left of a read comes with the next one
    assert steps_of(reader) == [1, 2]
    assert steps_of(reader) == []
    journal.append("step", step=3)
    assert steps_of(pickle.loads(pickle.dumps(reader))) == [3]
    assert steps_of(reader) == [3]
    assert not reader.began_anew


def test_a_poll_of_a_reader_parses_what_is_new_however_long_the_journal_is(tmp_path, monkeypatch):
    journal, parsed = Journal(tmp_path / "journal.jsonl"), []
    reader = JournalReader(journal)
    journal.append_all([("step", {"step": step}) for step in range(2000)])
    assert len(steps_of(reader)) == 2000
    true_parse = journal_module._parsed
    monkeypatch.setattr(journal_module, "_parsed", lambda line: (parsed.append(line), true_parse(line))[1])
    for step in range(2000, 2003):
        journal.append("step", step=step)
        parsed.clear()
        assert steps_of(reader) == [step]
        assert len(parsed) == 2  # the one before tells that the file is the same


def test_a_reader_waits_for_the_end_of_a_torn_line(journal):
    reader = JournalReader(journal)
    journal.append_all([("step", {"step": 0}), ("step", {"step": 1})])
    whole = journal.path.read_bytes()
    for end in (len(whole) - 1, len(whole) - 20):
        journal.path.write_bytes(whole[:end])
        assert steps_of(reader) == ([0] if end == len(whole) - 1 else [])
    journal.path.write_bytes(whole)
    assert steps_of(reader) == [1]


def test_a_torn_line_that_is_never_completed_costs_a_reader_only_itself(journal):
    reader = JournalReader(journal)
    journal.append("step", step=0)
    with journal.path.open("a") as file:
        file.write('{"seq": 2, "kind": "st')
    assert steps_of(reader) == [0]
    journal.append("step", step=2)
    assert steps_of(reader) == [2]
    journal.append("step", step=3)
    assert steps_of(reader) == [3]


@pytest.mark.parametrize("how", ["truncated", "replaced", "moved aside"])
def test_a_reader_of_a_journal_that_was_made_anew_begins_anew(journal, tmp_path, how):
    """Also when the new one has grown longer than the old one was."""
    reader = JournalReader(journal)
    journal.append_all([("step", {"step": 0}), ("step", {"step": 1})])
    assert steps_of(reader) == [0, 1]
    match how:
        case "truncated":
            journal.path.write_bytes(b"")
        case "replaced":
            other = Journal(tmp_path / "other.jsonl")
            other.append("step", step=10)
            other.path.replace(journal.path)
        case "moved aside":
            journal.path.rename(tmp_path / "earlier.jsonl")
            assert steps_of(reader) == []
            assert not reader.began_anew
    journal.append_all([("step", {"step": 10 + step, "filler": "x" * 100}) for step in range(9)])
    found = steps_of(reader)
    assert reader.began_anew
    assert found == ([10] if how == "replaced" else []) + list(range(10, 19))
    assert steps_of(reader) == []
    assert not reader.began_anew


def test_the_end_is_found_behind_long_lines(journal):
    assert journal.end() is None
    journal.append("run_start", run_id="run")
    journal.append("run_start", run_id="run", config_yaml="# " + "x" * 200_000)
    assert journal.end() is None
    journal.append("run_end", status="FINISHED")
    for _ in range(100):
        journal.append("system", metrics={"system/cpu_utilization_percentage": 1.0})
    assert journal.end() == 3
    journal.append("run_start", run_id="run")
    assert journal.end() is None


def step(number: int) -> dict[str, Any]:
    return {"kind": "step", "step": number, "metrics": {"loss": 1.0}}


def written_steps(journal: Journal) -> list[int]:
    return [record.payload["step"] for record in journal.read()]


@pytest.fixture
def full_disk(tmp_path):
    """A journal on a device whose every write fails with ENOSPC; `unlink` it to free the disk."""
    path = tmp_path / "journal.jsonl"
    path.symlink_to("/dev/full")
    return path


def test_records_wait_for_the_disk_and_keep_their_order_and_times(full_disk, caplog):
    now = [10.0]
    sink = JournalSink(Journal(full_disk, clock=lambda: now[0]))
    sink([step(1), step(2)])
    now[0] = 20.0
    sink([{**step(3), "time": 15.0}])
    assert caplog.text.count("No space left") == 1
    assert "keeps its records in memory" in caplog.text
    full_disk.unlink()
    now[0] = 30.0
    sink([step(4)])
    assert written_steps(sink.journal) == [1, 2, 3, 4]
    assert [record.time for record in sink.journal.read()] == [10.0, 10.0, 15.0, 30.0]
    assert not sink.waiting
    assert "3 records had waited" in caplog.text


def test_what_waits_is_bounded(full_disk, caplog, monkeypatch):
    monkeypatch.setattr(journal_module, "_MOST_WAITING", 3)
    sink = JournalSink(Journal(full_disk))
    for number in range(5):
        sink([step(number)])
    assert "1 records are lost" in caplog.text
    full_disk.unlink()
    sink([])
    assert written_steps(sink.journal) == [2, 3, 4]


def test_what_waits_travels_with_the_sink(full_disk):
    sink = JournalSink(Journal(full_disk))
    sink([step(1)])
    copy = pickle.loads(pickle.dumps(sink))
    full_disk.unlink()
    copy([step(2)])
    assert written_steps(copy.journal) == [1, 2]


def _write_under_a_limit(path: Path, limit: int) -> None:
    sink = JournalSink(Journal(path))
    sink([step(1)])
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    sink([step(number) for number in range(2, 20)])  # the first of them still fit
    assert [record.payload["step"] for record in Journal(path).read()] == [1]
    with pytest.raises(TrackingError, match="cannot be written"):
        Journal(path).append_all([("step", step(number)) for number in range(2, 20)])
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    sink([step(20)])


def test_a_half_written_batch_is_undone_and_written_once(tmp_path):
    path = tmp_path / "journal.jsonl"
    process = multiprocessing.get_context("fork").Process(target=_write_under_a_limit, args=(path, 400))
    process.start()
    process.join(60)
    assert process.exitcode == 0
    records = list(Journal(path).read())
    assert [record.payload["step"] for record in records] == list(range(1, 21))
    assert [record.seq for record in records] == list(range(1, 21))


def skipped(step: int, time: float) -> dict[str, Any]:
    return {"what": "skipped_step", "step": step, "message": "loss is not finite", "clips": ["a", "b"], "time": time}


def test_an_event_that_is_reported_again_is_the_same_event(journal):
    journal.append("event", **skipped(7, 10.0))
    journal.append("event", **skipped(7, 10.0))  # from a checkpoint, after a resume
    journal.append("event", **skipped(7, 30.0))  # it happened again
    journal.append("event", what="resumed", message="from step 5")
    events = run_events(journal.read())
    assert count_events(events) == {"resumed": 1, "skipped_step": 2}
    assert [event.time for event in events[:2]] == [10.0, 30.0]
    assert events[0].facts == {"clips": ["a", "b"]}
    assert events[0].in_words() == "skipped step at step 7: loss is not finite"
    assert events[2].in_words() == "resumed: from step 5"
    assert events[0].in_words(with_step=False) == "skipped step: loss is not finite"
    assert events[0].moment == "1970-01-01 00:00:10"


def test_a_journal_of_several_runs_gives_those_of_one(journal):
    for name in ("one", "two"):
        journal.append("run_start", run_id=name)
        journal.append("event", what="stopped", message=name)
    assert [event.message for event in run_events(journal.read(), "one")] == ["one"]
    assert len(run_events(journal.read())) == 2


def test_mlflow_shows_the_list_and_counts(journal, tracking, tracking_client, tmp_path):
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

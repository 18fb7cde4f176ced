"""The journal survives killed writers, several writers and values that JSON does not know."""

from __future__ import annotations

import json
import multiprocessing
import pickle
from pathlib import Path

import numpy as np
import pytest

from vavl.errors import TrackingError
from vavl.tracking.journal import Journal, clean


def test_records_come_back_in_order_with_increasing_numbers(tmp_path: Path) -> None:
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


def test_no_file_reads_as_empty(tmp_path: Path) -> None:
    assert list(Journal(tmp_path / "none.jsonl").read()) == []


def test_torn_last_line_spoils_only_itself(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    journal.append("step", step=1)
    with journal.path.open("a") as file:
        file.write('{"seq": 2, "kind": "st')
    assert [record.payload["step"] for record in journal.read()] == [1]
    assert journal.append("step", step=3) == 2
    assert [(record.seq, record.payload["step"]) for record in journal.read()] == [(1, 1), (2, 3)]
    assert "torn line" in caplog.text


def test_whole_line_without_its_end_is_not_lost(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    journal.append("step", step=1)
    journal.path.write_bytes(journal.path.read_bytes()[:-1])
    assert list(journal.read()) == []  # its writer may be at work still
    assert journal.append("step", step=2) == 2
    assert [record.payload["step"] for record in journal.read()] == [1, 2]


def test_last_number_is_found_behind_a_line_longer_than_the_tail(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    journal.append("step", step=1)
    journal.append("run_start", config_yaml="x" * 300_000)
    assert journal.append("step", step=3) == 3


def _append_many(path: Path, count: int) -> None:
    journal = Journal(path)
    for step in range(count):
        journal.append("step", step=step, filler="x" * 500)


def test_two_processes_take_turns(tmp_path: Path) -> None:
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


def test_values_that_json_does_not_know_are_cleaned(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    metrics = {"nan": float("nan"), "inf": np.float32("inf"), "good": np.float64(0.5), "count": np.int64(3)}
    journal.append("epoch", epoch=1, step=4, metrics=metrics, path=tmp_path, matrix=np.array([[1.0, np.nan]]))
    (record,) = journal.read()
    assert record.payload["metrics"] == {"nan": None, "inf": None, "good": 0.5, "count": 3}
    assert record.payload["matrix"] == [[1.0, None]]
    assert record.payload["path"] == str(tmp_path)
    json.loads(journal.path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} in the journal"))


def test_clean_keeps_text_and_truth() -> None:
    assert clean({"a": ("x", True, None), 3: {1}}) == {"a": ["x", True, None], "3": [1]}


def test_unknown_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown kinds of record"):
        Journal(tmp_path / "journal.jsonl").append("stepp", step=1)  # type: ignore[arg-type]


def test_unwritable_file_names_place_and_fix(tmp_path: Path) -> None:
    (tmp_path / "journal.jsonl").mkdir()
    with pytest.raises(TrackingError, match="journal cannot be written"):
        Journal(tmp_path / "journal.jsonl").append("step", step=1)


def test_a_journal_travels_into_a_process_with_another_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    journal = Journal(Path("journal.jsonl"))
    monkeypatch.chdir("/")
    copy = pickle.loads(pickle.dumps(journal))
    assert copy == journal
    assert copy.path == tmp_path / "journal.jsonl"

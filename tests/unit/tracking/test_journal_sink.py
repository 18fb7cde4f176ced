"""A full disk delays the records of a training, loses and repeats none, and stops nothing."""

from __future__ import annotations

import multiprocessing
import pickle
import resource
from pathlib import Path
from typing import Any

import pytest

from vavl.errors import TrackingError
from vavl.tracking import journal_sink
from vavl.tracking.journal import Journal
from vavl.tracking.journal_sink import JournalSink


def step(number: int) -> dict[str, Any]:
    return {"kind": "step", "step": number, "metrics": {"loss": 1.0}}


def steps_of(journal: Journal) -> list[int]:
    return [record.payload["step"] for record in journal.read()]


@pytest.fixture
def full_disk(tmp_path: Path) -> Path:
    """A journal on a device whose every write fails with ENOSPC; `unlink` it to free the disk."""
    path = tmp_path / "journal.jsonl"
    path.symlink_to("/dev/full")
    return path


def test_records_wait_for_the_disk_and_keep_their_order_and_times(
    full_disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
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
    assert steps_of(sink.journal) == [1, 2, 3, 4]
    assert [record.time for record in sink.journal.read()] == [10.0, 10.0, 15.0, 30.0]
    assert not sink.waiting
    assert "3 records had waited" in caplog.text


def test_what_waits_is_bounded(
    full_disk: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_sink, "_MOST_WAITING", 3)
    sink = JournalSink(Journal(full_disk))
    for number in range(5):
        sink([step(number)])
    assert "1 records are lost" in caplog.text
    full_disk.unlink()
    sink([])
    assert steps_of(sink.journal) == [2, 3, 4]


def test_what_waits_travels_with_the_sink(full_disk: Path) -> None:
    sink = JournalSink(Journal(full_disk))
    sink([step(1)])
    copy = pickle.loads(pickle.dumps(sink))
    full_disk.unlink()
    copy([step(2)])
    assert steps_of(copy.journal) == [1, 2]


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


def test_a_half_written_batch_is_undone_and_written_once(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    process = multiprocessing.get_context("fork").Process(target=_write_under_a_limit, args=(path, 400))
    process.start()
    process.join(60)
    assert process.exitcode == 0
    records = list(Journal(path).read())
    assert [record.payload["step"] for record in records] == list(range(1, 21))
    assert [record.seq for record in records] == list(range(1, 21))

"""Progress in a log: few plain lines with speed and time left."""

from __future__ import annotations

import logging

from vavl.extraction.progress import ClipProgress


def test_a_log_gets_plain_lines_and_always_the_last(caplog):
    caplog.set_level(logging.INFO)
    with ClipProgress("extracting", 10, 2, seconds_between_lines=0) as progress:
        progress.advance(3)
        progress.advance(5)
    assert [record.message.split(",")[0] for record in caplog.records] == [
        "extracting: 5 of 10",
        "extracting: 10 of 10",
    ]
    assert "clips/s, 0 s left" in caplog.records[-1].message


def test_lines_are_not_written_more_often_than_asked(caplog):
    caplog.set_level(logging.INFO)
    with ClipProgress("extracting", 10, 0, seconds_between_lines=1000) as progress:
        for _ in range(9):
            progress.advance(1)
    assert not caplog.records

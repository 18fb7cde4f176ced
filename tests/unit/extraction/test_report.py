"""The quarantine list: reasons for people, exceptions for programmers."""

from __future__ import annotations

import json
from dataclasses import asdict

from vavl.errors import ClipError
from vavl.extraction.report import Quarantined, write_quarantine


def test_records_are_written_line_by_line(tmp_path):
    try:
        try:
            raise EOFError("end of stream")
        except EOFError as fault:
            raise ClipError("/root/a.mp4", "video", "cannot be decoded", "look at it") from fault
    except ClipError as fault:
        record = Quarantined.of("a", "video", "a.mp4", fault)
    assert record == Quarantined("a", "video", "a.mp4", "cannot be decoded", "EOFError: end of stream")
    other = Quarantined.of("b", "audio", "b.wav", ZeroDivisionError("division by zero"))
    assert other.reason == "unexpected error of the extractor"
    assert other.exception == "ZeroDivisionError: division by zero"
    lines = write_quarantine(tmp_path, [record, other]).read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == [asdict(record), asdict(other)]
    assert write_quarantine(tmp_path, []).read_text() == ""

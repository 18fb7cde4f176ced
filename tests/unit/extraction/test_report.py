"""The quarantine list: reasons for people, exceptions for programmers."""

from __future__ import annotations

import pytest

from vavl.errors import ClipError, InputError
from vavl.extraction.report import Quarantined, read_quarantine, write_quarantine


def test_records_come_back(tmp_path):
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
    write_quarantine(tmp_path, [record, other])
    assert read_quarantine(tmp_path) == [record, other]


def test_an_empty_list_is_an_empty_file(tmp_path):
    assert write_quarantine(tmp_path, []).read_text() == ""
    assert read_quarantine(tmp_path) == []


@pytest.mark.parametrize("content", [None, "{", '{"clip": 1}\n'])
def test_a_missing_or_broken_list_is_named(tmp_path, content):
    if content is not None:
        (tmp_path / "quarantine.jsonl").write_text(content)
    with pytest.raises(InputError, match=r"quarantine\.jsonl: not readable"):
        read_quarantine(tmp_path)

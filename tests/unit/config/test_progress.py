"""Progress of a long loop: plain lines where there is no terminal."""

from __future__ import annotations

import io

import pytest

from vavl.config.progress import show_progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_all_items_pass_in_order_and_the_end_is_told():
    stream = io.StringIO()
    assert list(show_progress(range(5), 5, "counting", stream=stream)) == [0, 1, 2, 3, 4]
    lines = stream.getvalue().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("counting: 5 of 5 in ")


def test_a_slow_loop_tells_how_long_it_will_take():
    stream = io.StringIO()
    list(show_progress(range(3), 3, "counting", every_s=0.0, stream=stream))
    lines = stream.getvalue().splitlines()
    assert [line.split(",")[0] for line in lines[:2]] == ["counting: 1 of 3", "counting: 2 of 3"]
    assert "s left" in lines[0]


def test_a_loop_that_breaks_off_does_not_claim_its_end():
    def breaking():
        yield 1
        raise RuntimeError("no more")

    stream = io.StringIO()
    with pytest.raises(RuntimeError, match="no more"):
        list(show_progress(breaking(), 3, "counting", stream=stream))
    assert "in" not in stream.getvalue().split()


def test_a_terminal_gets_a_bar(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    assert list(show_progress(range(3), 3, "counting", stream=stream)) == [0, 1, 2]
    assert "3/3" in stream.getvalue()

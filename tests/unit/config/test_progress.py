"""What a person sees of a job at work: a bar on a terminal, few and plain lines in a log."""

from __future__ import annotations

import io
import logging
import sys
import time

import psutil
import pytest

from vavl.config.progress import Progress, in_words, log_to_stderr, process_seconds, show_progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    """Time that passes when a test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(caplog: pytest.LogCaptureFixture) -> Clock:
    caplog.set_level(logging.INFO, logger="vavl.config.progress")
    return Clock()


def test_all_items_pass_in_order_and_the_end_is_told(clock, caplog):
    assert list(show_progress(range(5), 5, "counting", clock)) == [0, 1, 2, 3, 4]
    assert caplog.messages == ["counting: 5 of 5, in 0 s"]


def test_work_that_breaks_off_does_not_claim_its_end(clock, caplog):
    def breaking():
        yield 1
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        list(show_progress(breaking(), 3, "counting", clock))
    assert not caplog.messages


def test_lines_come_every_ten_seconds_and_become_rare(clock, caplog):
    with Progress("counting", 10_000, clock=clock) as progress:
        for _ in range(9_999):
            clock.now += 1
            progress.advance()
    assert caplog.messages[0] == "counting: 10 of 10000"
    assert 20 < len(caplog.messages) < 70


def test_time_left_is_told_when_it_means_something(clock):
    progress = Progress("counting", 100, clock=clock)
    for done, seconds, left in ((4, 30, ""), (5, 19, ""), (5, 40, "about 13 min left"), (100, 800, "")):
        clock.now = 100.0 + seconds
        progress.update(done)
        assert progress.left == left
    long = Progress("counting", 1_000_000, clock=clock)
    clock.now += 299
    long.advance(1000)
    assert long.left == ""
    clock.now += 1
    assert long.left == "about 83.2 h left"


def test_a_rate_leaves_out_what_was_done_before_and_the_start(clock, caplog):
    with Progress("extracting", 100, 20, "clips", clock=clock) as progress:
        clock.now += 60  # workers start
        progress.advance(4)
        clock.now += 20
        progress.advance(40)
        clock.now += 18
        progress.advance(36)
    assert caplog.messages == [
        "extracting: 24 of 100",
        "extracting: 64 of 100, 2.0 clips/s, about 18 s left",
        "extracting: 100 of 100, in 98 s, 2.0 clips/s",
    ]


def test_nothing_is_said_of_work_that_was_done_before(clock, caplog):
    with Progress("extracting", 10, 10, "clips", clock=clock):
        pass
    assert list(show_progress([], 0, "counting", clock)) == []
    assert not caplog.messages


def test_work_that_has_lines_of_its_own_is_not_counted_in_a_log(clock, caplog):
    with Progress("trials", 2, counts=False, clock=clock) as progress:
        clock.now += 100
        progress.advance()
        progress.line("trial 0 [finished]")
    assert caplog.messages == ["trial 0 [finished]"]


def test_a_terminal_gets_a_bar_with_notes_and_keeps_lines_above_it(monkeypatch):
    terminal = Terminal()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", terminal)
    with Progress("[counting]", None) as progress:
        progress.update(2, total=3, note="loss [0.5]")
        print("a line of the log", file=sys.stderr)
        progress.advance()
    text = terminal.getvalue()
    assert "[counting]" in text
    assert "3/3" in text
    assert "loss [0.5]" in text
    assert "a line of the log" in text


@pytest.mark.parametrize(
    ("seconds", "words"), [(9.7, "10 s"), (99.0, "99 s"), (130.0, "2 min"), (5900.0, "98 min"), (9000.0, "2.5 h")]
)
def test_times_have_units_that_fit(seconds, words):
    assert in_words(seconds) == words


def test_the_log_has_no_names_of_modules_and_nothing_of_others_but_warnings(monkeypatch, capsys):
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    monkeypatch.setattr(root, "level", logging.WARNING)
    monkeypatch.setattr(logging.getLogger("vavl"), "level", logging.NOTSET)
    log_to_stderr()
    log_to_stderr()  # a second call changes nothing
    logging.getLogger("vavl.training.loop").info("epoch %d", 1)
    logging.getLogger("vavl.training.loop").warning("the loss is not finite")
    logging.getLogger("other.package").info("chatter")
    logging.getLogger("other.package").warning("deprecated")
    lines = [line.split(" ", 2)[2] for line in capsys.readouterr().err.splitlines()]
    assert lines == ["epoch 1", "warning: the loss is not finite", "warning from other.package: deprecated"]


def test_a_log_that_is_set_up_stays(monkeypatch):
    handler = logging.NullHandler()
    monkeypatch.setattr(logging.getLogger(), "handlers", [handler])
    log_to_stderr()
    assert logging.getLogger().handlers == [handler]


def test_the_age_of_this_process_does_not_depend_on_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = time.time() - psutil.Process().create_time()
    monkeypatch.setattr(time, "time", lambda: 0.0)
    assert process_seconds() == pytest.approx(expected, abs=2)

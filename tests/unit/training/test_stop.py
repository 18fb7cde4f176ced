"""Signals become requests to stop; a second one interrupts."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from vavl.training.stop import StopWatch, ask_to_stop, clear_stop, in_thread, stop_on_signals, stop_request


@pytest.mark.parametrize("kind", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_asks_to_stop_and_the_second_has_its_old_meaning(tmp_path, kind):
    before = signal.getsignal(kind)
    heard = []
    signal.signal(kind, lambda number, frame: heard.append(number))
    try:
        with stop_on_signals(tmp_path):
            os.kill(os.getpid(), kind)
            assert stop_request(tmp_path).reason == "stop"
            assert not heard
            os.kill(os.getpid(), kind)
            assert heard == [kind]
        assert signal.getsignal(kind) is not before
        os.kill(os.getpid(), kind)
        assert heard == [kind, kind]
    finally:
        signal.signal(kind, before)


def test_signals_are_heard_while_work_runs_in_a_thread(tmp_path):
    def work():
        for _ in range(500):
            if stop_request(tmp_path):
                return
            time.sleep(0.01)
        raise AssertionError("never asked to stop")

    with stop_on_signals(tmp_path):
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGTERM)).start()
        in_thread(work)
    assert stop_request(tmp_path).reason == "stop"


def test_an_error_of_the_work_comes_through():
    def work():
        raise ValueError("of the work")

    with pytest.raises(ValueError, match="of the work"):
        in_thread(work)


def test_the_result_of_the_work_comes_back_and_the_caller_looks_meanwhile():
    looks = []

    def work():
        while len(looks) < 2:
            time.sleep(0.01)
        return "done"

    assert in_thread(work, lambda: looks.append(1)) == "done"


def test_outside_the_main_thread_signals_are_left_alone(tmp_path):
    before = signal.getsignal(signal.SIGTERM)

    def work():
        with stop_on_signals(tmp_path):
            assert signal.getsignal(signal.SIGTERM) is before

    in_thread(work)


def test_requests_are_seen_by_a_watch_and_can_be_forgotten(tmp_path):
    watch = StopWatch(tmp_path)
    assert not watch.is_asked()
    ask_to_stop(tmp_path, "resize", "place for 4")
    time.sleep(0.25)  # it looks a few times a second only
    assert watch.is_asked()
    assert stop_request(tmp_path) == ("resize", "place for 4")
    clear_stop(tmp_path)
    clear_stop(tmp_path)
    assert stop_request(tmp_path) is None
    assert watch.is_asked()  # what was heard was heard
    assert not StopWatch(tmp_path).is_asked()


def test_a_run_that_somebody_stopped_is_not_resized_and_the_other_way_round_it_stops(tmp_path):
    ask_to_stop(tmp_path, "stop", "SIGTERM")
    ask_to_stop(tmp_path, "resize", "place for 4")
    assert stop_request(tmp_path) == ("stop", "SIGTERM")
    clear_stop(tmp_path)
    ask_to_stop(tmp_path, "resize", "place for 4")
    ask_to_stop(tmp_path, "stop", "SIGTERM")
    assert stop_request(tmp_path) == ("stop", "SIGTERM")


@pytest.mark.parametrize("content", ["", "stop", "[1]", "{}", '{"reason": "enough"}'])
def test_a_file_that_a_person_made_asks_to_stop(tmp_path, content):
    (tmp_path / "stop.json").write_text(content)
    assert StopWatch(tmp_path).is_asked()
    assert stop_request(tmp_path) == ("stop", "asked by stop.json")

"""The watchdog ends a process that hangs, whatever holds it, and leaves its stacks."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from vavl.training.context import Watchdog, clear_stacks, read_stacks

PROGRAM = """
import ctypes, sys, threading, time
from pathlib import Path
sys.path.insert(0, "platform")
from vavl.training.context import Watchdog

def waits_for_others():
    {hang}

dog = Watchdog(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))
start = time.monotonic()
dog.beat()
while time.monotonic() - start < float(sys.argv[4]):
    time.sleep(0.1)
    dog.beat()
waits_for_others()
"""
HANGS = {
    "sleeping": "time.sleep(600)",
    "a lock": "threading.Lock().acquire() and threading.Event().wait(600)",
    # PyDLL keeps Python's lock while the call lasts: no Python thread could speak.
    "holding the interpreter": "ctypes.PyDLL(None).usleep(600_000_000)",
}


def run_until_it_hangs(folder, hang, timeout_seconds, beating_seconds):
    words = [str(folder), "1", str(timeout_seconds), str(beating_seconds)]
    program = [sys.executable, "-c", PROGRAM.format(hang=hang), *words]
    done = subprocess.run(program, timeout=120, check=False, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr


def test_beats_keep_a_process_alive_for_longer_than_a_timeout(tmp_path):
    run_until_it_hangs(tmp_path, HANGS["sleeping"], timeout_seconds=2, beating_seconds=3)
    assert "in waits_for_others" in read_stacks(tmp_path, ranks=2)


@pytest.mark.parametrize("hang", HANGS.values(), ids=HANGS.keys())
def test_a_process_that_hangs_is_ended_with_its_stacks(tmp_path, hang):
    run_until_it_hangs(tmp_path, hang, timeout_seconds=1, beating_seconds=0)
    text = read_stacks(tmp_path, ranks=2)
    assert "--- rank 0 ---\nleft no stack" in text
    assert "in waits_for_others" in text.partition("--- rank 1 ---")[2]


def test_a_watchdog_that_is_stopped_or_off_ends_nothing(tmp_path):
    for timeout in (1, None):
        dog = Watchdog(tmp_path, 0, timeout)
        dog.beat()
        dog.stop()
    time.sleep(1.2)  # the process of the tests would be gone
    assert read_stacks(tmp_path, ranks=1) is None
    clear_stacks(tmp_path)
    assert not (tmp_path / "stacks").exists()

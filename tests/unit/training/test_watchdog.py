"""The watchdog ends a process that hangs, whatever holds it, and leaves its stacks."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from vavl.training.watchdog import Watchdog, clear_stacks, read_stacks

PROGRAM = """
import ctypes, sys, threading, time
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from vavl.training.watchdog import Watchdog

def waits_for_others():
    {hang}

dog = Watchdog(Path(sys.argv[1]), int(sys.argv[2]), 0.5)
for _ in range(4):
    dog.beat()
    time.sleep(0.3)
waits_for_others()
"""
HANGS = {
    "sleeping": "time.sleep(60)",
    "a lock": "threading.Lock().acquire() and threading.Event().wait(60)",
    # PyDLL keeps Python's lock while the call lasts: no Python thread could speak.
    "holding the interpreter": "ctypes.PyDLL(None).usleep(60_000_000)",
}


@pytest.mark.parametrize("hang", HANGS.values(), ids=HANGS.keys())
def test_a_process_that_hangs_is_ended_with_its_stacks(tmp_path, hang):
    start = time.monotonic()
    program = [sys.executable, "-c", PROGRAM.format(hang=hang), str(tmp_path), "1", "platform"]
    done = subprocess.run(program, timeout=30, check=False, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    # Longer than a time-out altogether: the beats kept it alive.
    assert 1.2 < time.monotonic() - start < 20
    text = read_stacks(tmp_path, ranks=2)
    assert "--- rank 0 ---\nleft no stack" in text
    assert "in waits_for_others" in text.partition("--- rank 1 ---")[2]


def test_a_watchdog_that_is_stopped_or_off_ends_nothing(tmp_path):
    for timeout in (0.2, None):
        dog = Watchdog(tmp_path, 0, timeout)
        dog.beat()
        dog.stop()
    time.sleep(0.5)
    assert read_stacks(tmp_path, ranks=1) is None
    clear_stacks(tmp_path)
    assert not (tmp_path / "stacks").exists()

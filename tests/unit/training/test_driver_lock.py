"""A directory has one driver: others are refused, lost ones give way, and one that comes back ends itself."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from vavl.errors import InputError
from vavl.training.driver_lock import LOCK_FILE, only_driver
from vavl.training.storage import RunStorage

pytestmark = pytest.mark.promise

HOLDER = Path(__file__).parents[2] / "support" / "processes" / "lock_holder.py"
OTHER = {"job": "train_model.py", "owner": "ann", "host": "node7", "pid": 1, "machine": "another", "token": "0"}


@pytest.fixture(params=["directory", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "s3":
        return f"{request.getfixturevalue('s3')}/run"
    return str(tmp_path / "run")


@contextlib.contextmanager
def holder(place: str, beat: float = 5.0) -> Iterator[subprocess.Popen[str]]:
    """Yield a process of its own that holds the lock, or has been refused."""
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        [sys.executable, HOLDER, place, str(beat)], stdin=pipe, stdout=pipe, stderr=pipe, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def first_word(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def write_lock(place: str, **facts: object) -> None:
    RunStorage(place).write(LOCK_FILE, json.dumps({**OTHER, **facts}).encode())


def test_a_second_driver_is_refused_and_learns_who_is_at_work(place: str) -> None:
    with holder(place) as first:
        assert first_word(first) == "held"
        with pytest.raises(InputError) as refused, only_driver(place):
            pass
        assert refused.value.exit_code == 2
        for words in (f"on host {socket.gethostname()}, pid {first.pid}", "since 20", "last sign 20"):
            assert words in refused.value.problem
        assert f"kill {first.pid}" in refused.value.fix
        first.communicate()  # ends its input
        assert RunStorage(place).read(LOCK_FILE) is None
    with only_driver(place):
        assert RunStorage(place).read(LOCK_FILE) is not None
    assert RunStorage(place).files() == {}


def test_a_killed_driver_gives_way_at_once(place: str) -> None:
    with holder(place) as first:
        assert first_word(first) == "held"
        first.send_signal(signal.SIGKILL)  # and it is not waited for: a zombie still has its pid
        time.sleep(0.5)
        start = time.monotonic()
        with only_driver(place):
            assert time.monotonic() - start < 10


def test_a_pid_that_another_process_has_by_now_is_no_driver(place: str) -> None:
    with only_driver(place):
        found = json.loads(RunStorage(place).read(LOCK_FILE) or b"")
    write_lock(place, **{**found, "process_start": "1"})
    with only_driver(place):
        taken = json.loads(RunStorage(place).read(LOCK_FILE) or b"")
    assert taken["process_start"] == found["process_start"]


def test_a_lock_that_was_copied_with_its_directory_holds_nothing(tmp_path: Path) -> None:
    with only_driver(tmp_path / "run"):
        shutil.copytree(tmp_path / "run", tmp_path / "copy")
        (tmp_path / "link").symlink_to("run")
        with only_driver(tmp_path / "copy"):
            pass
        with pytest.raises(InputError, match="another driver"), only_driver(tmp_path / "link"):
            pass


def test_a_driver_of_another_machine_gives_way_after_silence(place: str) -> None:
    write_lock(place)
    start = time.monotonic()
    with only_driver(place, silence_seconds=2):
        assert time.monotonic() - start >= 2


def test_a_driver_of_another_machine_that_gives_a_sign_is_at_work(place: str) -> None:
    write_lock(place, beats=1)
    sign = threading.Timer(1.0, write_lock, (place,), {"beats": 2})
    sign.start()
    with pytest.raises(InputError, match="of ann on host node7, pid 1"), only_driver(place, silence_seconds=60):
        pass
    sign.join()
    assert json.loads(RunStorage(place).read(LOCK_FILE) or b"")["beats"] == 2


def test_of_several_that_find_a_lost_driver_one_is_left(place: str) -> None:
    write_lock(place)
    with holder(place) as one, holder(place) as two, holder(place) as three:
        words = [first_word(process) for process in (one, two, three)]
        assert sorted(words) == ["", "", "held"]


def test_a_driver_that_was_taken_for_lost_ends_itself(place: str) -> None:
    with holder(place, beat=0.2) as first:
        assert first_word(first) == "held"
        write_lock(place)
        assert first.wait(timeout=30) == 1
        said = first.communicate()[1]
        assert "of ann on host node7" in said
        assert "fix: leave the run to that driver" in said
        assert "kill 1)" in said
    assert json.loads(RunStorage(place).read(LOCK_FILE) or b"")["token"] == "0"


def test_a_lock_that_somebody_removed_is_there_again(place: str) -> None:
    with holder(place, beat=0.2) as first:
        assert first_word(first) == "held"
        RunStorage(place).remove(LOCK_FILE)
        deadline = time.monotonic() + 30
        while RunStorage(place).read(LOCK_FILE) is None and time.monotonic() < deadline:
            time.sleep(0.1)
        assert first.poll() is None
        with pytest.raises(InputError, match=f"pid {first.pid}"), only_driver(place):
            pass


def test_a_damaged_lock_counts_as_silent(tmp_path: Path) -> None:
    (tmp_path / LOCK_FILE).write_text("half a")
    with only_driver(tmp_path, silence_seconds=1):
        assert json.loads((tmp_path / LOCK_FILE).read_text())["pid"] == os.getpid()

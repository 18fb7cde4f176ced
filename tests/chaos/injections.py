"""The faults: each does one thing to a running training, from outside.

An injection takes the disturbed run, returns what it did in a few words, and leaves it to the run's own means, or
to ``Disturbed.ensure_started`` (the same command again), to go on.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
from disturbed import Disturbed, InjectionError
from forked import ForkedRun

from vavl.training.checkpoint import CHECKPOINTS_DIRECTORY, step_of
from vavl.training.checkpoint_files import problem_of
from vavl.training.stop import ask_to_stop
from vavl.training.storage import RunStorage

Injection = Callable[[Disturbed], str]
FILLER = "filler"
_WRITE_LIMIT_BYTES = 512


def kill_worker(run: Disturbed) -> str:
    """SIGKILL one training process."""
    pid = run.draw(run.workers())
    os.kill(pid, signal.SIGKILL)
    return "SIGKILL"


def kill_driver(run: Disturbed) -> str:
    """SIGKILL the driver, then the same command again."""
    run.command.kill()
    return "SIGKILL, same command again"


def kill_while_writing(run: Disturbed) -> str:
    """SIGKILL everything while a checkpoint is half written."""
    root, least = run.folder / CHECKPOINTS_DIRECTORY, run.random.randrange(6)

    def is_writing() -> bool:
        return any(
            sum(path.is_file() for path in folder.parent.rglob("*")) >= least for folder in root.rglob(".writing-*")
        )

    run.wait_until(is_writing, "no checkpoint is written", pause=0.0002)
    run.command.kill()
    found = [(folder, problem_of(RunStorage(folder))) for folder in root.rglob("step-*")]
    left = [(folder, problem) for folder, problem in found if problem is not None]
    if not left:
        raise InjectionError("the checkpoint was whole before the kill")
    folder, problem = left[0]
    count = sum(path.is_file() for path in folder.rglob("*"))
    return f"{count} files of {folder.name} were there: {problem}"


def send_sigterm(run: Disturbed) -> str:
    """SIGTERM to the driver, then the same command again."""
    os.kill(run.command.driver, signal.SIGTERM)
    return _stopped(run, "SIGTERM")


def write_stop_file(run: Disturbed) -> str:
    """Ask by the stop file, then the same command again."""
    ask_to_stop(run.folder, "stop", "chaos")
    return _stopped(run, "stop.json")


def _stopped(run: Disturbed, how: str) -> str:
    """Wait for a clean end with a checkpoint of the last step."""
    run.wait_for_exit(run.STOPPED)
    run.reading.refresh()
    if run.newest_checkpoint() != run.reading.done():
        raise AssertionError(f"stopped at {run.reading.done()}, checkpoint of {run.newest_checkpoint()}")
    return f"{how}, checkpoint of the last step"


def freeze_worker(run: Disturbed) -> str:
    """SIGSTOP one of several training processes: the step never ends until the watchdog fires."""
    moment = time.time()
    pid = run.draw(run.workers())
    os.kill(pid, signal.SIGSTOP)
    try:
        run.wait_until(
            lambda: any("stacks of all ranks" in text for text in run.events("restarted", moment)), "no watchdog fired"
        )
    finally:
        if psutil.pid_exists(pid) and psutil.Process(pid).status() == psutil.STATUS_STOPPED:
            os.kill(pid, signal.SIGKILL)
    stacks = next(text for text in run.events("restarted", moment) if "stacks of all ranks" in text)
    if "Current thread" not in stacks and "Thread 0x" not in stacks:
        raise AssertionError(f"no stack in the message: {stacks}")
    return "SIGSTOP, watchdog, stacks in the message"


def start_second_driver(run: Disturbed) -> str:
    """Start the same command a second time while the first one runs."""
    errors = run.folder.with_name(f"{run.folder.name}.second")
    errors.mkdir(exist_ok=True)
    second = ForkedRun(run.command.plan, errors)
    second.start()
    try:
        run.wait_until(lambda: second.exit_code() is not None, "the second driver does not end")
    finally:
        second.close()
    message = second.error_message()
    if run.command.exit_code() is not None:
        raise AssertionError(f"the first driver ended with {run.command.exit_code()}")
    if second.exit_code() != run.FAILED or str(run.command.driver) not in message:
        raise AssertionError(f"the second driver ended with {second.exit_code()}: {message}")
    return "refused, and told which process has the directory"


def truncate_newest(run: Disturbed) -> str:
    """Kill, and cut the newest checkpoint short."""
    path = _file_of_newest(run)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)
    return _skipped(run, path.parent, f"{path.name} cut to a half")


def flip_byte_of_newest(run: Disturbed) -> str:
    """Kill, and change one bit of the newest checkpoint."""
    path = _file_of_newest(run)
    place = run.random.randrange(path.stat().st_size)
    with path.open("r+b") as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ (1 << run.random.randrange(8))]))
    return _skipped(run, path.parent, f"one bit of {path.name}")


def remove_entry_of_newest(run: Disturbed) -> str:
    """Kill, and remove what one rank writes last: the checkpoint looks as if that rank had not finished."""
    folder = _file_of_newest(run).parent
    path = run.draw(sorted(folder.glob("rank-*.json")))
    path.unlink()
    moment = time.time()
    run.ensure_started()

    def is_resumed() -> bool:
        run.reading.refresh()
        return run.reading.resumed_after(moment) is not None

    run.wait_until(is_resumed, "the run was not resumed")
    resumed = run.reading.resumed_after(moment)
    if resumed is None or resumed.step >= step_of(folder.name):
        raise AssertionError(f"{folder.name} without {path.name} was taken as whole")
    return f"no {path.name}; resumed from the checkpoint before"


def _file_of_newest(run: Disturbed) -> Path:
    """Kill, and choose a file of the newest whole checkpoint that its ranks' entries name."""
    run.wait_until(lambda: len(run.checkpoints()) > 1, "there is one checkpoint only", pause=0.05)
    run.command.kill()
    files = sorted(path for path in run.checkpoints()[-1].glob("*") if path.is_file())
    return run.draw([path for path in files if path.suffix != ".json" or not path.name.startswith("rank-")])


def _skipped(run: Disturbed, newest: Path, what: str) -> str:
    moment = time.time()
    if problem_of(RunStorage(newest)) is None:
        raise AssertionError(f"{newest} still counts as whole")
    run.ensure_started()
    run.wait_until(
        lambda: any(newest.name in text for text in run.events("checkpoint_skipped", moment)),
        f"nobody said that {newest.name} was skipped",
    )
    return f"{what}; skipped with a message"


def fill_disk(run: Disturbed) -> str:
    """Fill the small file system of the run, wait for its clean end, make place, same command again."""
    with full(run.folder.parent):
        run.wait_for_exit(run.FAILED)
        return f"tmpfs full; {_last_good(run)}"


@contextlib.contextmanager
def full(disk: Path) -> Iterator[None]:
    """Leave no byte of a file system while the block works."""
    filler = disk / FILLER
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"\0" * 4096)
    try:
        yield
    finally:
        filler.unlink()


def limit_writes(run: Disturbed) -> str:
    """Let the processes write no file beyond a few bytes (RLIMIT_FSIZE), as a disk that is full."""
    for pid in {run.command.driver, *run.workers()}:
        # Only the soft limit: the same command again has none.
        _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (_WRITE_LIMIT_BYTES, hard))
    run.wait_for_exit(run.FAILED)
    return f"RLIMIT_FSIZE; {_last_good(run)}"


def _last_good(run: Disturbed) -> str:
    whole = run.checkpoints()
    if not whole:
        raise AssertionError("no whole checkpoint is left")
    torn = problem_of(RunStorage(whole[-1]))
    if torn is not None:
        raise AssertionError(f"the last checkpoint is torn: {torn}")
    message = run.command.error_message()
    if "cannot be written" not in message and "could not be written" not in message:
        raise AssertionError(f"no clean end: {message}")
    return f"clean end, {whole[-1].name} is whole"


def go_on_with(**training: Any) -> Injection:
    """Return an injection: SIGTERM, then the same run with other workers or another ZeRO stage."""

    def change(run: Disturbed) -> str:
        before = run.command.plan.training
        os.kill(run.command.driver, signal.SIGTERM)
        _stopped(run, "SIGTERM")
        run.change_training(**training)
        now = run.command.plan.training
        return f"workers {before.workers} -> {now.workers}, ZeRO {before.zero_stage} -> {now.zero_stage}"

    return change

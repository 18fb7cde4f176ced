"""How a run is asked to stop: a file in its directory or at its address reaches every worker, whatever started it."""

from __future__ import annotations

import contextlib
import json
import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as StillRunning
from pathlib import Path
from types import FrameType
from typing import Literal, NamedTuple, TypeVar

from vavl.errors import VavlError
from vavl.training.storage import RunStorage

STOP_FILE = "stop.json"
_LOCAL_POLL_SECONDS = 0.2
_REMOTE_POLL_SECONDS = 2.0

Reason = Literal["stop", "resize"]


class StopRequest(NamedTuple):
    """What ``stop.json`` asks for."""

    reason: Reason
    message: str


def ask_to_stop(output_dir: Path | str, reason: Reason, message: str) -> None:
    """Ask the workers of a run to write a checkpoint after their step and to stop.

    A resize gives way to what was asked before: a run that somebody stopped must not start again.
    """
    content = json.dumps({"reason": reason, "message": message, "time": time.time()}).encode()
    storage = RunStorage(output_dir)
    if reason == "resize":
        storage.create(STOP_FILE, content)
    else:
        storage.write(STOP_FILE, content)


def stop_request(output_dir: Path | str) -> StopRequest | None:
    """Return what is asked for, None without a request; a file that a person made, e.g. an empty one, asks to stop."""
    content = RunStorage(output_dir).read(STOP_FILE)
    if content is None:
        return None
    try:
        found = dict(json.loads(content))
    except (ValueError, TypeError):
        found = {}
    reason: Reason = "resize" if found.get("reason") == "resize" else "stop"
    return StopRequest(reason, str(found.get("message", f"asked by {STOP_FILE}")))


def clear_stop(output_dir: Path | str) -> None:
    """Remove an earlier request, before a run starts."""
    RunStorage(output_dir).remove(STOP_FILE)


class StopWatch:
    """Looks for the request, a few times a second at most; in object storage from a thread of its own."""

    def __init__(self, output_dir: Path | str) -> None:
        self._storage = RunStorage(output_dir)
        self._path = self._storage.local_path(STOP_FILE)
        self._next_look = 0.0
        self._is_asked = False
        if self._path is None:
            threading.Thread(target=self._poll, name="stop-request", daemon=True).start()

    def is_asked(self) -> bool:
        """Return whether this process has seen the request."""
        now = time.monotonic()
        if self._path is not None and not self._is_asked and now >= self._next_look:
            self._next_look = now + _LOCAL_POLL_SECONDS
            self._is_asked = self._path.exists()
        return self._is_asked

    def _poll(self) -> None:
        while not self._is_asked:
            time.sleep(_REMOTE_POLL_SECONDS)
            try:
                self._is_asked = self._storage.read(STOP_FILE) is not None
            except VavlError:  # the storage is away for a moment
                continue


_log = logging.getLogger(__name__)

_LOOK_SECONDS = 0.2

Result = TypeVar("Result")


@contextlib.contextmanager
def stop_on_signals(output_dir: Path | str) -> Iterator[None]:
    """Write the stop request of a run at the first SIGTERM or Ctrl-C; a second one interrupts at once.

    Does nothing outside the main thread, which alone may handle signals. Call it after ``ray.init``,
    which sets a handler of its own.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def on_signal(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        name = signal.Signals(number).name
        for kind, handler in before.items():
            signal.signal(kind, handler)
        _log.warning("%s: stopping after this step, with a checkpoint; once more to stop at once", name)
        ask_to_stop(output_dir, "stop", name)

    before = {kind: signal.getsignal(kind) for kind in (signal.SIGTERM, signal.SIGINT)}
    for kind in before:
        signal.signal(kind, on_signal)
    try:
        yield
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)


def in_thread(work: Callable[[], Result], look: Callable[[], None] = lambda: None) -> Result:
    """Do the work in another thread and wait for it, so that this one receives signals; return its result.

    Ray's waiting does not let Python's signal handlers run.

    ``look``: called several times a second meanwhile.
    """
    pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="attempt")
    done = pool.submit(work)
    pool.shutdown(wait=False)
    while True:
        with contextlib.suppress(StillRunning):
            return done.result(timeout=_LOOK_SECONDS)
        look()

"""Turns SIGTERM and Ctrl-C into a request to stop, so that a run leaves with a checkpoint."""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as StillRunning
from pathlib import Path
from types import FrameType
from typing import TypeVar

from vavl.training.stop import ask_to_stop

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

    Args:
        work: to do.
        look: called several times a second meanwhile.
    """
    pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="attempt")
    done = pool.submit(work)
    pool.shutdown(wait=False)
    while True:
        with contextlib.suppress(StillRunning):
            return done.result(timeout=_LOOK_SECONDS)
        look()

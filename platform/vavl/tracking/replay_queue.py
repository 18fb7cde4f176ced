"""Replays the journals of many runs one after the other, in one background thread."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from pathlib import Path

from vavl.tracking.journal import Journal
from vavl.tracking.mlflow_writer import import_mlflow
from vavl.tracking.model_note import Register
from vavl.tracking.replay import Replay
from vavl.tracking.settings import TrackingSettings

_LONGEST_PAUSE_SECONDS = 120.0
_PATIENCE_SECONDS = 15.0
_log = logging.getLogger(__name__)


class ReplayQueue:
    """Brings finished journals into MLflow while other work goes on; nothing here raises.

    While the store is away only the first in line is tried, with growing pauses: hundreds of runs
    wait no longer than one. What is not written when time is up stays in the journals.

    Args:
        settings: where to track.
        register: what registers a model that a journal records.
    """

    def __init__(self, settings: TrackingSettings, register: Register | None = None) -> None:
        self._settings, self._register = settings, register
        self._waiting: deque[Replay] = deque()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._deadline = 0.0
        self._thread = threading.Thread(target=self._follow, name="mlflow-replay-queue", daemon=True)

    def start(self) -> None:
        """Begin to replay in the background."""
        try:
            import_mlflow()  # here, not in the thread: two threads must not import it at the same time
        except Exception:  # noqa: BLE001  tracking never stops training
            _log.warning("MLflow cannot be imported; the journals keep everything", exc_info=True)
        self._thread.start()

    def add(self, journal: Path) -> Replay:
        """Put a journal in line; it leaves when the store holds all of it."""
        replay = Replay(Journal(journal), self._settings, self._register)
        with self._lock:
            self._waiting.append(replay)
        return replay

    def finish(self, timeout: float) -> bool:
        """Replay what is left and stop; a store that takes nothing for 15 seconds is not waited for.

        Args:
            timeout: longest time to spend, in seconds.

        Returns:
            True when the store holds every journal.
        """
        self._deadline = time.monotonic() + timeout
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(timeout)
        if self._waiting:
            _log.warning(
                "MLflow does not hold %d journal(s) yet; nothing is lost: the next start in this folder "
                "replays the rest",
                len(self._waiting),
            )
        return not self._waiting

    def _follow(self) -> None:
        pause = self._settings.flush_seconds
        while not self._stop.wait(pause):
            all_arrived = self._round()
            pause = self._settings.flush_seconds if all_arrived else min(2 * pause, _LONGEST_PAUSE_SECONDS)
        progress = time.monotonic()
        while self._waiting and time.monotonic() < min(self._deadline, progress + _PATIENCE_SECONDS):
            before = len(self._waiting)
            if not self._round():
                time.sleep(0.5)
            if len(self._waiting) < before:
                progress = time.monotonic()

    def _round(self) -> bool:
        """Replay one after the other until one does not arrive whole or time is up."""
        while self._waiting and not (self._stop.is_set() and time.monotonic() > self._deadline):
            if not self._waiting[0].run_once():
                return False
            with self._lock:
                self._waiting.popleft()
        return True

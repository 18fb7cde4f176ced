"""Replays a journal into MLflow, in order and once, without ever disturbing the training."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Callable

from vavl.tracking.journal import Journal
from vavl.tracking.mlflow_writer import MlflowWriter, import_mlflow
from vavl.tracking.model_note import Register
from vavl.tracking.reachable import unreachable_reason
from vavl.tracking.replay_lock import Follower, only_one
from vavl.tracking.replay_records import RecordReplay
from vavl.tracking.replay_state import ReplayState, read_state, read_states, write_state
from vavl.tracking.settings import TrackingPlace, TrackingSettings, tracking_place
from vavl.tracking.system_metrics import SystemSampler

_LONGEST_PAUSE_SECONDS = 120.0
_LAST_PAUSE_SECONDS = 0.5
_PATIENCE_SECONDS = 15.0
_PROBE_SECONDS = 2.0
_log = logging.getLogger(__name__)


class Replay:
    """Follows a journal and writes it into MLflow; nothing here raises into the caller.

    The position is kept beside the journal, per tracking store: a new ``Replay`` of the same
    journal goes on where the last one stopped, into the same MLflow run. While the store does not
    answer, records wait in the journal and the pauses between attempts grow.

    Args:
        journal: the run's journal.
        settings: where and how to track. Relative places count from the current folder, now.
        register: what registers a model that the journal records.
        on_progress: called with the new state after every request, from the thread that replays.
        gpus: let the system metrics have this machine's GPUs; False where workers report theirs.
    """

    def __init__(
        self,
        journal: Journal,
        settings: TrackingSettings,
        register: Register | None = None,
        on_progress: Callable[[ReplayState], None] | None = None,
        *,
        gpus: bool = True,
    ) -> None:
        self._journal, self._settings, self._register, self._gpus = journal, settings, register, gpus
        self.place: TrackingPlace = tracking_place(settings, os.environ)
        self._records: RecordReplay | None = None
        self._tries: Counter[int] = Counter()
        self._warned = False
        self._complete = False
        self._on_progress = on_progress
        self._follower = Follower(journal.path)
        self.fault = ""
        """Why the last attempt failed, "" when it did not."""
        self._deadline = 0.0
        self._stop = threading.Event()
        self._sampler: SystemSampler | None = None
        self._thread = threading.Thread(target=self._follow, name="mlflow-replay", daemon=True)

    @property
    def state(self) -> ReplayState:
        """What the store holds so far: MLflow run id, model version, refused records."""
        return read_state(self._journal.path, self.place.public_uri)

    def start(self) -> None:
        """Follow the journal in the background until ``finish``; other processes leave it alone so long."""
        try:
            self._follower.take()
            if self.place.public_uri not in read_states(self._journal.path):
                # Whoever goes on with this journal has to know where it belongs, even if nothing arrives.
                self._save(ReplayState())
            if self._settings.system_metrics:
                seconds = self._settings.system_metrics_seconds
                self._sampler = SystemSampler(self._journal, seconds, gpus=self._gpus)
                self._sampler.start()
            import_mlflow()
        except Exception as fault:  # noqa: BLE001  tracking never stops training
            self._warn(fault)
        self._thread.start()

    def finish(self, timeout: float = 60.0) -> bool:
        """Replay what is left and stop; works without ``start`` too.

        A store that takes nothing for 15 seconds is not waited for any longer.

        Args:
            timeout: longest time to spend, in seconds.

        Returns:
            True when the store holds every record. False is logged with the place of the journal;
            the next ``Replay`` of the same journal writes the rest.
        """
        if self._sampler is not None:
            self._sampler.stop()
        self._deadline = time.monotonic() + timeout
        self._stop.set()
        if self._thread.ident is None:
            self._thread.start()
        self._thread.join(timeout)
        self._follower.release()
        if not self._complete:
            _log.warning(
                "MLflow (%s) does not hold the whole run yet; nothing is lost: the journal %s has it, "
                "and the next start in this folder replays the rest",
                self.place.public_uri, self._journal.path,
            )  # fmt: skip
        return self._complete and not self.state.refused

    def run_once(self) -> bool:
        """Replay the records that are there now; returns whether all of them were dealt with."""
        try:
            with only_one(self._journal.path) as is_alone:
                if not is_alone:
                    raise BlockingIOError("another process replays this journal")
                self._replay()
        except Exception as fault:  # noqa: BLE001  tracking never stops training
            self._warn(fault)
            self._records = None  # the next look connects anew
            self.fault = f"{type(fault).__name__}: {fault}"
            return False
        self.fault = ""
        if self._warned:
            _log.info("MLflow (%s) caught up with the journal", self.place.public_uri)
            self._warned = False
        return True

    def _replay(self) -> None:
        # The file is the truth: another process may have replayed since the last look.
        state = self.state
        if state.offset > self._size():
            state = ReplayState()  # the journal was made anew
        if next(self._journal.read(state.seq, state.offset), None) is None:
            return
        reason = unreachable_reason(self.place, _PROBE_SECONDS)
        if reason is not None:
            raise ConnectionError(reason)
        records = self._connected(state)
        records.apply(self._journal.read(records.state.seq, records.state.offset))

    def _connected(self, state: ReplayState) -> RecordReplay:
        if self._records is None:
            writer = MlflowWriter(self._settings, self.place)
            if state.mlflow_run_id is not None and writer.run_stage(state.mlflow_run_id) == "unknown":
                _log.warning(
                    "MLflow (%s) does not know this run any more: replaying all", self.place.public_uri
                )
                state = ReplayState()
            self._records = RecordReplay(
                writer, self._journal, state, self._save, self._tries, self._register
            )
        elif self._records.state.seq != state.seq:
            self._records.state = state
        return self._records

    def _size(self) -> int:
        return self._journal.path.stat().st_size if self._journal.path.exists() else 0

    def _save(self, state: ReplayState) -> None:
        write_state(self._journal.path, self.place.public_uri, state)
        if self._on_progress is not None:
            self._on_progress(state)

    def _follow(self) -> None:
        pause = self._settings.flush_seconds
        while not self._stop.wait(pause):
            pause = (
                self._settings.flush_seconds if self.run_once() else min(2 * pause, _LONGEST_PAUSE_SECONDS)
            )
        self._complete = self.run_once()
        seq, progress = self.state.seq, time.monotonic()
        while not self._complete and time.monotonic() < min(self._deadline, progress + _PATIENCE_SECONDS):
            time.sleep(_LAST_PAUSE_SECONDS)
            self._complete = self.run_once()
            if self.state.seq > seq:
                seq, progress = self.state.seq, time.monotonic()

    def _warn(self, fault: Exception) -> None:
        if not self._warned:
            self._warned = True
            _log.warning(
                "MLflow (%s) cannot be written now (%s: %s); the work goes on and %s keeps everything",
                self.place.public_uri, type(fault).__name__, fault, self._journal.path,
            )  # fmt: skip

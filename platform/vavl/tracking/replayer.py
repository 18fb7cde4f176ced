"""Brings journals into a tracking store from a background thread, without ever disturbing the work that writes them."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from filelock import FileLock, Timeout

from vavl.tracking.holdings import Holdings, Register
from vavl.tracking.journal import JOURNAL_NAME, Journal
from vavl.tracking.mlflow_writer import MlflowWriter, import_mlflow, one_line
from vavl.tracking.records import ReplayState, note_set_aside, read_state, read_states, write_state
from vavl.tracking.replay import RecordReplay
from vavl.tracking.settings import TrackingPlace, TrackingSettings, tracking_place, unreachable_reason

_LONGEST_PAUSE_SECONDS = 120.0
_LAST_PAUSE_SECONDS = 0.5
_PATIENCE_SECONDS = 15.0
_PROBE_SECONDS = 2.0
_TAKE_SECONDS = 1.0
_MOST_FAILURES = 3
_log = logging.getLogger(__name__)


class Replayer:
    """Replays a list of journals, one after the other; nothing here raises into the caller.

    The position is kept next to each journal, per tracking store: a new ``Replayer`` resumes where the last one
    stopped, in the same MLflow run. While the store does not answer, records wait in the journals, only the first in
    line is tried, and the pauses between attempts grow. A store that no longer knows a run gets all of it again, and so
    do the other runs in the directory of the first journal. ``start`` keeps other processes away from the first
    journal, the caller's own. ``on_progress`` is called with the new state after every request, from the thread that
    replays. With ``compares`` the store is asked what it really holds, instead of believing the position.
    """

    def __init__(
        self,
        journals: Sequence[Journal],
        settings: TrackingSettings,
        register: Register | None = None,
        on_progress: Callable[[ReplayState], None] | None = None,
        *,
        compares: bool = False,
    ) -> None:
        self._settings, self._register, self._on_progress = settings, register, on_progress
        self._own, self._compares = journals[0] if journals else None, compares
        self.place: TrackingPlace = tracking_place(settings, os.environ)
        self.error = ""
        """Why the last attempt failed, "" when it did not."""
        self._line, self._leftovers = list(journals), list[Journal]()
        self._lock = threading.Lock()
        self._connections: dict[Path, RecordReplay] = {}
        self._compared: set[Path] = set()
        self._writer: MlflowWriter | None = None
        self._following = following(self._own.path) if self._own else None
        self._is_warned, self._has_refused = False, False
        self._deadline, self._stop = 0.0, threading.Event()
        self._thread = threading.Thread(target=self._follow, name="mlflow-replay", daemon=True)

    @property
    def state(self) -> ReplayState:
        """What the store holds of the caller's own journal: MLflow run id, model version, refused records."""
        return self.state_of(self._own) if self._own else ReplayState()

    def state_of(self, journal: Journal) -> ReplayState:
        """Return what the store holds of a journal so far."""
        return read_state(journal.path, self.place.public_uri)

    def add(self, path: Path) -> Journal:
        """Put a journal in line; it leaves when the store holds all of it."""
        journal = Journal(path)
        with self._lock:
            self._line.append(journal)  # a second time too: the thread may be taking it out at this moment
        return journal

    def add_leftovers(self, directory: Path) -> None:
        """Replay runs below a directory that ended while the store was away; ``finish`` does not wait for them."""
        self._leftovers += [Journal(path) for path in unfinished_journals(directory, self._settings)]

    def start(self) -> None:
        """Follow the journals in the background until ``finish``; other processes leave the own one alone so long."""
        try:
            if self._own is not None and self._following is not None:
                self._own.path.parent.mkdir(parents=True, exist_ok=True)
                with contextlib.suppress(Timeout):  # another living process has it
                    self._following.acquire(_TAKE_SECONDS)
                if self.place.public_uri not in read_states(self._own.path):
                    # Whoever resumes this journal has to know where it belongs, even if nothing arrives.
                    self._save(self._own, ReplayState())
            import_mlflow()  # here, not in the thread: two threads must not import it at the same time
        except Exception as error:  # noqa: BLE001  tracking never stops the work
            self._failed(error)
        self._thread.start()

    def finish(self, timeout: float = 60.0) -> bool:
        """Replay what is left and stop; works without ``start`` too.

        A store that takes nothing for 15 seconds is not waited for any longer.

        Returns:
            True when the store holds every record. False is logged with the place of the journals;
            the next ``Replayer`` of the same journals writes the rest.
        """
        self._deadline = time.monotonic() + timeout
        self._stop.set()
        if self._thread.ident is None:
            self._thread.start()
        self._thread.join(timeout)
        if self._following is not None:
            self._following.release()
        if self._line:
            lacking = f"MLflow ({self.place.public_uri}) does not hold {len(self._line)} journal(s) to the end yet"
            kept = f"{self._line[0].path} has it, and the next start in this directory replays the rest"
            _log.warning("%s; nothing is lost: %s", lacking, kept)
        return not self._line and not self._has_refused

    def run_once(self) -> bool:
        """Replay the records that are there now; returns whether all of them were dealt with."""
        failures, todo = 0, list(self._line)
        while todo:
            journal = todo.pop(0)
            if self._stop.is_set() and 0 < self._deadline < time.monotonic():
                return False
            try:
                self._bring(journal)
            except Exception as error:  # noqa: BLE001  tracking never stops the work
                self._failed(error)
                failures += 1
                if isinstance(error, ConnectionError) or failures == _MOST_FAILURES:
                    return False  # the others would fail as well
                continue
            self._has_refused |= bool(self.state_of(journal).refused)
            if journal is not self._own:
                with self._lock:
                    self._line.remove(journal)
            if not todo and not failures:
                todo = [added for added in self._line if added is not self._own]  # meanwhile
        if failures == 0:
            self._caught_up()
        return failures == 0

    def _caught_up(self) -> None:
        self.error = ""
        if self._is_warned:
            _log.info("MLflow (%s) caught up with the journal", self.place.public_uri)
            self._is_warned = False

    def _bring_leftovers(self) -> None:
        """Give the runs that were left over a turn, of which the own journal notices nothing."""
        until = time.monotonic() + self._settings.flush_seconds
        try:
            while self._leftovers and self._bring(self._leftovers[0], until):
                _log.info("%s: replayed a run that ended while MLflow was away", self._leftovers.pop(0).path)
        except Exception as error:  # noqa: BLE001  tracking never stops the work
            self._failed(error)

    def _bring(self, journal: Journal, until: float = float("inf")) -> bool:
        with only_one(journal.path) as is_alone:
            if not is_alone:
                raise BlockingIOError("another process replays this journal")
            # The file is the truth: another process may have replayed since the last look.
            state = self.state_of(journal)
            if state.offset > (journal.path.stat().st_size if journal.path.exists() else 0):
                state = ReplayState()  # the journal was made anew
            is_compared = not self._compares or journal.path in self._compared
            if is_compared and next(journal.read(state.seq, state.offset), None) is None:
                return True
            reason = unreachable_reason(self.place, _PROBE_SECONDS)
            if reason is not None:
                raise ConnectionError(reason)
            records = self._connections.get(journal.path)
            if records is None:
                records = self._connections[journal.path] = self._connect(journal, state)
            elif records.state.seq != state.seq:
                records.state = state
            return records.apply(journal.read(records.state.seq, records.state.offset), until)

    def _connect(self, journal: Journal, state: ReplayState) -> RecordReplay:
        if self._writer is None:
            self._writer = MlflowWriter(self._settings, self.place)
        known = known_runs(self._writer, state)
        if state.mlflow_run_id is not None and state.run_id not in known:
            _log.warning("MLflow (%s) does not know this run any more: replaying all", self.place.public_uri)
            state = ReplayState()
            self._look_again()
        if self._compares and journal.path not in self._compared:
            state = ReplayState(mlflow_runs=known)
            note_set_aside(journal.path, self._writer.store, None)
            self._compared.add(journal.path)
        held = Holdings(self._writer.client) if self._compares else None
        return RecordReplay(self._writer, journal, state, partial(self._save, journal), self._register, held)

    def _look_again(self) -> None:
        """Put the other runs of this directory in line: a store that lost one may have lost all."""
        if self._own is None or self._compares:
            return
        for path in self._own.path.parent.rglob(JOURNAL_NAME):
            if self.place.public_uri in read_states(path) and path != self._own.path:
                write_state(path, self.place.public_uri, ReplayState())
                self.add(path)

    def _save(self, journal: Journal, state: ReplayState) -> None:
        write_state(journal.path, self.place.public_uri, state)
        if self._on_progress is not None:
            self._on_progress(state)

    def _follow(self) -> None:
        pause = 0.0
        while not self._stop.wait(pause):
            if self.run_once():
                self._bring_leftovers()
                pause = self._settings.flush_seconds
            else:
                pause = min(max(2 * pause, self._settings.flush_seconds), _LONGEST_PAUSE_SECONDS)
        is_complete, reached, progress = self.run_once(), self._reached(), time.monotonic()
        while not is_complete and time.monotonic() < min(self._deadline, progress + _PATIENCE_SECONDS):
            time.sleep(_LAST_PAUSE_SECONDS)
            is_complete = self.run_once()
            if self._reached() != reached:
                reached, progress = self._reached(), time.monotonic()
        if is_complete:
            self._line.clear()

    def _reached(self) -> tuple[int, int]:
        return len(self._line), self.state_of(self._line[0]).seq if self._line else 0

    def _failed(self, error: Exception) -> None:
        self.error = one_line(error)
        self._connections.clear()  # the next look connects anew
        self._writer = None
        if not self._is_warned:
            self._is_warned = True
            kept = self._line[0].path if self._line else "its journal"
            text = "MLflow (%s) cannot be written now (%s); the work continues and %s keeps everything"
            _log.warning(text, self.place.public_uri, self.error, kept)


def known_runs(writer: MlflowWriter, state: ReplayState) -> dict[str, str]:
    """Return those MLflow runs of a state that the store still knows, by the run ids of the journal."""
    return {run: own for run, own in state.mlflow_runs.items() if own and writer.run_stage(own) != "unknown"}


def unfinished_journals(directory: Path, settings: TrackingSettings) -> Iterator[Path]:
    """Yield the journals below ``directory`` that did not reach the tracking store to their end.

    A journal that another store holds completely counts as finished: it belongs there.
    """
    public_uri = tracking_place(settings, os.environ).public_uri
    for path in sorted(directory.rglob(JOURNAL_NAME)):
        states = read_states(path)
        reached = states.get(public_uri) or max(states.values(), key=lambda state: state.seq, default=ReplayState())
        if next(Journal(path).read(reached.seq, reached.offset), None) is not None:
            yield path


@contextlib.contextmanager
def only_one(journal: Path) -> Iterator[bool]:
    """Yield whether this is the only replay of ``journal``, for as long as the block lasts."""
    lock = FileLock(f"{journal}.replaying")
    has_directory = journal.parent.exists()
    if has_directory:
        with contextlib.suppress(Timeout):
            lock.acquire(0)
    try:
        yield lock.is_locked or not has_directory
    finally:
        lock.release()


def following(journal: Path) -> FileLock:
    """Return the lock by which a living process shows that it takes care of a journal, and of those below it.

    It ends with the process, however that ends.
    """
    return FileLock(f"{journal}.followed", thread_local=False)


def is_followed(journal: Path) -> bool:
    """Tell whether a living run takes care of ``journal``: its own, or one in a directory above it.

    A training run replays what earlier runs in its directory left over, a comparison the journals of its training runs.
    """
    return any(_is_held(following(directory / journal.name)) for directory in journal.absolute().parents)


def _is_held(lock: FileLock) -> bool:
    try:
        if Path(lock.lock_file).exists():
            lock.acquire(0)
            lock.release()
    except Timeout:
        return True
    except OSError:
        pass
    return False

"""The journal of a run: an append-only file of JSON lines that is the truth about the run, and its events.

Events say what happened next to the metrics: restarts, resumes, skipped steps, checkpoints left out.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import fcntl
import json
import logging
import math
import os
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast, get_args

from vavl.config.files import make_directory
from vavl.errors import TrackingError, VavlError

Kind = Literal["run_start", "step", "epoch", "event", "system", "artifact", "model", "run_end"]

_KINDS: frozenset[str] = frozenset(get_args(Kind))
JOURNAL_NAME = "journal.jsonl"
_TAIL_BYTES = 64 * 1024
_MOST_WAITING = 100_000
_NAMED = ("what", "step", "message")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Record:
    """One line of a journal."""

    seq: int  # 1, 2, 3, ... in the order of writing
    kind: Kind  # what happened
    time: float  # seconds since the epoch
    payload: dict[str, Any]  # the values, as JSON types
    end: int  # byte position behind the line; reading can resume from there
    start: int = 0  # byte position of the line

    @property
    def metrics(self) -> dict[str, Any]:
        """Values by name; empty where the record has none, or something else in their place."""
        found = self.payload.get("metrics")
        return found if isinstance(found, dict) else {}


@dataclass(frozen=True)
class Journal:
    """Appends records to one file; several processes of one machine may take turns.

    Holds no open file, so it can be pickled into another process. A line that was torn by a killed process is skipped
    when reading and closed off by the next append. The directory of ``path`` is created by the first append; the path
    is made absolute, since other processes work in other directories. ``clock`` gives seconds since the epoch.
    """

    path: Path
    clock: Callable[[], float] = field(default=time.time, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", self.path.absolute())

    def append(self, kind: Kind, *, at: float | None = None, **payload: Any) -> int:
        """Write one record and hand it to the operating system.

        Numpy scalars, paths and tuples of the payload are converted, a number that is not finite becomes null. ``at``
        is in seconds since the epoch, now by default.

        Returns:
            The record's ``seq``.

        Raises:
            TrackingError: the file cannot be written (disk full, no permission).
        """
        return self.append_all([(kind, payload)], at=at)

    def append_all(self, records: Sequence[tuple[Kind, Mapping[str, Any]]], *, at: float | None = None) -> int:
        """Write several records under one lock; returns the last ``seq``, see ``append``."""
        unknown = {kind for kind, _ in records} - _KINDS
        if unknown:
            raise ValueError(f"unknown kinds of record {sorted(unknown)}; known: {sorted(_KINDS)}")
        moment = self.clock() if at is None else at
        if not self.path.parent.is_dir():
            make_directory(self.path.parent)
        try:
            with self._locked_file() as file:
                last, ends_whole = _last_seq(file)
                lines = [
                    json.dumps({"seq": last + place, "time": moment, "kind": kind, **clean(payload)})
                    for place, (kind, payload) in enumerate(records, start=1)
                ]
                # A line torn by a killed process is ended here, so that it spoils only itself.
                text = ("" if ends_whole else "\n") + "".join(line + "\n" for line in lines)
                _write_or_undo(file, text.encode())
        except OSError as error:
            problem = f"the journal cannot be written: {error.strerror or error}"
            raise TrackingError(str(self.path), "", problem, "free disk space") from None
        return last + len(records)

    def read(self, after_seq: int = 0, offset: int = 0) -> Iterator[Record]:
        """Yield the whole records behind ``after_seq``, in order.

        ``offset`` is an ``end`` of an earlier record, in bytes; one behind the end of the file counts as 0.
        """
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            file.seek(offset if offset <= self.path.stat().st_size else 0)
            for line in file:
                if not line.endswith(b"\n"):
                    return  # still being written, or torn: the next append will end it
                content = _parsed(line)
                if content is None and line.strip():
                    _log.warning("%s: skipped a torn line before byte %d", self.path, file.tell())
                if content is not None and content["seq"] > after_seq:
                    after_seq = content["seq"]
                    yield _record(content, file.tell(), len(line))

    def end(self) -> int | None:
        """Return the ``seq`` of the run's end; None while the run continues, or where its process died before it.

        Measurements of the machine that come behind the end do not count.
        """
        last = None
        for record in self.read(offset=self._tail_start()):
            if record.kind in ("run_start", "step", "epoch", "run_end"):
                last = record
        return last.seq if last is not None and last.kind == "run_end" else None

    def _tail_start(self) -> int:
        """Return the start of the first line within the last 64 KiB."""
        if not self.path.exists():
            return 0
        with self.path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            if size <= _TAIL_BYTES:
                return 0
            file.seek(size - _TAIL_BYTES)
            file.readline()
            return file.tell()

    @contextlib.contextmanager
    def _locked_file(self) -> Iterator[int]:
        # The file is its own lock: taken once per append, this costs a fiftieth of a second file and its FileLock.
        file = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield file
        finally:
            os.close(file)


@dataclass(frozen=True)
class JournalSink:
    """Writes what the training loop reports; picklable, for Ray's controller process.

    A journal that cannot be written (full disk, share gone for a while) never stops the training run:
    the records wait in memory and go first, with their own times, as soon as it can. Beyond
    100,000 waiting records the oldest are given up, and the log says so.
    """

    journal: Journal  # of the run
    # records that could not be written yet, each with its time
    waiting: deque[tuple[Kind, dict[str, Any]]] = field(default_factory=deque, compare=False, repr=False)

    def __call__(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Append the records in order, behind those that wait."""
        was_waiting = len(self.waiting)
        now = self.journal.clock()
        for record in records:
            # A record that waits keeps the time at which it happened.
            payload = {"time": now, **{name: value for name, value in record.items() if name != "kind"}}
            self.waiting.append((cast("Kind", record["kind"]), payload))
        try:
            self.journal.append_all(list(self.waiting))
        except (VavlError, OSError) as error:
            self._keep(error, was_waiting)
            return
        self.waiting.clear()
        if was_waiting:
            _log.warning("%s: can be written again; %d records had waited", self.journal.path, was_waiting)

    def _keep(self, error: Exception, was_waiting: int) -> None:
        lost = max(0, len(self.waiting) - _MOST_WAITING)
        for _ in range(lost):
            self.waiting.popleft()
        if lost:
            _log.error("%s: %d records are lost, too many wait for the disk", self.journal.path, lost)
        if not was_waiting:
            _log.error("the training run continues and keeps its records in memory, but: %s", error)


class JournalReader:
    """Reads a journal on from where it stopped: a poll costs what is new, however long the journal is.

    Holds no open file, so it can be pickled into another process. A last line that is still being written is
    read once it is whole.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._last: Record | None = None
        self.began_anew = False
        """Whether the last ``read`` began at the start of another file than the ``read`` before it."""

    def read(self) -> Iterator[Record]:
        """Yield the whole records that no earlier ``read`` yielded, in order.

        When the last of those no longer stands at its place, the journal was truncated, moved aside or replaced:
        then all records are new. While there is no file there is none.
        """
        self.began_anew = False
        if not self._journal.path.exists():
            return
        records = self._journal.read(offset=self._last.start if self._last else 0)
        if self._last is not None and next(records, None) != self._last:
            self._last, self.began_anew = None, True
            records = self._journal.read()
        for record in records:
            self._last = record
            yield record


def clean(value: Any) -> Any:
    """Turn ``value`` into JSON types: numpy and torch scalars, paths, tuples; not finite becomes None."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): clean(item) for key, item in value.items()}
    if hasattr(value, "tolist"):
        return clean(value.tolist())
    if isinstance(value, Iterable):
        return [clean(item) for item in value]
    return str(value)


def _record(content: dict[str, Any], end: int, length: int) -> Record:
    payload = {key: value for key, value in content.items() if key not in ("seq", "kind", "time")}
    kind = cast("Kind", content["kind"])
    return Record(content["seq"], kind, float(content["time"]), payload, end, end - length)


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        content = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(content, dict) or not isinstance(content.get("seq"), int):
        return None
    moment = content.get("time")
    is_moment = isinstance(moment, (int, float)) and math.isfinite(moment)
    return content if content.get("kind") in _KINDS and is_moment else None


def _last_seq(file: int) -> tuple[int, bool]:
    """Return the last written ``seq`` (0 for none) and whether the file ends with a whole line."""
    size = os.fstat(file).st_size
    if size == 0:
        return 0, True
    ends_whole = os.pread(file, 1, size - 1) == b"\n"
    length = 0
    while length < size:
        length = min(size, max(_TAIL_BYTES, 4 * length))
        lines = os.pread(file, length, size - length).split(b"\n")
        # The first piece may be the end of a longer line, unless the whole file was read.
        for line in reversed(lines if length == size else lines[1:]):
            content = _parsed(line)
            if content is not None:
                return content["seq"], ends_whole
    return 0, ends_whole


def _write_or_undo(file: int, content: bytes) -> None:
    """Write all, or cut the file back: half of the records would be written a second time later."""
    size = os.fstat(file).st_size
    try:
        while content:
            content = content[os.write(file, content) :]
    except OSError:
        with contextlib.suppress(OSError):
            os.ftruncate(file, size)
        raise


@dataclass(frozen=True)
class Event:
    """One event of a run."""

    time: float  # seconds since the epoch
    what: str  # short word: restarted, resumed, stopped, grown, shrunk, skipped_step, rolled_back ..
    step: int | None  # optimizer step at which it happened, None where there is none
    message: str  # for a person
    facts: dict[str, Any] = field(default_factory=dict)  # further values, as JSON types

    @property
    def moment(self) -> str:
        """Date and time in UTC, to the second; what is no time of our calendar as it is."""
        try:
            return dt.datetime.fromtimestamp(self.time, dt.UTC).strftime("%Y-%m-%d %H:%M:%S")
        except (ValueError, OverflowError, OSError):
            return f"second {self.time}"

    @property
    def facts_in_words(self) -> str:
        """The further values in one line."""
        return ", ".join(f"{name}: {value}" for name, value in self.facts.items())

    def in_words(self, *, with_step: bool = True) -> str:
        """Return what happened as one line."""
        place = f" at step {self.step}" if with_step and self.step is not None else ""
        text = f"{self.what.replace('_', ' ')}{place}"
        return f"{text}: {self.message}" if self.message else text


def run_events(records: Iterable[Record], run_id: str | None = None) -> list[Event]:
    """Return the events of a run in the order of the journal.

    A run that resumes from a checkpoint reports again what it had reported since: an event that is equal to an earlier
    one, its time included, is the same event and is listed once. ``run_id`` chooses the run of a journal of several;
    all events by default.
    """
    events: dict[str, Event] = {}
    is_in_run = run_id is None
    for record in records:
        if record.kind == "run_start" and run_id is not None:
            is_in_run = record.payload.get("run_id") == run_id
        elif record.kind == "event" and is_in_run:
            key = json.dumps([record.time, record.payload], sort_keys=True)
            events.setdefault(key, event_of(record))
    return list(events.values())


def count_events(events: Iterable[Event]) -> dict[str, int]:
    """Return how often each kind of event happened, by its word."""
    return dict(sorted(Counter(event.what for event in events).items()))


def event_of(record: Record) -> Event:
    """Read a record of kind ``event``; what it lacks stays empty."""
    payload = record.payload
    facts = {name: value for name, value in payload.items() if name not in _NAMED}
    what, message = str(payload.get("what", "event")), str(payload.get("message", ""))
    return Event(record.time, what, payload.get("step"), message, facts)

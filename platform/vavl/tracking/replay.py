"""Applies the records of a journal to a tracking store, in order and once, and keeps count of what arrived.

Two kinds of failures are kept apart. The **destination** fails (full disk, missing directory, unmounted share, unknown
run, error of a server, no permission): the record waits and is tried again, in order. The **record** fails, and always
will (its file is gone, its step is no number, MLflow refuses its name): it is set aside, by name, in a file.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from vavl.config.base import FrozenConfig
from vavl.config.files import read_json, write_json, write_text
from vavl.errors import TrackingError, VavlError
from vavl.tracking.events import run_events
from vavl.tracking.journal import Journal, JournalReader, Record, clean
from vavl.tracking.mlflow_writer import POINTS_PER_REQUEST, Holdings, MlflowWriter, Point
from vavl.tracking.model_note import ModelNote, Register

_POINT_KINDS = ("step", "epoch", "system")
_LONGEST_REASON = 500
_LARGEST_STEP = 2**63 - 1
_log = logging.getLogger(__name__)


class ReplayState(FrozenConfig):
    """What one tracking store already holds of a journal.

    Attributes:
        seq: last record that arrived; ``offset`` is the byte position behind it.
        mlflow_runs: MLflow run ids by the run ids of the journal; ``run_id`` is the current one.
        started: seconds since the epoch at which the current run first started.
        last_steps: last step by metric name; a resumed run repeats steps, the store keeps the first.
        refused: records that were set aside, with their kind, name and reason.
    """

    seq: int = 0
    offset: int = 0
    run_id: str | None = None
    mlflow_runs: dict[str, str] = Field(default_factory=dict)
    started: float = 0.0
    last_steps: dict[str, int] = Field(default_factory=dict)
    model_name: str | None = None
    model_version: str | None = None
    refused: dict[int, str] = Field(default_factory=dict)

    @property
    def mlflow_run_id(self) -> str | None:
        """MLflow's id of the current run, None before it was created."""
        return self.mlflow_runs.get(self.run_id) if self.run_id is not None else None


class MalformedRecord(Exception):  # noqa: N818  a statement on a record, caught here
    """A record that no store will ever take."""


class RecordReplay:
    """Moves records into a store, in order; ``state`` says how far it came.

    A record that is malformed is set aside; any other failure is raised with ``state`` in front of that record.

    Args:
        writer: the connection.
        journal: where the records come from; relative paths count from its directory, so that a run can be moved.
        state: where to resume.
        save: called with the new state after every request; None sends nothing and notes in ``lacking`` what would be.
        register: what registers a model; None where no journal has one.
        held: what the store holds already: only what it lacks is sent.
    """

    def __init__(
        self,
        writer: MlflowWriter,
        journal: Journal,
        state: ReplayState,
        save: Callable[[ReplayState], None] | None,
        register: Register | None = None,
        held: Holdings | None = None,
    ) -> None:
        self.state, self.lacking = state, list[int]()
        self._writer, self._reader, self._save = writer, JournalReader(journal), save
        self._journal, self._folder = journal, journal.path.parent
        self._register, self._held, self._is_dry = register, held, save is None
        self._events: list[Record] = []
        self._last_event = 0
        self._end = journal.end() if held else None

    def apply(self, records: Iterable[Record], until: float = math.inf) -> bool:
        """Write the records; consecutive metrics travel together.

        Args:
            records: behind ``state``.
            until: time of ``time.monotonic`` from which no further request begins.

        Returns:
            Whether all records were dealt with.

        Raises:
            Exception: the store does not take them; ``state`` holds what arrived.
        """
        for group in _requests(records, 1 if self._is_dry else POINTS_PER_REQUEST):
            if time.monotonic() > until:
                return False
            self._apply(group)
        return True

    def _apply(self, group: Sequence[Record]) -> None:
        try:
            change = self._send(group)
        except Exception as fault:
            if not self._is_records_own(group[0], fault):
                raise
            if len(group) == 1:
                self._set_aside(group[0], fault)
                return
            middle = len(group) // 2  # one of them spoils the request: find it
            self._apply(group[:middle])
            self._apply(group[middle:])
            return
        self._arrived(group[-1], **change)

    def _send(self, group: Sequence[Record]) -> dict[str, object]:
        """Write a group, or the part that the store lacks; returns what changes in the state."""
        record, run_id = group[0], self.state.mlflow_run_id
        if record.kind == "run_start":
            return self._open_run(record)
        if run_id is None:
            return {}
        match record.kind:
            case "artifact":
                self._log_artifact(run_id, record)
            case "model":
                return self._register_model(run_id, record)
            case "event":
                self._log_events(run_id, record)
            case "run_end":
                self._end_run(run_id, record)
            case _:
                return self._log_points(run_id, group)
        return {}

    def _skips(self, record: Record, *, is_held: bool) -> bool:
        """Tell whether a record is not to be sent; a dry run notes what would be."""
        if not is_held and self._is_dry:
            self.lacking.append(record.seq)
        return is_held or self._is_dry

    def _log_points(self, run_id: str, group: Sequence[Record]) -> dict[str, object]:
        points, last_steps = fresh_points(group, self.state)
        if self._held:
            points = self._held.lacking_points(run_id, points)
        if not self._skips(group[0], is_held=not points):
            self._writer.log_points(run_id, points)
        return {"last_steps": last_steps}

    def _log_artifact(self, run_id: str, record: Record) -> None:
        path, place = _text_of(record, "path"), record.payload.get("artifact_path")
        source = self._folder / path
        if self._skips(record, is_held=bool(self._held and self._held.has_files(run_id, source, place))):
            return
        check_readable(source)
        try:
            self._writer.log_artifact(run_id, source, place)
        except OSError:
            check_readable(source)  # it may have gone meanwhile; else the store failed
            raise

    def _register_model(self, run_id: str, record: Record) -> dict[str, object]:
        if not record.payload.get("name"):
            return {}
        name, tags = f"{self.state.run_id}:{record.seq}", record.payload.get("tags", {})
        note = ModelNote(self._folder / _text_of(record, "folder"), _text_of(record, "name"), name, tags)
        version = self._held.version(run_id, note) if self._held else None
        if not self._skips(record, is_held=version is not None):
            if self._register is None:
                raise TrackingError(
                    note.name, "", "is recorded by a run that registers no models", "report this as a bug"
                )
            version = self._register(self._writer.client, run_id, note)
        return {"model_name": note.name, "model_version": version}

    def _log_events(self, run_id: str, record: Record) -> None:
        """Write the whole list anew, once for all events that the journal holds by now."""
        if record.seq <= self._last_event:
            return
        fresh = [one for one in self._reader.read() if one.kind in ("run_start", "event")]
        self._events = fresh if self._reader.began_anew else [*self._events, *fresh]
        events = run_events(self._events, self.state.run_id)
        if not self._skips(record, is_held=bool(self._held and self._held.has_events(run_id, events))):
            self._writer.log_events(run_id, events)
        self._last_event = self._events[-1].seq

    def _end_run(self, run_id: str, record: Record) -> None:
        status, points = str(record.payload.get("status", "FINISHED")), metric_points(record, self.state)
        is_held = self._held is not None and not self._held.lacking_points(run_id, points)
        if self._held and record.seq == self._end:
            is_held = is_held and self._held.has_status(run_id, status)
        if not self._skips(record, is_held=is_held):
            self._writer.log_points(run_id, points)
            self._writer.end_run(run_id, status, record.time)

    def _open_run(self, record: Record) -> dict[str, object]:
        run_id, state = _text_of(record, "run_id"), self.state
        _text_of(record, "experiment")
        mlflow_run = state.mlflow_runs.get(run_id)
        if self._held:
            mlflow_run = mlflow_run or self._writer.find_run(record.payload) or ""
        is_held = bool(self._held and mlflow_run and self._held.has_start(mlflow_run, record.payload))
        if not self._skips(record, is_held=is_held):
            mlflow_run = self._writer.open_run(record, mlflow_run or None)
        same = run_id == state.run_id
        return {
            "run_id": run_id,
            "mlflow_runs": {**state.mlflow_runs, run_id: mlflow_run or ""},
            "started": state.started if same else record.time,
            "last_steps": state.last_steps if same else {},
        }

    def _is_records_own(self, record: Record, fault: Exception) -> bool:
        """Tell a record that can never be written from a store that cannot be written now."""
        if isinstance(fault, MalformedRecord):
            return True
        if record.kind == "run_start":
            return False  # without its run nothing of the journal has a place
        if isinstance(fault, VavlError):
            return True  # the directory holds no model
        if getattr(fault, "error_code", "") != "INVALID_PARAMETER_VALUE":
            return False
        # MLflow says the same of a run that a person has deleted.
        run_id = self.state.mlflow_run_id
        return bool(run_id) and self._writer.run_stage(str(run_id)) == "active"

    def _set_aside(self, record: Record, fault: Exception) -> None:
        reason = str(fault) if isinstance(fault, MalformedRecord) else f"{type(fault).__name__}: {fault}"
        text = (
            f"{record.kind} {name_of(record)}: {reason}"[:_LONGEST_REASON].encode(errors="replace").decode()
        )
        if not self._is_dry:
            path = set_aside_path(self._journal.path)
            _log.warning(
                "record %d cannot be written to MLflow and is set aside in %s: %s", record.seq, path, text
            )
            entry = {"reason": text, "kind": record.kind, "time": record.time, **record.payload}
            note_set_aside(self._journal.path, self._writer.store, {record.seq: clean(entry)})
        self._arrived(record, refused={**self.state.refused, record.seq: text})

    def _arrived(self, record: Record, **change: object) -> None:
        self.state = self.state.model_copy(update={"seq": record.seq, "offset": record.end, **change})
        if self._save is not None:
            self._save(self.state)


def metric_points(record: Record, state: ReplayState) -> list[Point]:
    """Return the metric points of a record; values that are missing (null) are left out.

    The step of a system sample is the number of seconds since the run started.

    Raises:
        MalformedRecord: metrics, step or epoch are not what they should be.
    """
    try:
        values = {**record.payload.get("metrics", {})}
        if record.kind == "system":
            step = int(record.time - state.started)
        elif record.kind == "run_end":
            own = (last for name, last in state.last_steps.items() if not name.startswith("system/"))
            step = max(own, default=0)
        else:
            step = int(record.payload["step"])
        if record.kind == "epoch":
            values["epoch"] = record.payload["epoch"]
        numbers = {name: float(value) for name, value in values.items() if isinstance(value, (int, float))}
    except (KeyError, TypeError, ValueError, OverflowError) as fault:
        raise MalformedRecord(f"{type(fault).__name__}: {fault}") from None
    if abs(step) > _LARGEST_STEP or abs(record.time) * 1000 > _LARGEST_STEP:
        raise MalformedRecord(f"step {step} at second {record.time} is out of range")
    return [(name, value, record.time, step) for name, value in numbers.items()]


def fresh_points(records: Iterable[Record], state: ReplayState) -> tuple[list[Point], dict[str, int]]:
    """Return the points of some records without the steps that a resumed run went through a second time.

    Both times may travel in one request: a worker group that is started anew writes no ``run_start``. Also returns
    the last step by metric name behind them.
    """
    fresh, steps = [], dict(state.last_steps)
    for record in records:
        for point in metric_points(record, state):
            name, _, _, step = point
            if step > steps.get(name, -1):
                fresh.append(point)
                steps[name] = step
    return fresh, steps


def name_of(record: Record) -> str:
    """Return what a person recognizes a record by: its file, model or metrics."""
    payload = record.payload
    metrics = payload.get("metrics")
    names = ", ".join(metrics) if isinstance(metrics, dict) else ""
    return str(
        payload.get("path") or payload.get("name") or payload.get("run_id") or payload.get("what") or names
    )


def check_readable(source: Path) -> None:
    """Refuse a file or a directory that cannot be sent.

    Raises:
        MalformedRecord: names the file that is missing or cannot be read.
    """
    if not source.exists():
        raise MalformedRecord(f"{source} does not exist any more")
    for path in source.rglob("*") if source.is_dir() else (source,):
        try:
            if path.is_file():
                path.open("rb").close()
        except OSError as fault:
            raise MalformedRecord(f"{path} cannot be read: {fault.strerror}") from None


def _text_of(record: Record, key: str) -> str:
    value = record.payload.get(key)
    if not isinstance(value, str) or "\0" in value:
        raise MalformedRecord(f"{key} is {value!r}, no text")
    return value


def _requests(records: Iterable[Record], most_points: int) -> Iterator[list[Record]]:
    """Group the records: consecutive metrics up to the size of a request, everything else alone."""
    group: list[Record] = []
    size = 0
    for record in records:
        metrics = record.payload.get("metrics")
        count = (len(metrics) if isinstance(metrics, dict) else 0) + 1
        if group and (record.kind not in _POINT_KINDS or size + count > most_points):
            yield group
            group, size = [], 0
        if record.kind in _POINT_KINDS:
            group.append(record)
            size += count
        else:
            yield [record]
    if group:
        yield group


def state_path(journal: Path) -> Path:
    """Return the file with the positions."""
    return journal.with_name(journal.name + ".replayed.json")


def set_aside_path(journal: Path) -> Path:
    """Return the file next to ``journal`` with the records that a store will never take: store -> seq -> record."""
    return journal.with_name(journal.name + ".set_aside.json")


def read_state(journal: Path, public_uri: str) -> ReplayState:
    """Return the state for one tracking store; a new one when nothing was replayed to it yet.

    A state that cannot be read counts as new: replaying once more changes nothing in the store.
    """
    return read_states(journal).get(public_uri, ReplayState())


def write_state(journal: Path, public_uri: str, state: ReplayState) -> None:
    """Keep ``state``; the entries of other stores stay."""
    states = {**read_states(journal), public_uri: state}
    write_json(state_path(journal), {uri: entry.model_dump(mode="json") for uri, entry in states.items()})


def read_states(journal: Path) -> dict[str, ReplayState]:
    """Return the states of all stores, by address."""
    path = state_path(journal)
    if not path.exists():
        return {}
    try:
        return {uri: ReplayState.model_validate(entry) for uri, entry in read_json(path).items()}
    except (VavlError, ValueError, AttributeError):
        return {}


def note_set_aside(journal: Path, store: str, records: Mapping[int, Mapping[str, Any]] | None) -> None:
    """List further records that a store will never take; None empties its list."""
    path = set_aside_path(journal)
    lists = read_json(path) if path.exists() else {}
    if records is not None:
        lists[store] = {**lists.get(store, {}), **{str(seq): entry for seq, entry in records.items()}}
    elif lists.pop(store, None) is None:
        return
    write_text(path, json.dumps(lists, indent=2))  # half a character stays as it is

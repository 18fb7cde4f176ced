"""Applies the records of a journal to a tracking store, in order and once, and keeps count of what arrived.

Two kinds of failures are kept apart. The **destination** fails (full disk, missing directory, unmounted share, unknown
run, error of a server, no permission): the record waits and is tried again, in order. The **record** fails, and always
will (its file is gone, its step is no number, MLflow refuses its name): it is set aside, by name, in a file.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Sequence

from vavl.errors import TrackingError, VavlError
from vavl.tracking.holdings import Holdings, ModelNote, Register
from vavl.tracking.journal import Journal, JournalReader, Record, clean, run_events
from vavl.tracking.mlflow_writer import POINTS_PER_REQUEST, MlflowWriter, Point, dataset_id
from vavl.tracking.records import (
    MalformedRecord,
    ReplayState,
    check_readable,
    check_record,
    fresh_points,
    metric_points,
    name_of,
    note_set_aside,
    readable,
    requests_of,
    set_aside_path,
    text_of,
    usable_start,
)

_LONGEST_REASON = 500
_log = logging.getLogger(__name__)


class RecordReplay:
    """Moves records into a store, in order; ``state`` says how far it came.

    A record that is malformed is set aside; any other failure is raised with ``state`` in front of that record.
    Relative paths count from the journal's directory, so that a run can be moved. ``save`` is called with the new state
    after every request; None sends nothing and notes in ``lacking`` what would be. With ``held`` only what the store
    lacks is sent.
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
        self._journal, self._directory = journal, journal.path.parent
        self._register, self._held, self._is_dry = register, held, save is None
        self._events: list[Record] = []
        self._last_event = 0
        self._end = journal.end() if held else None

    def apply(self, records: Iterable[Record], until: float = math.inf) -> bool:
        """Write the records; consecutive metrics travel together.

        No further request begins after ``until``, a time of ``time.monotonic``.

        Returns:
            Whether all records were dealt with.

        Raises:
            Exception: the store does not take them; ``state`` holds what arrived.
        """
        for group in requests_of(records, 1 if self._is_dry else POINTS_PER_REQUEST):
            if time.monotonic() > until:
                return False
            self._apply(group)
        return True

    def _apply(self, group: Sequence[Record]) -> None:
        try:
            change = self._send(group)
        except Exception as error:
            if not self._is_records_own(group[0], error):
                raise
            if len(group) == 1:
                reason = str(error) if isinstance(error, MalformedRecord) else f"{type(error).__name__}: {error}"
                self._arrived(group[0], refused=self._listed(group[0], reason))
                return
            middle = len(group) // 2  # one of them spoils the request: find it
            self._apply(group[:middle])
            self._apply(group[middle:])
            return
        self._arrived(group[-1], **change)

    def _send(self, group: Sequence[Record]) -> dict[str, object]:
        """Write a group, or the part that the store lacks; returns what changes in the state."""
        for one in group:
            check_record(one)
        record, run_id = readable(group[0]), self.state.mlflow_run_id
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
        path, place = text_of(record, "path"), record.payload.get("artifact_path")
        source = self._directory / path
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
        note = ModelNote(self._directory / text_of(record, "folder"), text_of(record, "name"), name, tags)
        version = self._held.version(run_id, note) if self._held else None
        if not self._skips(record, is_held=version is not None):
            if self._register is None:
                fix = "report this as a bug"
                raise TrackingError(note.name, "", "is recorded by a run that registers no models", fix)
            version = self._register(self._writer.client, run_id, note)
        model_id = None if version is None else self._writer.model_of(note.name, version)
        points = metric_points(record, self.state) if model_id is not None else []
        if points and not self._skips(record, is_held=self._holds_scores(run_id, points, model_id)):
            self._writer.log_points(run_id, points, model_id, self.state.dataset)
        return {"model_name": note.name, "model_version": version, "model_id": model_id}

    def _holds_scores(self, run_id: str, points: Sequence[Point], model_id: str | None) -> bool:
        if self._held is None:
            return not points
        has_model = model_id is None or self._held.has_scores(model_id, points)
        return has_model and not self._held.lacking_points(run_id, points)

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
        tags = record.payload.get("tags") or {}
        is_held = self._held is not None and self._holds_scores(run_id, points, self.state.model_id)
        if self._held and record.seq == self._end:
            is_held = is_held and self._held.has_status(run_id, status) and self._held.has_tags(run_id, tags)
        if not self._skips(record, is_held=is_held):
            self._writer.log_points(run_id, points, self.state.model_id, self.state.dataset)
            self._writer.end_run(run_id, status, record.time, tags)

    def _open_run(self, record: Record) -> dict[str, object]:
        record, problems = usable_start(record)
        run_id, state = text_of(record, "run_id"), self.state
        mlflow_run = state.mlflow_runs.get(run_id)
        if self._held:
            mlflow_run = mlflow_run or self._writer.find_run(record.payload) or ""
        is_held = bool(self._held and mlflow_run and self._held.has_start(mlflow_run, record.payload))
        if not self._skips(record, is_held=is_held):
            mlflow_run = self._writer.open_run(record, mlflow_run or None)
        same = run_id == state.run_id
        measured = (record.payload.get("evaluates") or {}).get("model_id")
        dataset = record.payload.get("dataset")
        return {
            "run_id": run_id,
            "mlflow_runs": {**state.mlflow_runs, run_id: mlflow_run or ""},
            "started": state.started if same else record.time,
            "last_steps": state.last_steps if same else {},
            "model_id": state.model_id if same else self._writer.known_model(measured),
            "dataset": dataset_id(dataset) if dataset else None,
            **({"refused": self._listed(record, "; ".join(problems))} if problems else {}),
        }

    def _is_records_own(self, record: Record, error: Exception) -> bool:
        """Tell a record that can never be written from a store that cannot be written now."""
        if isinstance(error, MalformedRecord):
            return True
        if record.kind == "run_start":
            return False  # without its run nothing of the journal has a place
        if isinstance(error, VavlError):
            return True  # the directory holds no model
        if getattr(error, "error_code", "") != "INVALID_PARAMETER_VALUE":
            return False
        # MLflow says the same of a run that a person has deleted.
        run_id = self.state.mlflow_run_id
        return bool(run_id) and self._writer.run_stage(str(run_id)) == "active"

    def _listed(self, record: Record, reason: str) -> dict[int, str]:
        """List a record that no store will take, or a part of it; returns all that were set aside."""
        text = f"{record.kind} {name_of(record)}: {reason}"[:_LONGEST_REASON].encode(errors="replace").decode()
        if not self._is_dry:
            path = set_aside_path(self._journal.path)
            _log.warning("record %d cannot be written to MLflow and is set aside in %s: %s", record.seq, path, text)
            entry = {"reason": text, "kind": record.kind, "time": record.time, **record.payload}
            note_set_aside(self._journal.path, self._writer.store, {record.seq: clean(entry)})
        return {**self.state.refused, record.seq: text}

    def _arrived(self, record: Record, **change: object) -> None:
        self.state = self.state.model_copy(update={"seq": record.seq, "offset": record.end, **change})
        if self._save is not None:
            self._save(self.state)

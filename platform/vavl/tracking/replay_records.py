"""Applies the records of a journal to a tracking store and keeps count of what arrived."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

from vavl.errors import TrackingError, VavlError
from vavl.tracking.events import run_events
from vavl.tracking.journal import Journal, JournalReader, Record
from vavl.tracking.mlflow_writer import POINTS_PER_REQUEST, MlflowWriter, Point
from vavl.tracking.model_note import ModelNote, Register
from vavl.tracking.replay_state import ReplayState

_POINT_KINDS = ("step", "epoch", "system")
_TRIES = 3
_LISTED_REFUSALS = 100
_log = logging.getLogger(__name__)


class RecordReplay:
    """Moves records into a store, in order; ``state`` says how far it came.

    A record that the store refuses for a reason of its own (a file that is gone, a value it never
    takes) is noted as refused and passed over; any other failure is raised with ``state`` in front
    of that record, so that the next call tries it again.

    Args:
        writer: the connection.
        journal: where the records come from; relative paths in records count from its folder, so that
            a run can be moved.
        state: where to go on.
        save: called with the new state after every request.
        tries: attempts by record, kept by the caller over several connections.
        register: what registers a model; None where no journal has one.
    """

    def __init__(
        self,
        writer: MlflowWriter,
        journal: Journal,
        state: ReplayState,
        save: Callable[[ReplayState], None],
        tries: Counter[int],
        register: Register | None = None,
    ) -> None:
        self.state = state
        self._writer, self._reader, self._save = writer, JournalReader(journal), save
        self._folder = journal.path.parent
        self._tries, self._register = tries, register
        self._events: list[Record] = []
        self._last_event = 0

    def apply(self, records: Iterable[Record]) -> None:
        """Write the records; consecutive metrics travel together.

        Raises:
            Exception: the store does not answer; ``state`` holds what arrived.
        """
        for group in _requests(records):
            if group[0].kind in _POINT_KINDS:
                self._apply_points(group)
            else:
                self._guard(group, partial(self._apply_one, group[0]))

    def _apply_points(self, records: Sequence[Record]) -> None:
        run_id = self.state.mlflow_run_id
        if run_id is None:
            self._arrived(records[-1])
            return
        points = [point for record in records for point in metric_points(record, self.state)]
        fresh, steps = _not_repeated(points, self.state.last_steps)
        self._guard(records, partial(self._log_points, run_id, fresh, steps))

    def _log_points(self, run_id: str, points: list[Point], last_steps: dict[str, int]) -> dict[str, object]:
        self._writer.log_points(run_id, points)
        return {"last_steps": last_steps}

    def _apply_one(self, record: Record) -> dict[str, object]:
        """Write a record that is no metric; returns what changes in the state."""
        payload, run_id = record.payload, self.state.mlflow_run_id
        if record.kind == "run_start":
            return self._open_run(record)
        if run_id is None:
            return {}
        if record.kind == "artifact":
            self._writer.log_artifact(run_id, self._folder / payload["path"], payload.get("artifact_path"))
        elif record.kind == "model" and payload.get("name"):
            return self._register_model(run_id, record)
        elif record.kind == "event":
            self._log_events(run_id, record)
        elif record.kind == "run_end":
            self._writer.log_points(run_id, metric_points(record, self.state))
            self._writer.end_run(run_id, payload.get("status", "FINISHED"), record.time)
        return {}

    def _register_model(self, run_id: str, record: Record) -> dict[str, object]:
        payload = record.payload
        if self._register is None:
            raise TrackingError(
                payload["name"], "", "is recorded by a run that registers no models", "report this as a bug"
            )
        folder, name = self._folder / payload["folder"], f"{self.state.run_id}:{record.seq}"
        note = ModelNote(folder, payload["name"], name, payload.get("tags", {}))
        return {"model_name": note.name, "model_version": self._register(self._writer.client, run_id, note)}

    def _log_events(self, run_id: str, record: Record) -> None:
        """Write the whole list anew, once for all events that the journal holds by now."""
        if record.seq <= self._last_event:
            return
        fresh = [one for one in self._reader.read() if one.kind in ("run_start", "event")]
        self._events = fresh if self._reader.began_anew else [*self._events, *fresh]
        self._writer.log_events(run_id, run_events(self._events, self.state.run_id))
        self._last_event = self._events[-1].seq

    def _open_run(self, record: Record) -> dict[str, object]:
        run_id, state = record.payload["run_id"], self.state
        mlflow_run = self._writer.open_run(record, state.mlflow_runs.get(run_id))
        same = run_id == state.run_id
        return {
            "run_id": run_id,
            "mlflow_runs": {**state.mlflow_runs, run_id: mlflow_run},
            "started": state.started if same else record.time,
            "last_steps": state.last_steps if same else {},
        }

    def _guard(self, records: Sequence[Record], action: Callable[[], dict[str, object]]) -> None:
        try:
            change = action()
        except Exception as fault:
            if not self._is_records_own(records[0], fault):
                raise
            if len(records) > 1:
                # One of them spoils the request: find it.
                for record in records:
                    self._apply_points([record])
                return
            self._refuse(records[0], fault)
            return
        self._arrived(records[-1], **change)

    def _is_records_own(self, record: Record, fault: Exception) -> bool:
        """Tell a record that can never be written from a store that cannot be written now."""
        if record.kind == "run_start":
            return False  # without its run nothing of the journal has a place
        if isinstance(fault, (FileNotFoundError, VavlError)):
            return True
        if not self._writer.answers() or self._run_was_deleted():
            return False
        if getattr(fault, "error_code", "") == "INVALID_PARAMETER_VALUE":
            return True
        self._tries[record.seq] += 1
        return self._tries[record.seq] >= _TRIES

    def _run_was_deleted(self) -> bool:
        run_id = self.state.mlflow_run_id
        return run_id is not None and self._writer.run_stage(run_id) != "active"

    def _refuse(self, record: Record, fault: Exception) -> None:
        reason = f"{type(fault).__name__}: {fault}"
        _log.warning(
            "record %d (%s) cannot be written to MLflow and is passed over: %s",
            record.seq,
            record.kind,
            reason,
        )
        refused = self.state.refused
        if len(refused) < _LISTED_REFUSALS:
            refused = {**refused, record.seq: reason[:1000]}
        self._arrived(record, refused=refused)

    def _arrived(self, record: Record, **change: object) -> None:
        self.state = self.state.model_copy(update={"seq": record.seq, "offset": record.end, **change})
        self._save(self.state)


def metric_points(record: Record, state: ReplayState) -> list[Point]:
    """Return the metric points of a record; values that are missing (null) are left out.

    The step of a system sample is the number of seconds since the run started.
    """
    values = {**record.payload.get("metrics", {})}
    if record.kind == "system":
        step = int(record.time - state.started)
    elif record.kind == "run_end":
        step = max(
            (last for name, last in state.last_steps.items() if not name.startswith("system/")), default=0
        )
    else:
        step = int(record.payload["step"])
    if record.kind == "epoch":
        values["epoch"] = record.payload["epoch"]
    return [
        (name, float(value), record.time, step)
        for name, value in values.items()
        if isinstance(value, (int, float))
    ]


def _not_repeated(points: Iterable[Point], last_steps: dict[str, int]) -> tuple[list[Point], dict[str, int]]:
    """Leave out the steps that a resumed run went through a second time.

    Both times may travel in one request: a worker group that is started anew writes no ``run_start``.

    Returns:
        The points of new steps, and the last step by metric name behind them.
    """
    fresh, steps = [], dict(last_steps)
    for point in points:
        name, _, _, step = point
        if step > steps.get(name, -1):
            fresh.append(point)
            steps[name] = step
    return fresh, steps


def _requests(records: Iterable[Record]) -> Iterator[list[Record]]:
    """Group the records: consecutive metrics up to the size of a request, everything else alone."""
    group: list[Record] = []
    size = 0
    for record in records:
        count = len(record.payload.get("metrics", ())) + 1
        if group and (record.kind not in _POINT_KINDS or size + count > POINTS_PER_REQUEST):
            yield group
            group, size = [], 0
        if record.kind in _POINT_KINDS:
            group.append(record)
            size += count
        else:
            yield [record]
    if group:
        yield group

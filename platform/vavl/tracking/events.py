"""What happened to a run next to its metrics: restarts, resumes, skipped steps, checkpoints left out."""

from __future__ import annotations

import datetime as dt
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from vavl.tracking.journal import Record

_NAMED = ("what", "step", "message")


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


def events_as_json(events: Sequence[Event]) -> list[dict[str, Any]]:
    """Return the events as they stand in ``events.json``: ``time`` (UTC), ``what``, ``step``, ``message``, facts."""
    return [
        {"time": event.moment, "what": event.what, "step": event.step, "message": event.message, **event.facts}
        for event in events
    ]


def event_line(event: Event) -> str:
    """Write an event as one line."""
    place = "" if event.step is None else f" at step {event.step}"
    message = f": {event.message}" if event.message else ""
    return f"{event.what.replace('_', ' ')}{place}{message}"


def event_of(record: Record) -> Event:
    """Read a record of kind ``event``; what it lacks stays empty."""
    payload = record.payload
    facts = {name: value for name, value in payload.items() if name not in _NAMED}
    what, message = str(payload.get("what", "event")), str(payload.get("message", ""))
    return Event(record.time, what, payload.get("step"), message, facts)

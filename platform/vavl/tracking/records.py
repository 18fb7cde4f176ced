"""Records on their way into a tracking store: how far they came, what no store will take, and their points."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import Field

from vavl.config.base import FrozenConfig
from vavl.config.files import read_json, write_json, write_text
from vavl.errors import VavlError
from vavl.tracking.journal import Record
from vavl.tracking.mlflow_writer import Point


class ReplayState(FrozenConfig):
    """What one tracking store already holds of a journal.

    Attributes:
        seq: last record that arrived; ``offset`` is the byte position behind it.
        mlflow_runs: MLflow run ids by the run ids of the journal; ``run_id`` is the current one.
        started: seconds since the epoch at which the current run first started.
        last_steps: last step by metric name; a resumed run repeats steps, the store keeps the first.
        model_id: MLflow's id of the logged model that the current run trained, or measured; its scores go there, too.
        dataset: name and digest, for MLflow, of what the current run is trained on, or measures the model on.
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
    model_id: str | None = None
    dataset: tuple[str, str] | None = None
    refused: dict[int, str] = Field(default_factory=dict)

    @property
    def mlflow_run_id(self) -> str | None:
        """MLflow's id of the current run, None before it was created."""
        return self.mlflow_runs.get(self.run_id) if self.run_id is not None else None


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


_POINT_KINDS = ("step", "epoch", "system")
_LARGEST_STEP = 2**63 - 1
_LARGEST_TIME = 253402300799.0
"""The end of the year 9999."""

_OPTIONAL: Mapping[str, Mapping[str, type]] = {
    "artifact": {"artifact_path": str},
    "model": {"tags": dict},
    "run_end": {"tags": dict, "status": str},
}
_PLACES = ("path", "folder")
_STATUSES = ("FINISHED", "FAILED", "KILLED")
# Parts of the first record, the texts that they cannot be without, and those that may be absent.
_PARTS: Mapping[str, tuple[type, tuple[str, ...], tuple[str, ...]]] = {
    "run_name": (str, (), ()),
    "params": (dict, (), ()),
    "tags": (dict, (), ()),
    "config_yaml": (str, (), ()),
    "dataset": (dict, ("name", "store_hash", "path"), ("context",)),
    "evaluates": (dict, ("name", "version", "what"), ("model_id",)),
    "parent": (dict, ("run_id",), ("run_name",)),
}


class MalformedRecord(Exception):  # noqa: N818  a statement on a record, caught here
    """A record that no store will ever take."""


def check_record(record: Record) -> None:
    """Refuse a record with a value that is not what it should be.

    Raises:
        MalformedRecord: names the value.
    """
    if not 0 <= record.time <= _LARGEST_TIME and record.kind != "event":
        raise MalformedRecord(f"second {record.time} is out of range")
    for key, wanted in _OPTIONAL.get(record.kind, {}).items():
        value = record.payload.get(key)
        if value is not None and not isinstance(value, wanted):
            raise MalformedRecord(f"{key} is {value!r}, no {wanted.__name__}")
    status = record.payload.get("status", "FINISHED")
    if record.kind == "run_end" and status not in _STATUSES:
        raise MalformedRecord(f"status is {status!r}, none of {', '.join(_STATUSES)}")
    place = PurePosixPath(record.payload.get("artifact_path") or "")
    if place.is_absolute() or ".." in place.parts:
        raise MalformedRecord(f"artifact_path is {str(place)!r}, outside the artifacts of the run")


def readable(record: Record) -> Record:
    """Return a record without half characters and zeros in its texts, which databases refuse; places of files stay."""
    kept = {key: value if key in _PLACES else _readable(value) for key, value in record.payload.items()}
    return replace(record, payload=kept)


def _readable(value: Any) -> Any:
    match value:
        case str():
            return value.encode(errors="replace").decode().replace("\0", "?")
        case dict():
            return {_readable(key): _readable(item) for key, item in value.items()}
        case list():
            return [_readable(item) for item in value]
    return value


def usable_start(record: Record) -> tuple[Record, list[str]]:
    """Return a ``run_start`` record without the parts that no store takes, and what is wrong with them.

    The run is opened all the same: whatever follows has its place there.

    Raises:
        MalformedRecord: it names no run or no experiment.
    """
    for key in ("run_id", "experiment"):
        text_of(record, key)
    kept, problems = dict(record.payload), []
    for key, (wanted, needed, optional) in _PARTS.items():
        value = kept.get(key)
        if value is not None and not (isinstance(value, wanted) and _has_texts(value, needed, optional)):
            problems.append(f"{key} is {value!r}, left out")
            del kept[key]
    if isinstance(kept.get("dataset"), dict) and not isinstance(kept["dataset"].get("counts"), dict):
        kept["dataset"] = {**kept["dataset"], "counts": {}}
    return replace(record, payload=kept), problems


def _has_texts(value: Any, needed: Iterable[str], optional: Iterable[str]) -> bool:
    return all(isinstance(value.get(key), str) and value[key] for key in needed) and all(
        isinstance(value.get(key), str | None) for key in optional
    )


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
        elif record.kind in ("model", "run_end"):
            own = (last for name, last in state.last_steps.items() if not name.startswith("system/"))
            step = max(own, default=0)
        else:
            step = int(record.payload["step"])
        if record.kind == "epoch":
            values["epoch"] = record.payload["epoch"]
        numbers = {name: float(value) for name, value in values.items() if isinstance(value, (int, float))}
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise MalformedRecord(f"{type(error).__name__}: {error}") from None
    if abs(step) > _LARGEST_STEP:
        raise MalformedRecord(f"step {step} is out of range")
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
    return str(payload.get("path") or payload.get("name") or payload.get("run_id") or payload.get("what") or names)


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
        except OSError as error:
            raise MalformedRecord(f"{path} cannot be read: {error.strerror}") from None


def text_of(record: Record, key: str) -> str:
    """Return a value that has to be a text.

    Raises:
        MalformedRecord: it is none.
    """
    value = record.payload.get(key)
    if not isinstance(value, str) or "\0" in value:
        raise MalformedRecord(f"{key} is {value!r}, no text")
    return value


def requests_of(records: Iterable[Record], most_points: int) -> Iterator[list[Record]]:
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

"""Writes the records of a journal into one MLflow store; calls may be repeated safely.

MLflow is imported by the constructor, never by importing this module. Nothing here uses MLflow's
global state (tracking address, active run): everything goes through one client.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import os
import re
import sqlite3
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Literal, TypeVar

from vavl.tracking.journal import Event, Record, count_events
from vavl.tracking.settings import TrackingPlace, TrackingSettings

NOTE_TAG = "mlflow.note.content"
"""What MLflow's pages show as the description of a run, in Markdown."""

ARTIFACT_LINK = "artifact:"
"""Begins a link of a description to an artifact of the run, whose address is known once the run has arrived."""

POINTS_PER_REQUEST = 1000
EVENTS_FILE = "events.json"
_PARAMS_PER_REQUEST = 100
_VALUE_LIMIT = 6000
_TAG_LIMIT = 5000
_DIGEST_LIMIT = 36
_RUN_TAG = "vavl.run_id"
_PARENT_TAG = "mlflow.parentRunId"
# Without it MLflow's pages take an experiment for one of language models.
_EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}
_NOT_IN_NAMES = re.compile(r"[^\w\-. /:]")
# Name, value, seconds since the epoch, step.
Point = tuple[str, float, float, int]
# Name and digest.
DatasetId = tuple[str, str]
Item = TypeVar("Item")
RunStage = Literal["active", "deleted", "unknown"]


class MlflowWriter:
    """One connection to a tracking store.

    Raises:
        Exception: every method raises whatever MLflow raises; the caller decides what it means.
    """

    def __init__(self, settings: TrackingSettings, place: TrackingPlace) -> None:
        if place.database is not None:
            place.database.parent.mkdir(parents=True, exist_ok=True)
        self.store = place.public_uri
        self._settings, self._place = settings, place
        self.client: Any = open_client(settings, place)
        if place.database is not None:
            with contextlib.closing(sqlite3.connect(place.database)) as database:
                has_tables = database.execute("SELECT 1 FROM sqlite_master WHERE name = 'runs'").fetchone()
            if not has_tables:
                _make_tables(place)

    def run_stage(self, mlflow_run_id: str) -> RunStage:
        """Tell whether the run is active, was deleted by a person, or is unknown (database made anew)."""
        run = if_there(lambda: self.client.get_run(mlflow_run_id))
        if run is None:
            return "unknown"
        return "active" if run.info.lifecycle_stage == "active" else "deleted"

    def open_run(self, start: Record, mlflow_run_id: str | None) -> str:
        """Create the run of a ``run_start`` record, or resume the one that exists; returns its id."""
        payload = start.payload
        run_id = mlflow_run_id or self._find_or_create_run(payload, start.time)
        known = self.client.get_run(run_id).data.params
        params = {store_name(key): _text(value, _VALUE_LIMIT) for key, value in payload.get("params", {}).items()}
        # Parameters cannot change after they were logged; what a resumed run changed is kept as a tag.
        changed = {f"resumed.{key}": value for key, value in params.items() if known.get(key, value) != value}
        tags = {**payload.get("tags", {}), **changed, **self._parent_tag(start)}
        self._log_tags(run_id, {**tags, _RUN_TAG: payload["run_id"]})
        self._log_params(run_id, {key: value for key, value in params.items() if key not in known})
        if payload.get("dataset"):
            self._log_dataset(run_id, payload["dataset"])
        if payload.get("evaluates"):
            self._link_version(run_id, payload["evaluates"])
        if payload.get("config_yaml"):
            self.client.log_text(run_id, payload["config_yaml"], "config.yaml")
        self.client.update_run(run_id, status="RUNNING")
        return run_id

    def log_points(
        self, mlflow_run_id: str, points: Sequence[Point], model_id: str | None = None, dataset: DatasetId | None = None
    ) -> None:
        """Log metric points (name, value, seconds since the epoch, step); equal points are kept once.

        With ``model_id`` they are the scores of that logged model too, on ``dataset``.
        """
        from mlflow.entities import Metric

        measured = (model_id, *(dataset or (None, None))) if model_id else ()
        metrics = [
            Metric(store_name(name), value, int(moment * 1000), step, *measured) for name, value, moment, step in points
        ]
        for group in _groups(metrics, POINTS_PER_REQUEST):
            self.client.log_batch(mlflow_run_id, metrics=group, synchronous=True)

    def log_artifact(self, mlflow_run_id: str, path: Path, artifact_path: str | None) -> None:
        """Copy a file or a directory, under its name, to the run's artifacts."""
        self.client.log_artifact(mlflow_run_id, str(path), artifact_path)

    def log_events(self, mlflow_run_id: str, events: Sequence[Event]) -> None:
        """Show the events of the run: the list as ``events.json``, how many of each kind as tags.

        The tags are ``vavl.events.<what>`` and ``vavl.last_event``: a search for
        ``tags.`vavl.events.restarted` != '0'`` finds the runs that were disturbed.
        """
        self.client.log_text(mlflow_run_id, events_text(events), EVENTS_FILE)
        tags = {f"vavl.events.{what}": str(count) for what, count in count_events(events).items()}
        self._log_tags(mlflow_run_id, {**tags, "vavl.last_event": events[-1].in_words()})

    def end_run(self, mlflow_run_id: str, status: str, moment: float, tags: Mapping[str, str] | None = None) -> None:
        """Set the final status (FINISHED, FAILED, KILLED), the time of the end, and what is known only then."""
        if tags:
            info = self.client.get_run(mlflow_run_id).info
            artifacts = f"#/experiments/{info.experiment_id}/runs/{mlflow_run_id}/artifacts/"
            note = str(tags.get(NOTE_TAG, "")).replace(f"]({ARTIFACT_LINK}", f"]({artifacts}")
            self._log_tags(mlflow_run_id, {**tags, **({NOTE_TAG: note} if note else {})})
        self.client.set_terminated(mlflow_run_id, status=status, end_time=int(moment * 1000))

    def known_model(self, model_id: str | None) -> str | None:
        """Return the id of a logged model, None where this store does not hold it."""
        model = if_there(lambda: self.client.get_logged_model(model_id)) if model_id else None
        return None if model is None else str(model.model_id)

    def model_of(self, name: str, version: str) -> str | None:
        """Return the id of the logged model behind a registered version, None where it has none."""
        return logged_model_of(self.client.get_model_version(name, version))

    def _parent_tag(self, start: Record) -> dict[str, str]:
        """Return the tag that makes a run a child; a parent that did not arrive yet is created empty."""
        parent = start.payload.get("parent")
        if not parent:
            return {}
        payload = {"experiment": start.payload["experiment"], **parent}
        return {_PARENT_TAG: self._find_or_create_run(payload, start.time)}

    def find_run(self, payload: Mapping[str, Any]) -> str | None:
        """Return MLflow's id of the run of a ``run_start`` record, None where the store has none."""
        experiment = self.client.get_experiment_by_name(payload["experiment"])
        if experiment is None:
            return None
        quoted = str(payload["run_id"]).replace("'", "")
        query = f"tags.`{_RUN_TAG}` = '{quoted}'"
        found = self.client.search_runs([experiment.experiment_id], query, max_results=1)
        return str(found[0].info.run_id) if found else None

    def _find_or_create_run(self, payload: Mapping[str, Any], moment: float) -> str:
        found = self.find_run(payload)
        if found is not None:
            return found
        made = self.client.create_run(
            self._experiment_id(payload["experiment"]),
            start_time=int(moment * 1000),
            tags={_RUN_TAG: payload["run_id"]},
            run_name=payload.get("run_name"),
        )
        return str(made.info.run_id)

    def _experiment_id(self, name: str) -> str:
        from mlflow.exceptions import MlflowException

        found = self.client.get_experiment_by_name(name)
        if found is None:
            try:
                return str(self.client.create_experiment(name, self._place.artifact_location, _EXPERIMENT_TAGS))
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
                # Another process was quicker.
                found = self.client.get_experiment_by_name(name)
        return str(found.experiment_id)

    def _log_params(self, run_id: str, params: Mapping[str, str]) -> None:
        from mlflow.entities import Param

        for group in _groups((Param(key, value) for key, value in params.items()), _PARAMS_PER_REQUEST):
            self.client.log_batch(run_id, params=group, synchronous=True)

    def _log_tags(self, run_id: str, tags: Mapping[str, Any]) -> None:
        from mlflow.entities import RunTag

        entries = (RunTag(store_name(key), _text(value, _TAG_LIMIT)) for key, value in tags.items())
        for group in _groups(entries, _PARAMS_PER_REQUEST):
            self.client.log_batch(run_id, tags=group, synchronous=True)

    def _link_version(self, run_id: str, note: Mapping[str, Any]) -> None:
        """Let the pages of run and version lead to each other: a run that measured a registered model.

        Where this store does not hold the model (it was taken from another) or cannot (no such name may be), the
        run's own tags name it alone.
        """
        from mlflow.entities import LoggedModelInput
        from mlflow.exceptions import MlflowException

        try:
            self.client.set_model_version_tag(note["name"], note["version"], f"vavl.evaluation.{note['what']}", run_id)
            if note.get("model_id"):
                self.client.log_inputs(run_id, models=[LoggedModelInput(note["model_id"])])
        except MlflowException as error:
            if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                raise

    def _log_dataset(self, run_id: str, note: Mapping[str, Any]) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        name, digest = dataset_id(note)
        dataset = Dataset(
            name=name,
            digest=digest,
            source_type="local",
            source=json.dumps({"uri": str(note["path"])}),
            profile=json.dumps({"store_hash": note["store_hash"], "card": note.get("card"), **note["counts"]}),
        )
        tag = InputTag("mlflow.data.context", note.get("context", "training"))
        self.client.log_inputs(run_id, [DatasetInput(dataset, [tag])])


def if_there(ask: Callable[[], Any]) -> Any | None:
    """Return what MLflow answers, None where it says that there is no such thing."""
    from mlflow.exceptions import MlflowException

    try:
        return ask()
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
    return None


def logged_model_of(version: Any) -> str | None:
    """Return the id of the logged model behind a version; a search leaves it to the address of the files."""
    found = re.search(r"/(m-[0-9a-f]{32})(?:/|$)", version.source or "")
    return found[1] if found else None


def dataset_id(note: Mapping[str, Any]) -> DatasetId:
    """Return name and digest by which MLflow knows the ``dataset`` of a ``run_start`` record."""
    return str(note["name"]), str(note["store_hash"])[:_DIGEST_LIMIT]


def events_text(events: Sequence[Event]) -> str:
    """Return the content of ``events.json``: ``time`` (UTC), ``what``, ``step``, ``message`` and facts of each."""
    listed = [
        {"time": event.moment, "what": event.what, "step": event.step, "message": event.message, **event.facts}
        for event in events
    ]
    text = json.dumps(listed, indent=2, ensure_ascii=False) + "\n"
    return text.encode(errors="replace").decode()  # half a character of a file name


def open_client(settings: TrackingSettings, place: TrackingPlace) -> Any:
    """Return an ``MlflowClient`` of one store for runs and registry, which gives up soon."""
    # The environment is MLflow's only place for this; what the user has set there is kept. Records that do not arrive
    # are replayed later, and MLflow's own 7 retries take about 4 minutes.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", str(settings.request_retries))
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(settings.request_timeout_seconds))
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    if place.database is not None:
        # A pooled connection would write on into a file that was deleted or replaced.
        os.environ.setdefault("MLFLOW_SQLALCHEMYSTORE_POOLCLASS", "NullPool")
    import_mlflow()
    from mlflow.tracking import MlflowClient

    return MlflowClient(tracking_uri=place.uri, registry_uri=place.uri)


def import_mlflow() -> None:
    """Import the parts of MLflow that are used here; takes seconds the first time.

    Call it before a thread needs them: two threads that import large packages at the same time can
    meet half-made modules.
    """
    with warnings.catch_warnings():
        # MLflow warns about the type hints of its own classes.
        warnings.simplefilter("ignore")
        for module in ("mlflow.tracking", "mlflow.pyfunc"):
            importlib.import_module(module)
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)  # table migrations are no news to a user
    # It logs every refusal with its traceback before it raises it.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)


def _make_tables(place: TrackingPlace) -> None:
    """Make the tables of a database that was deleted: MLflow makes them once per process and address."""
    code = "import sys; from mlflow import MlflowClient; MlflowClient(sys.argv[1]).search_experiments(max_results=1)"
    command = [sys.executable, "-c", code, place.uri]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)  # noqa: S603
    if done.returncode:
        raise ConnectionError(f"{place.database}: {done.stderr.strip().splitlines()[-1:]}")


def one_line(error: Exception) -> str:
    """Return what went wrong without the statement and the advice that SQLAlchemy writes behind it."""
    return f"{type(error).__name__}: {error}".splitlines()[0]


def store_name(text: str) -> str:
    """Replace the characters that MLflow refuses in names."""
    return _NOT_IN_NAMES.sub("_", text) or "_"


def _text(value: Any, limit: int) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    text = text.encode(errors="replace").decode()  # half a character of a file name
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _groups(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    iterator = iter(items)
    while group := list(islice(iterator, size)):
        yield group

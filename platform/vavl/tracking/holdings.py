"""What a tracking store really holds of a run: points, files, tags, scores, and versions of the model it recorded."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vavl.config.files import sha256_of_file, sha256_of_json
from vavl.tracking.journal import Event
from vavl.tracking.mlflow_writer import EVENTS_FILE, Point, events_text, logged_model_of, store_name

RECORD_TAG = "vavl.journal_record"
FILES_TAG = "vavl.files_sha256"
# Where MLflow puts the files of a model directory within its own form of the model.
FILES_IN_MODEL = "artifacts/model"


@dataclass(frozen=True)
class ModelNote:
    """A model directory to register."""

    directory: Path  # holds model.json and model.safetensors
    name: str  # registered model
    # names the journal record; registering the same record again gives the same version, and so does another
    # record of the same run with the same files: a run whose process died between the registration and its end
    # records its model a second time
    record: str
    # facts shown with the version (hashes, metrics, split protocol, label target)
    tags: Mapping[str, Any] = field(default_factory=dict)

    @property
    def marks(self) -> dict[str, str]:
        """Tags by which the version of this model is found again."""
        hashes = {path.name: sha256_of_file(path) for path in self._files()}
        return {RECORD_TAG: self.record, FILES_TAG: sha256_of_json(hashes)}

    @property
    def sizes(self) -> dict[str, int]:
        """Bytes of each file of the model, by name; empty where the directory is gone."""
        return {path.name: path.stat().st_size for path in self._files()}

    def _files(self) -> list[Path]:
        if not self.directory.is_dir():
            return []
        return sorted(path for path in self.directory.iterdir() if path.is_file())


Register = Callable[[Any, str, ModelNote], str]
"""Registers a model as an output of a run: client, MLflow's run id, model -> version. See ``vavl.serving.registry``."""


def version_of(client: Any, mlflow_run_id: str, note: ModelNote) -> Any | None:
    """Return the version that a run registered of this model, as MLflow's entity; None while there is none."""
    found = client.search_model_versions(f"name = '{note.name}' and run_id = '{mlflow_run_id}'")
    marks = note.marks
    matching = [entry for entry in found if any(entry.tags.get(key) == marks[key] for key in marks)]
    return min(matching, key=lambda entry: int(entry.version), default=None)


def holds_files(client: Any, version: Any, note: ModelNote) -> bool:
    """Tell whether the store holds every file of a registered model, each with its size.

    True where that cannot be known: the directory of the model is gone, or the version is of an older MLflow.
    """
    model_id = logged_model_of(version)
    if model_id is None or not note.sizes:
        return True
    listed = client.list_logged_model_artifacts(model_id, FILES_IN_MODEL)
    held = {Path(entry.path).name: entry.file_size for entry in listed}
    return all(held.get(name) == size for name, size in note.sizes.items())


class Holdings:
    """What a store really holds; asks it only for what is asked for here, and once.

    A run without an id, "", holds nothing.
    """

    def __init__(self, client: Any) -> None:
        self._client = client
        self._points: dict[tuple[str, str], set[tuple[int, int]]] = {}
        self._files: dict[tuple[str, str], dict[str, int | None]] = {}

    def lacking_points(self, run_id: str, points: Iterable[Point]) -> list[Point]:
        """Return those of the points of a run that the store does not hold."""
        return [point for point in points if not run_id or not self._has_point(run_id, point)]

    def has_files(self, run_id: str, source: Path, artifact_path: str | None) -> bool:
        """Tell whether the store holds a file, or all files of a directory, each with its size.

        Of a source that is gone only the name is looked for.
        """
        place = f"{artifact_path}/{source.name}" if artifact_path else source.name
        if source.is_dir():
            files = [path for path in source.rglob("*") if path.is_file()]
            named = [(f"{place}/{path.relative_to(source).as_posix()}", path.stat().st_size) for path in files]
            return all(self._has_file(run_id, name, size) for name, size in named)
        return self._has_file(run_id, place, source.stat().st_size if source.exists() else None)

    def has_events(self, run_id: str, events: Sequence[Event]) -> bool:
        """Tell whether the list of events that a run shows is this one, by its size."""
        return self._has_file(run_id, EVENTS_FILE, len(events_text(events).encode()))

    def has_start(self, run_id: str, payload: Mapping[str, Any]) -> bool:
        """Tell whether the parameters of a ``run_start`` record are there, and its configuration."""
        known = self._client.get_run(run_id).data.params
        has_params = all(store_name(key) in known for key in payload.get("params", {}))
        return has_params and (not payload.get("config_yaml") or self._has_file(run_id, "config.yaml", None))

    def has_scores(self, model_id: str, points: Iterable[Point]) -> bool:
        """Tell whether a logged model has these points."""
        metrics = self._client.get_logged_model(model_id).metrics or []
        held = {(entry.key, entry.timestamp, entry.step) for entry in metrics}
        return all((store_name(name), int(moment * 1000), step) in held for name, _, moment, step in points)

    def has_tags(self, run_id: str, names: Iterable[str]) -> bool:
        """Tell whether a run has tags of these names; a person may have changed what they say."""
        return bool(run_id) and {store_name(name) for name in names} <= self._client.get_run(run_id).data.tags.keys()

    def has_status(self, run_id: str, status: str) -> bool:
        """Tell whether a run has ended like this."""
        return bool(run_id) and self._client.get_run(run_id).info.status == status

    def version(self, run_id: str, note: ModelNote) -> str | None:
        """Return the registered version of a model, None unless the store holds it with all its files."""
        found = version_of(self._client, run_id, note) if run_id else None
        return str(found.version) if found is not None and holds_files(self._client, found, note) else None

    def _has_point(self, run_id: str, point: Point) -> bool:
        name, _, moment, step = point
        key = (run_id, store_name(name))
        if key not in self._points:
            history = self._client.get_metric_history(*key)
            self._points[key] = {(entry.timestamp, entry.step) for entry in history}
        return (int(moment * 1000), step) in self._points[key]

    def _has_file(self, run_id: str, path: str, size: int | None) -> bool:
        if not run_id:
            return False
        directory = path.rpartition("/")[0]
        if (run_id, directory) not in self._files:
            listed = self._client.list_artifacts(run_id, directory or None)
            self._files[run_id, directory] = {entry.path: entry.file_size for entry in listed}
        held = self._files[run_id, directory]
        return path in held and size in (None, held[path])

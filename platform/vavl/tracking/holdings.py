"""What a tracking store really holds of a run: points, files, tags, scores and versions of its model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vavl.tracking.events import Event
from vavl.tracking.mlflow_writer import EVENTS_FILE, Point, events_text, store_name
from vavl.tracking.model_note import ModelNote, holds_files, version_of


class Holdings:
    """What a store really holds; asks it only for what is asked for here, and once.

    A run without an id, "", holds nothing.

    Args:
        client: an ``MlflowClient``.
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
        folder = path.rpartition("/")[0]
        if (run_id, folder) not in self._files:
            listed = self._client.list_artifacts(run_id, folder or None)
            self._files[run_id, folder] = {entry.path: entry.file_size for entry in listed}
        held = self._files[run_id, folder]
        return path in held and size in (None, held[path])

"""A model that a journal records, what registers it, and the version that a store holds of it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vavl.config.files import sha256_of_file, sha256_of_json

RECORD_TAG = "vavl.journal_record"
FILES_TAG = "vavl.files_sha256"
# Where MLflow puts the files of a model directory within its own form of the model.
FILES_IN_MODEL = "artifacts/model"


@dataclass(frozen=True)
class ModelNote:
    """A model directory to register.

    Attributes:
        folder: holds model.json and model.safetensors.
        name: registered model.
        record: names the journal record; registering the same record again gives the same version, and so
            does another record of the same run with the same files: a run whose process died between the
            registration and its end records its model a second time.
        tags: facts shown with the version (hashes, metrics, split protocol, label target).
    """

    folder: Path
    name: str
    record: str
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
        return sorted(path for path in self.folder.glob("*") if path.is_file())


Register = Callable[[Any, str, ModelNote], str]
"""Registers a model as an output of a run: client, MLflow's run id, model -> version. See ``vavl.serving.registry``."""


def version_of(client: Any, mlflow_run_id: str, note: ModelNote) -> Any | None:
    """Return the version that a run registered of this model, as MLflow's entity; None while there is none.

    Args:
        client: an ``MlflowClient``.
        mlflow_run_id: the run that trained the model.
        note: the model.
    """
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


def logged_model_of(version: Any) -> str | None:
    """Return the id of the logged model behind a version; a search leaves it to the address of the files."""
    found = re.search(r"/(m-[0-9a-f]{32})(?:/|$)", version.source or "")
    return found[1] if found else None

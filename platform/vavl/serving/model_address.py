"""Where a model is: one text names a registered version, an alias or a directory, for every job alike."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from vavl.config.files import make_directory
from vavl.config.places import CACHE_VARIABLE, root_directory
from vavl.errors import InputError, TrackingError
from vavl.serving.served_code import CHECKSUMS_FILE, CHECKSUMS_TAG, check_files, refuse_changed
from vavl.tracking.holdings import FILES_IN_MODEL, FILES_TAG, ModelNote
from vavl.tracking.mlflow_writer import if_there, logged_model_of, one_line, open_client
from vavl.tracking.relocation import refuse_moved
from vavl.tracking.settings import TrackingPlace, TrackingSettings, tracking_place, unreachable_reason

FORMS = "models:/NAME@ALIAS, models:/NAME/VERSION, or a directory"
_REGISTERED = re.compile(r"models:/(?P<name>[^/@]+)(?:@(?P<alias>[^/@]+)|/(?P<version>\d+))")
_MODEL_FILES = ("model.json", "model.safetensors")
_BEST_DIRECTORY = "best"
_SHOWN = 20
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ResolvedModel:
    """A model that an address led to."""

    address: str  # as it was given
    directory: Path  # of this machine, holds model.json and model.safetensors; `load_model` reads it
    name: str | None = None  # registered model; None for a directory
    version: str | None = None  # of the registered model, as MLflow writes it ("1", "2", ...); None for a directory
    # the run that the version belongs to; None for a directory, and where MLflow knows none
    mlflow_run_id: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)  # of the version; empty for a directory
    model_id: str | None = None  # MLflow's id of the logged model behind the version, if it has one

    @property
    def title(self) -> str:
        """Name and version, "vavl-demo version 3", or the directory."""
        return self.address if self.name is None else f"{self.name} version {self.version}"


def resolve_model(address: str, tracking: TrackingSettings) -> ResolvedModel:
    """Find the files of a model; those of a registered one are copied to this machine once.

    Args:
        address: ``models:/NAME@ALIAS``, ``models:/NAME/VERSION``, or a directory: the model's own, that of a run
            (with ``best/``), or a downloaded MLflow model. Relative directories count from ``VAVL_ROOT``.
        tracking: the store that registered models are in.

    Raises:
        InputError: nothing is there; the error names the models, versions and aliases that are.
        TrackingError: the tracking store cannot be reached, or refused.
    """
    if not address.startswith("models:"):
        return ResolvedModel(address, _model_directory(address))
    parts = _REGISTERED.fullmatch(address)
    if parts is None:
        raise InputError("model", address, "is no address of a registered model", f"write {FORMS}")
    place = tracking_place(tracking, os.environ)
    check_store(tracking)
    with told_as_ours(place):
        client = open_client(tracking, place)
        found = _version(client, address, parts)
        directory = _files_of(client, place, found)
    tags = {str(key): str(value) for key, value in found.tags.items()}
    return ResolvedModel(
        address, directory, found.name, str(found.version), found.run_id or None, tags, logged_model_of(found)
    )


def _model_directory(address: str) -> Path:
    given = (root_directory() or Path.cwd()) / Path(address).expanduser()
    for directory in (given, given / _BEST_DIRECTORY, given / FILES_IN_MODEL):
        if all((directory / name).is_file() for name in _MODEL_FILES):
            _check_downloaded(directory)
            return directory
    problem = f"holds no {' and '.join(_MODEL_FILES)}" if given.is_dir() else "there is no such directory"
    raise InputError(str(given), "", problem, f"give the directory of a training run or of a model, or write {FORMS}")


def _check_downloaded(directory: Path) -> None:
    """Check the checksums of a model that MLflow keeps or downloaded; the directory of a run has none."""
    if directory.as_posix().endswith(f"/{FILES_IN_MODEL}"):
        root = directory.parents[1]
        if (root / CHECKSUMS_FILE).exists():
            check_files(root, str(root))
        elif (root / "MLmodel").exists():
            _log.warning("%s: was registered without checksums, its files are not checked", root)


def check_store(settings: TrackingSettings) -> None:
    """Refuse a tracking store that is not there, or whose artifacts were moved.

    Raises:
        InputError: a database file that does not exist, or names the directory of another copy of the project.
        TrackingError: a server that does not answer.
    """
    place = tracking_place(settings, os.environ)
    if place.database is not None and not place.database.exists():
        # A client would make an empty database and say that there is no such model.
        fix = "set tracking.uri or MLFLOW_TRACKING_URI, or train a model with tracking.model_name first"
        raise InputError(str(place.database), "", "there is no tracking store", fix)
    refuse_moved(settings)
    reason = unreachable_reason(place, settings.request_timeout_seconds)
    if reason is not None:
        fix = "start it, or correct tracking.uri or MLFLOW_TRACKING_URI"
        raise TrackingError(place.public_uri, "", f"the tracking store does not answer: {reason}", fix)


@contextmanager
def told_as_ours(place: TrackingPlace) -> Iterator[None]:
    """Turn what MLflow raises into an error with a place and a fix."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError, OSError) as error:
        fix = "check its address, the rights and the place of its artifacts"
        raise TrackingError(place.public_uri, "", f"the tracking store refused: {one_line(error)}", fix) from None


def _version(client: Any, address: str, parts: re.Match[str]) -> Any:
    """Return MLflow's entity of the version that the address names."""
    name, alias, version = parts["name"], parts["alias"], parts["version"]
    model = if_there(lambda: client.get_registered_model(name))
    if model is None:
        known = sorted(entry.name for entry in client.search_registered_models(max_results=1000))
        raise InputError("model", address, f"there is no registered model {name}", _one_of(known))
    number = version or model.aliases.get(alias)
    found = None if number is None else if_there(lambda: client.get_model_version(name, str(number)))
    if found is None:
        wanted = f"version {version}" if version else f"alias {alias}"
        raise InputError("model", address, f"{name} has no {wanted}", _one_of(_known_addresses(client, model)))
    return found


def _known_addresses(client: Any, model: Any) -> list[str]:
    versions = sorted(int(entry.version) for entry in client.search_model_versions(f"name = '{model.name}'"))
    aliases = [f"models:/{model.name}@{alias}" for alias in sorted(model.aliases)]
    return [*aliases, *(f"models:/{model.name}/{version}" for version in reversed(versions))]


def _one_of(known: list[str]) -> str:
    if not known:
        return "there is none yet: train one with tracking.model_name=NAME"
    more = f" and {len(known) - _SHOWN} more" if len(known) > _SHOWN else ""
    return f"choose one of {', '.join(known[:_SHOWN])}{more}"


def _files_of(client: Any, place: TrackingPlace, version: Any) -> Path:
    """Return the model directory of a version: in place where the store is a directory here, else a copy."""
    from mlflow.artifacts import download_artifacts

    uri = client.get_model_version_download_uri(version.name, version.version)
    if uri.startswith("models:/"):
        uri = client.get_logged_model(uri.removeprefix("models:/")).artifact_location
    if uri.startswith(("file:", "/")):
        return _checked(Path(unquote(urlsplit(uri).path)), version)
    digest = hashlib.sha256(f"{place.public_uri} {uri}".encode()).hexdigest()[:12]
    name = re.sub(r"[^\w.-]", "_", version.name)
    kept = _cache() / f"{name}-{version.version}-{digest}"
    if not kept.exists():
        make_directory(kept.parent, CACHE_VARIABLE)
        with tempfile.TemporaryDirectory(dir=kept.parent) as temporary:
            _log.info("copying %s version %s from %s", version.name, version.version, place.public_uri)
            copy = Path(download_artifacts(artifact_uri=uri, dst_path=temporary, tracking_uri=place.uri))
            _checked(copy, version)
            _keep(copy, kept)
    return _checked(kept, version)


def _checked(root: Path, version: Any) -> Path:
    """Return the model directory within MLflow's form of a version, whose files are those that were registered."""
    title, directory = f"{version.name} version {version.version}", root / FILES_IN_MODEL
    missing = [name for name in _MODEL_FILES if not (directory / name).is_file()]
    if missing:
        fix = "choose a version that jobs/train_model.py registered"
        raise InputError(title, "", f"holds no {' and no '.join(missing)}", fix)
    expected, files = version.tags.get(CHECKSUMS_TAG), version.tags.get(FILES_TAG)
    if expected is not None or (root / CHECKSUMS_FILE).exists():
        check_files(root, title, expected)
    elif files is None:
        _log.warning("%s was registered without checksums, its files are not checked", title)
    elif files != ModelNote(directory, version.name, "").marks[FILES_TAG]:
        refuse_changed(title, "files", f"the files in {directory} are not those of this version")
    return directory


def _keep(copy: Path, kept: Path) -> None:
    try:
        shutil.move(copy, kept)
    except OSError:
        if not kept.exists():
            raise
        # Another process was quicker; a version's files never change.


def _cache() -> Path:
    named = os.environ.get(CACHE_VARIABLE)
    return Path(named).expanduser() / "models" if named else Path.home() / ".cache" / "vavl" / "models"

"""Where a run is tracked: settings, the absolute addresses they stand for, and whether a store answers."""

from __future__ import annotations

import contextlib
import re
import shlex
import socket
import sqlite3
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from pydantic import Field, field_validator

from vavl.config.base import FrozenConfig
from vavl.config.places import root_directory
from vavl.errors import proxy_hint

_SQLITE = "sqlite:///"
_SERVER_ERROR = 500
_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
_SECRET = re.compile(
    r"(?:^|[&;])[^=&;]*(?:password|passwd|pwd|token|secret|credential|signature|sig|api_?key|access_?key)[^=&;]*=", re.I
)
_DATABASES = ("sqlite", "postgresql", "mysql", "mssql")


def _without_password(address: str | None) -> str | None:
    # Settings are saved with the run; what the environment holds is not.
    parts = urlsplit(address or "")
    # A name alone is the user of a database, but a token of a server.
    is_token = parts.scheme in ("http", "https") and parts.username is not None
    if is_token or parts.password is not None or _SECRET.search(f"{parts.query}&{parts.fragment}"):
        raise ValueError(
            "holds a password or a token; give the whole address by MLFLOW_TRACKING_URI, or "
            "MLFLOW_TRACKING_TOKEN, or MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
        )
    return address


class TrackingSettings(FrozenConfig):
    """How a run reaches MLflow; without an address, a SQLite file and a directory under ``runs``."""

    uri: str | None = Field(
        None, description="tracking server or database; null: MLFLOW_TRACKING_URI, else sqlite in runs/mlflow.db"
    )
    artifact_location: str | None = Field(
        None, description="directory or address for artifacts; null: runs/mlartifacts, or the server's own choice"
    )
    experiment: str = Field("vavl", min_length=1, description="MLflow experiment")
    run_name: str | None = Field(None, description="name of the run; null: the job's choice")
    model_name: str | None = Field(None, min_length=1, description="registered model; null: do not register")
    flush_seconds: float = Field(5.0, gt=0, description="pause between two looks at the journal")
    system_metrics: bool = Field(True, description="record processor, memory, disk, network and GPU")
    system_metrics_seconds: float = Field(10.0, gt=0, description="pause between two such measurements")
    request_timeout_seconds: int = Field(10, gt=0, description="longest wait for one answer of a server")
    request_retries: int = Field(1, ge=0, le=5, description="repeats of a request that a server did not answer")

    _holds_no_password = field_validator("uri", "artifact_location")(_without_password)


class TrackingTarget(FrozenConfig):
    """Another store than the one that a run was started with; null leaves what the run says."""

    uri: str | None = Field(None, description="tracking server; null: the store of each run")
    artifact_location: str | None = Field(None, description="directory or address for artifacts")
    request_timeout_seconds: int | None = Field(None, gt=0, description="longest wait for one answer")
    request_retries: int | None = Field(None, ge=0, le=5, description="repeats of a request without an answer")

    _holds_no_password = field_validator("uri", "artifact_location")(_without_password)

    def applied_to(self, settings: TrackingSettings) -> TrackingSettings:
        """Return the settings of a run with what is given here."""
        return TrackingSettings.model_validate({**settings.model_dump(), **self.model_dump(exclude_none=True)})


@dataclass(frozen=True)
class TrackingPlace:
    """Absolute addresses of one tracking store."""

    uri: str  # address for MLflow; may hold a password
    artifact_location: str | None  # address given to a new experiment; None leaves it to the server

    @property
    def public_uri(self) -> str:
        """The address without user and password, fit for files and logs."""
        parts = urlsplit(self.uri)
        if "@" not in parts.netloc and not parts.query:
            return self.uri
        # Databases take user and password behind a question mark too.
        return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query=""))

    @property
    def database(self) -> Path | None:
        """The file of a SQLite store, None for a server."""
        return Path(self.uri.removeprefix(_SQLITE)) if self.uri.startswith(_SQLITE) else None

    @property
    def show_command(self) -> str:
        """The shell command that opens the runs in a browser, or the server's own address."""
        then = "--port 5000   # then open http://127.0.0.1:5000"
        if self.database is not None:
            return f"mlflow server --backend-store-uri {shlex.quote(self.uri)} {then}"
        if self.uri.startswith("http"):
            return self.public_uri
        # The address of a database holds its password: it stays in the environment that it came from.
        return f'MLFLOW_BACKEND_STORE_URI="$MLFLOW_TRACKING_URI" mlflow server {then}'


def tracking_place(settings: TrackingSettings, environment: Mapping[str, str]) -> TrackingPlace:
    """Resolve the settings to absolute addresses; call it before any worker changes its directory.

    Relative places count from ``VAVL_ROOT``, else from the current directory.
    """
    base = (root_directory(environment) or Path.cwd()).resolve()
    uri = settings.uri or environment.get("MLFLOW_TRACKING_URI") or f"{_SQLITE}{base / 'runs' / 'mlflow.db'}"
    if uri.startswith(_SQLITE):
        uri = f"{_SQLITE}{base / uri.removeprefix(_SQLITE)}"
    location = settings.artifact_location
    if location is None:
        # A server keeps artifacts where it wants; a database alone would take ./mlruns of whoever comes first.
        location = str(base / "runs" / "mlartifacts") if uri.startswith(_DATABASES) else None
    if location is not None and "://" not in location:
        location = (base / location).as_uri()
    return TrackingPlace(uri, location)


def unreachable_reason(place: TrackingPlace, timeout_seconds: float) -> str | None:
    """Return why the store cannot be written now, or None when nothing speaks against it.

    A SQLite file must let itself be locked for writing, an HTTP server must answer, the port of a database
    server must be open; MLflow itself would try it for minutes. Other addresses are taken as reachable.
    """
    if place.database is not None:
        return _sqlite_error(place.database, timeout_seconds)
    if place.uri.startswith(("http://", "https://")):
        return _server_error(place.public_uri, timeout_seconds)
    return _port_error(place, timeout_seconds)


def _sqlite_error(database: Path, timeout_seconds: float) -> str | None:
    if not database.exists():
        return None
    try:
        with contextlib.closing(sqlite3.connect(database, timeout=timeout_seconds)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.rollback()
    except sqlite3.Error as error:
        return f"{database}: {error}"
    return None


def _server_error(address: str, timeout_seconds: float) -> str | None:
    try:
        with urllib.request.urlopen(f"{address.rstrip('/')}/health", timeout=timeout_seconds):  # noqa: S310  http(s) only
            return None
    except urllib.error.HTTPError as error:
        # A refusal (no such page, no permission) is an answer; the server itself is there.
        reason = f"HTTP status {error.code}" if error.code >= _SERVER_ERROR else ""
    except (OSError, ValueError) as error:
        reason = str(getattr(error, "reason", error))
    return f"{address}: {reason}{proxy_hint(urlsplit(address).hostname or '')}" if reason else None


def _port_error(place: TrackingPlace, timeout_seconds: float) -> str | None:
    parts = urlsplit(place.public_uri)
    port = parts.port or _PORTS.get(parts.scheme.partition("+")[0])
    if not parts.hostname or "%2f" in parts.hostname.lower() or port is None:  # a Unix socket, or unknown
        return None
    try:
        with socket.create_connection((parts.hostname, port), timeout=timeout_seconds):
            return None
    except OSError as error:
        return f"{place.public_uri}: {error}"

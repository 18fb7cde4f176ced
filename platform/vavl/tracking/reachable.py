"""Whether a tracking store answers: a quick look without MLflow and its minutes of retries."""

from __future__ import annotations

import contextlib
import socket
import sqlite3
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

from vavl.tracking.settings import TrackingPlace

_SERVER_ERROR = 500
_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}


def unreachable_reason(place: TrackingPlace, timeout_seconds: float) -> str | None:
    """Return why the store cannot be written now, or None when nothing speaks against it.

    A SQLite file must let itself be locked for writing, an HTTP server must answer, the port of a data base
    server must be open; MLflow itself would try it for minutes. Other addresses are taken as reachable.
    """
    if place.database is not None:
        return _sqlite_fault(place.database, timeout_seconds)
    if place.uri.startswith(("http://", "https://")):
        return _server_fault(place.public_uri, timeout_seconds)
    return _port_fault(place, timeout_seconds)


def _sqlite_fault(database: Path, timeout_seconds: float) -> str | None:
    if not database.exists():
        return None
    try:
        with contextlib.closing(sqlite3.connect(database, timeout=timeout_seconds)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.rollback()
    except sqlite3.Error as fault:
        return f"{database}: {fault}"
    return None


def _server_fault(address: str, timeout_seconds: float) -> str | None:
    try:
        with urllib.request.urlopen(f"{address.rstrip('/')}/health", timeout=timeout_seconds):  # noqa: S310  http(s) only
            return None
    except urllib.error.HTTPError as fault:
        # A refusal (no such page, no permission) is an answer; the server itself is there.
        return f"{address}: HTTP status {fault.code}" if fault.code >= _SERVER_ERROR else None
    except (OSError, ValueError) as fault:
        return f"{address}: {getattr(fault, 'reason', fault)}"


def _port_fault(place: TrackingPlace, timeout_seconds: float) -> str | None:
    parts = urlsplit(place.public_uri)
    port = parts.port or _PORTS.get(parts.scheme.partition("+")[0])
    if not parts.hostname or "%2f" in parts.hostname.lower() or port is None:  # a Unix socket, or unknown
        return None
    try:
        with socket.create_connection((parts.hostname, port), timeout=timeout_seconds):
            return None
    except OSError as fault:
        return f"{place.public_uri}: {fault}"

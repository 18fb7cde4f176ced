"""A copied or moved project: its MLflow database still names the directory that the artifacts were in before.

MLflow keeps absolute places of artifacts: of experiments, runs, models and versions. In a copy it would read and write
those of the original. What gives a copy away: the artifacts of runs that the database knows lie in a directory near it,
and the database says that they lie elsewhere.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import sqlite3
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import unquote, urlsplit

from vavl.errors import InputError, TrackingError
from vavl.tracking.mlflow_writer import open_client
from vavl.tracking.settings import TrackingPlace, TrackingSettings, tracking_place, unreachable_reason

_BACKUP = ".before-relocation"
_BUSY_SECONDS = 10.0
_MOST_RUNS = 1000
_MOVED = (
    "the project was copied or moved: artifacts of {} lie in {}, but the database still names {}, and they would be "
    "read and written there"
)
_PLACES = {
    "experiments": ("artifact_location",),
    "runs": ("artifact_uri",),
    "logged_models": ("artifact_location",),
    "model_versions": ("source", "storage_location"),
}


def moved_artifacts(database: Path) -> dict[str, str]:
    """Return where artifacts were by a SQLite database of MLflow, as it writes it, each with where they are now.

    Empty for a database that is not there or cannot be read, and where nothing was moved.
    """
    runs: dict[str, set[str]] = defaultdict(set)
    for run, uri in known_ids(database).items():
        root = uri.removesuffix(f"/{run}/artifacts")
        if root != uri and root.startswith(("/", "file:")):
            runs[root].add(run)
    return {root: now for root, known in runs.items() if (now := _place_now(root, known, database))}


def known_ids(database: Path) -> dict[str, str]:
    """Return the MLflow ids of the runs in a SQLite store, each with the place of its artifacts."""
    if database.exists():
        with contextlib.suppress(sqlite3.Error), contextlib.closing(_connect(database)) as connection:
            return dict(connection.execute("SELECT run_uuid, coalesce(artifact_uri, '') FROM runs"))
    return {}


def refuse_moved(settings: TrackingSettings, environment: Mapping[str, str] = os.environ) -> None:
    """Refuse a tracking store that came here in a copied or moved project.

    Raises:
        InputError: with the command that mends it.
    """
    place = tracking_place(settings, environment)
    if place.database is None:
        _refuse_moved_from_server(settings, place)
        return
    for before, now in moved_artifacts(place.database).items():
        words = ["python", "jobs/sync_tracking.py", str(place.database.parent), "relocate=true"]
        if place.uri != tracking_place(TrackingSettings(), environment).uri:
            words.append(f"tracking.uri={place.uri}")
        problem = _MOVED.format("its runs", now, before)
        raise InputError(str(place.database), "artifact locations", problem, shlex.join(words))


def _refuse_moved_from_server(settings: TrackingSettings, place: TrackingPlace) -> None:
    """Refuse an experiment of a database server whose artifacts, on disks of this machine, were moved."""
    here = _directory(place.artifact_location)
    if here is None or not here.is_dir() or unreachable_reason(place, _BUSY_SECONDS) is not None:
        return
    from mlflow.exceptions import MlflowException

    client = open_client(settings, place)
    with contextlib.suppress(MlflowException):  # a store that is away is somebody else's to say
        experiment = client.get_experiment_by_name(settings.experiment)
        named = _directory(experiment and experiment.artifact_location)
        if named is None or (named.is_dir() and named.samefile(here)):
            return
        runs = client.search_runs([experiment.experiment_id], max_results=_MOST_RUNS)
        if any((here / run.info.run_id).is_dir() for run in runs):
            problem = _MOVED.format(f"experiment {settings.experiment}", here, named)
            fix = (
                "move it back; or name another experiment, whose artifacts lie here: tracking.experiment=NAME; where "
                "many share a database, let a server keep the artifacts: mlflow server --serve-artifacts"
            )
            raise InputError(place.public_uri, "artifact locations", problem, fix)


def _directory(location: str | None) -> Path | None:
    """Return the directory that a location of artifacts means, None for object storage and the like."""
    parts = urlsplit(location or "")
    return Path(unquote(parts.path)) if parts.path and parts.scheme in ("", "file") else None


def relocate(database: Path) -> dict[str, str]:
    """Let a database name the places where artifacts are now; a copy of it as it was stays next to it.

    Returns:
        What was replaced, as ``moved_artifacts``.

    Raises:
        TrackingError: the database cannot be written.
    """
    moved = moved_artifacts(database)
    if not moved:
        return {}
    backup = database.with_name(f"{database.name}{_BACKUP}")
    try:
        with contextlib.closing(_connect(database)) as connection:
            with contextlib.closing(sqlite3.connect(backup)) as copy:
                connection.backup(copy)
            with connection:
                for before, now in moved.items():
                    _replace(connection, before, now)
    except sqlite3.Error as error:
        fix = f"end what else uses it (a server, a run) and start again; {backup} is the database as it was"
        raise TrackingError(str(database), "", f"cannot be rewritten: {error}", fix) from None
    return moved


def _replace(connection: sqlite3.Connection, before: str, now: str) -> None:
    for table, columns in _PLACES.items():
        known = {row[1] for row in connection.execute(f"PRAGMA table_info({table})")}
        for column in known.intersection(columns):
            # Names of tables and columns stand above; a part of a place is replaced up to a slash.
            connection.execute(
                f"UPDATE {table} SET {column} = :now || substr({column}, length(:before) + 1) "  # noqa: S608
                f"WHERE {column} = :before OR substr({column}, 1, length(:before) + 1) = :before || '/'",
                {"before": before, "now": now},
            )


def _connect(database: Path) -> sqlite3.Connection:
    return sqlite3.connect(database, timeout=_BUSY_SECONDS)


def _place_now(root: str, runs: set[str], database: Path) -> str | None:
    """Return where artifacts of the runs are in the form of ``root``; None where they are not to be found elsewhere."""
    before = Path(unquote(urlsplit(root).path))
    for now in _namesakes(before, database):
        if not (before.is_dir() and now.samefile(before)) and any(path.name in runs for path in now.iterdir()):
            return now.as_uri() if root.startswith("file:") else str(now)
    return None


def _namesakes(before: Path, database: Path) -> Iterator[Path]:
    """Yield the directories next to the database, or next to a directory above it, that end like ``before``."""
    parts = before.parts[1:]
    for above in database.absolute().parents:
        for length in range(1, len(parts) + 1):
            place = above.joinpath(*parts[-length:])
            if place.is_dir():
                yield place

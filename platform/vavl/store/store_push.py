"""Push a store to object storage or a shared directory as a version of its corpus, and list what lies there."""

from __future__ import annotations

import datetime as dt
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vavl.config.files import sha256_of_file
from vavl.corpora.manifest import MANIFEST_FILE, Manifest
from vavl.errors import InputError, StoreError
from vavl.store.checked_files import MAKE_AGAIN
from vavl.store.remote_files import (
    RemoteDirectory,
    StoreFile,
    TransferClock,
    directories_there,
    hash_there,
    read_if_there,
    send_file,
    size_text,
    size_there,
    write_small,
)
from vavl.store.store import FeatureStore
from vavl.store.store_cache import store_files
from vavl.store.store_versions import (
    RECORD_FILE,
    STORE_FILE,
    as_address,
    as_json,
    version_of,
    versions_at,
    write_latest,
)

# What people read alongside a store, if it is there; a reader of features needs none of it.
_COMPANIONS = (
    "quarantine.jsonl", "notes.jsonl", "audit.json", "audit.html", "config.yaml", "summary.json",
)  # fmt: skip
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pushed:
    """What a push did.

    Attributes:
        place: that a run names as its store, ``<address>/<corpus>@<version>``.
        sent: files that went there now.
        kept: files that were there already.
        versions: names of all of the corpus there, newest first.
    """

    place: str
    version: str
    sent: tuple[str, ...]
    kept: tuple[str, ...]
    sent_bytes: int
    seconds: float
    versions: tuple[str, ...]

    @property
    def bytes_per_second(self) -> float:
        """Of what was sent."""
        return self.sent_bytes / max(self.seconds, 1e-6)

    def summary(self) -> dict[str, Any]:
        """Return the content of summary.json.

        Keys: ``place`` that a run names as its store, ``version``, ``newest`` version of the corpus there,
        ``versions`` there, ``sent`` and ``kept`` files, ``sent_bytes``, ``seconds``, ``bytes_per_second``.
        """
        return {
            "place": self.place,
            "version": self.version,
            "newest": self.versions[0],
            "versions": len(self.versions),
            "sent": list(self.sent),
            "kept": list(self.kept),
            "sent_bytes": self.sent_bytes,
            "seconds": round(self.seconds, 3),
            "bytes_per_second": round(self.bytes_per_second),
        }

    def rows(self) -> list[tuple[str, str]]:
        """Return the rows of the table that the job prints."""
        speed = f"{self.seconds:.1f} s, {self.bytes_per_second / 1e6:.1f} MB/s with reading back"
        newest = "this one" if self.versions[0] == self.version else self.versions[0]
        return [
            ("store", self.place),
            ("sent", f"{len(self.sent)} files, {size_text(self.sent_bytes)} in {speed}"),
            ("there already", f"{len(self.kept)} files"),
            ("versions", f"{len(self.versions)}, newest {newest}"),
        ]


def check_target(to: Path | str) -> None:
    """Look whether stores can be pushed below an address.

    Raises:
        InputError: it cannot be reached, or can only be read.
    """
    if RemoteDirectory(as_address(to)).protocol in ("http", "https"):
        fix = "push to a directory or to object storage, e.g. s3://bucket/stores"
        raise InputError(str(to), "", "http:// and https:// can only be read", fix)


def check_push(directory: Path, to: Path | str) -> FeatureStore:
    """Look at the store and at the address before anything is read or sent.

    Raises:
        StoreError: the directory holds no complete store.
        InputError: the address can only be read.
    """
    check_target(to)
    store = FeatureStore.open(directory)
    if MANIFEST_FILE not in store.content["files"]:
        problem = "holds no hash of the manifest, so a version could change unseen"
        raise StoreError(str(directory / STORE_FILE), "files", problem, MAKE_AGAIN)
    return store


def push_finished(
    directory: Path, to: Path | str | None, rows: Sequence[tuple[str, Any]]
) -> tuple[Path | str, list[tuple[str, Any]]]:
    """Push a store that a job has just written, if ``to`` says where; return what a run names, and the job's table.

    Raises:
        StoreError, InputError: see ``push_store``.
    """
    if to is None:
        return directory, list(rows)
    pushed = push_store(directory, to, dt.datetime.now(dt.UTC))
    return pushed.place, [*rows, *pushed.rows()]


def push_store(directory: Path, to: Path | str, now: dt.datetime, *, read_back: bool = True) -> Pushed:
    """Copy a store to ``<to>/<corpus>/<version>/``.

    The store is read and compared with its store.json first. A file that is there already is not sent
    again; store.json goes last, so an interrupted push is no version, and the same call continues it.

    Args:
        directory: of the store.
        to: directory or address below which the versions of all corpora lie.
        now: date and time that the record states.
        read_back: read every file back and compare its SHA-256; otherwise its size alone is compared.

    Raises:
        StoreError: the store is incomplete or changed, or what arrived is not what was sent.
        InputError: the address cannot be written or read.
    """
    store = check_push(directory, to)
    store.verify()
    version = version_of(store.content)
    corpus = RemoteDirectory(f"{as_address(to)}/{store.corpus}")
    remote = RemoteDirectory(f"{corpus.address}/{version}")
    is_committed = _is_committed(remote, version)
    files = _files_of(store, with_companions=not is_committed)
    clock = TransferClock(f"pushing to {remote.address}", sum(file.bytes for file in files))
    sent = [file for file in files if _sent(remote, directory, file, clock, read_back=read_back)]
    if not is_committed:
        write_small(remote, RECORD_FILE, as_json(_record(store, version, files, now)))
        write_small(remote, STORE_FILE, (directory / STORE_FILE).read_bytes())
    sent_bytes, seconds = sum(file.bytes for file in sent), clock.seconds
    _log.info(
        "sent %s in %.1f s, %s; %d of %d files were there",
        size_text(sent_bytes), seconds, clock.rate(), len(files) - len(sent), len(files),
    )  # fmt: skip
    return Pushed(
        place=f"{to}/{store.corpus}@{version}",
        version=version,
        sent=tuple(file.name for file in sent),
        kept=tuple(file.name for file in files if file not in sent),
        sent_bytes=sent_bytes,
        seconds=seconds,
        versions=tuple(write_latest(corpus)),
    )


def _is_committed(remote: RemoteDirectory, version: str) -> bool:
    """Tell whether the version is whole at the address; what it holds is then never changed, only repaired."""
    try:
        return version_of(json.loads(read_if_there(remote, STORE_FILE) or b"{}")) == version
    except (ValueError, KeyError):
        return False


def _files_of(store: FeatureStore, *, with_companions: bool) -> list[StoreFile]:
    """Return the files of the store with size and hash, what a reader needs first."""
    beside = [store.directory / name for name in _COMPANIONS if with_companions]
    return store_files(store.content) + [
        StoreFile(path.name, path.stat().st_size, sha256_of_file(path)) for path in beside if path.is_file()
    ]


def _sent(remote: RemoteDirectory, directory: Path, file: StoreFile, clock: TransferClock, *, read_back: bool) -> bool:
    """Send a file unless it lies there; returns whether it was sent."""

    def is_there() -> bool:
        is_same = size_there(remote, file.name) == file.bytes
        return is_same and (not read_back or hash_there(remote, file.name) == file.sha256)

    if is_there():
        return False
    send_file(remote, directory / file.name, file.name, clock.tick)
    if not is_there():
        problem = "what arrived is not what was sent (size or SHA-256)"
        raise StoreError(f"{remote.address}/{file.name}", "", problem, "start the same command again")
    return True


def _record(store: FeatureStore, version: str, files: list[StoreFile], now: dt.datetime) -> dict[str, Any]:
    """Return what is known of a version without opening it."""
    manifest = Manifest.read(store.directory)
    shown = ("extractor", "version", "settings", "clips", "frames")
    return {
        "version": version,
        "corpus": store.corpus,
        "store_hash": store.hash,
        "pushed": now.astimezone(dt.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "clips": len(manifest),
        "bytes": sum(file.bytes for file in files),
        "target": manifest.target,
        "classes": list(manifest.classes),
        "features": {
            name: {key: entry[key] for key in shown} for name, entry in sorted(store.content["modalities"].items())
        },
    }


def list_stores(address: Path | str) -> list[dict[str, Any]]:
    """Return the stores at an address, or at one of the corpora there; corpora sorted, newest versions first.

    Returns:
        The entries of summary.json's ``stores``: ``place`` that a run names as its store, whether it is the
        ``newest`` of its corpus, and its version.json, or ``store_hash`` alone of a store without version.

    Raises:
        InputError: there is no store, or the address cannot be listed.
        StoreError: a record is broken.
    """
    remote = RemoteDirectory(as_address(address))
    found = _stores_in(str(address), remote)
    for name in () if found else directories_there(remote):
        found += _stores_in(f"{address}/{name}", RemoteDirectory(f"{remote.address}/{name}"))
    if not found:
        fix = "name the directory or address that stores were pushed to (`to` of jobs/push_store.py)"
        raise InputError(str(address), "", "there is no feature store", fix)
    return found


def listed_rows(found: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Return the rows of the table that the job prints: place, and what is known of it."""
    return [(store["place"], _words(store)) for store in found]


def _stores_in(place: str, remote: RemoteDirectory) -> list[dict[str, Any]]:
    """Return what one directory holds: versions, a store without version, or nothing."""
    records = versions_at(remote)
    if records:
        return [
            {"place": f"{place}@{record['version']}", "newest": record is records[0]} | record for record in records
        ]
    text = read_if_there(remote, STORE_FILE)
    if text is None:
        return []
    try:
        store_hash = json.loads(text).get("store_hash")
    except ValueError:
        store_hash = None
    return [{"place": place, "newest": False, "store_hash": store_hash}]


def _words(store: Mapping[str, Any]) -> str:
    if "version" not in store:
        return f"without version, hash {store['store_hash'] or 'unknown'}"
    features = ", ".join(f"{name} {entry['extractor']} {entry['version']}" for name, entry in store["features"].items())
    newest = "newest, " if store["newest"] else ""
    when = store["pushed"][:16].replace("T", " ")
    return f"{newest}{when} UTC, {store['clips']} clips, {size_text(store['bytes'])}, {features}"

"""Push a store to object storage or a shared folder, as a version of its corpus."""

from __future__ import annotations

import datetime as dt
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vavl.config.files import sha256_of_file
from vavl.corpora.manifest import Manifest
from vavl.errors import InputError, StoreError
from vavl.store.remote_files import RemoteFolder, StoreFile, TransferClock, size_text
from vavl.store.remote_writing import hash_there, read_if_there, send_file, size_there, write_small
from vavl.store.store import FeatureStore
from vavl.store.store_cache import store_files
from vavl.store.store_versions import (
    RECORD_FILE,
    STORE_FILE,
    VersionRecord,
    as_address,
    as_json,
    refresh_index,
    version_of,
)

# What people read beside a store, if it is there; a reader of features needs none of it.
_COMPANIONS = (
    "manifest.parquet", "quarantine.jsonl", "notes.jsonl", "audit.json", "audit.html", "config.yaml", "summary.json",
)  # fmt: skip
_READ_ONLY = frozenset({"http", "https"})
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pushed:
    """What a push did.

    Attributes:
        place: that a run names as its store, ``<address>/<corpus>@<version>``.
        version: its name.
        sent: files that went there now.
        kept: files that were there already.
        sent_bytes: of the files that went.
        seconds: of sending and reading back.
        versions: all of the corpus there, newest first.
    """

    place: str
    version: str
    sent: tuple[str, ...]
    kept: tuple[str, ...]
    sent_bytes: int
    seconds: float
    versions: tuple[VersionRecord, ...]

    @property
    def bytes_per_second(self) -> float:
        """Of what was sent."""
        return self.sent_bytes / max(self.seconds, 1e-6)


def check_push(folder: Path, to: Path | str) -> FeatureStore:
    """Look at the store and at the address before anything is read or sent.

    Raises:
        StoreError: the folder holds no complete store.
        InputError: the address can only be read.
    """
    remote = RemoteFolder(as_address(to))
    if remote.protocol in _READ_ONLY:
        raise InputError(
            str(to), "", f"{remote.protocol}:// can only be read",
            "push to a folder or to object storage, e.g. s3://bucket/stores",
        )  # fmt: skip
    store = FeatureStore.open(folder)
    if "manifest.arrow" not in store.content.get("files", {}):
        raise StoreError(
            str(folder / STORE_FILE), "files", "holds no hash of the manifest, so a version could change unseen",
            "make the store again: python jobs/prepare_corpus.py CONFIG",
        )  # fmt: skip
    return store


def push_store(folder: Path, to: Path | str, now: dt.datetime, *, read_back: bool = True) -> Pushed:
    """Copy a store to ``<to>/<corpus>/<version>/`` and enter it into the index of the corpus.

    The store is read and compared with its store.json first. A file that is there already is not sent
    again; store.json goes last, so an interrupted push is no version, and the same call continues it.

    Args:
        folder: of the store.
        to: folder or address below which the versions of all corpora lie.
        now: date and time that the record states.
        read_back: read every file back and compare its SHA-256; otherwise its size alone is compared.

    Raises:
        StoreError: the store is incomplete or changed, or what arrived is not what was sent.
        InputError: the address cannot be written or read.
    """
    store = check_push(folder, to)
    store.verify()
    content, version = store.content, version_of(store.content)
    corpus = RemoteFolder(f"{as_address(to)}/{store.corpus}")
    remote = RemoteFolder(f"{corpus.address}/{version}")
    is_committed = _is_committed(remote, version)
    files = _files_of(folder, content, with_companions=not is_committed)
    clock = TransferClock("pushing to", remote.address, sum(file.bytes or 0 for file in files))
    sent = [file for file in files if _sent(remote, folder, file, clock, read_back=read_back)]
    if not is_committed:
        write_small(remote, RECORD_FILE, as_json(_record(folder, content, files, now).to_dict()))
        write_small(remote, STORE_FILE, (folder / STORE_FILE).read_bytes())
    sent_bytes = sum(file.bytes or 0 for file in sent)
    _log.info(
        "sent %s in %.1f s, %s; %d of %d files were there",
        size_text(sent_bytes), clock.seconds, clock.rate(), len(files) - len(sent), len(files),
    )  # fmt: skip
    return Pushed(
        place=f"{to}/{store.corpus}@{version}",
        version=version,
        sent=tuple(file.name for file in sent),
        kept=tuple(file.name for file in files if file not in sent),
        sent_bytes=sent_bytes,
        seconds=clock.seconds,
        versions=tuple(refresh_index(corpus)),
    )


def _is_committed(remote: RemoteFolder, version: str) -> bool:
    """Tell whether the version is whole at the address; what it holds is then never changed, only repaired."""
    try:
        return version_of(json.loads(read_if_there(remote, STORE_FILE) or b"{}")) == version
    except (ValueError, KeyError):
        return False


def _files_of(folder: Path, content: Mapping[str, Any], *, with_companions: bool) -> list[StoreFile]:
    """Return the files of the store with size and hash, what a reader needs first."""
    beside = [
        StoreFile(name, None, None) for name in _COMPANIONS if with_companions and (folder / name).is_file()
    ]
    files = []
    for file in [*store_files(content), *beside]:
        path = folder / file.name
        files.append(StoreFile(file.name, path.stat().st_size, file.sha256 or sha256_of_file(path)))
    return files


def _sent(
    remote: RemoteFolder, folder: Path, file: StoreFile, clock: TransferClock, *, read_back: bool
) -> bool:
    """Send a file unless it lies there; returns whether it was sent."""
    if _is_same(remote, file, read_back=read_back):
        return False
    send_file(remote, folder / file.name, file.name, clock.tick)
    if not _is_same(remote, file, read_back=read_back):
        raise StoreError(
            f"{remote.address}/{file.name}", "", "what arrived is not what was sent (size or SHA-256)",
            "start the same command again",
        )  # fmt: skip
    return True


def _is_same(remote: RemoteFolder, file: StoreFile, *, read_back: bool) -> bool:
    """Tell whether the file lies at the address as it lies here."""
    if size_there(remote, file.name) != file.bytes:
        return False
    return not read_back or hash_there(remote, file.name) == file.sha256


def _record(
    folder: Path, content: Mapping[str, Any], files: list[StoreFile], now: dt.datetime
) -> VersionRecord:
    manifest = Manifest.read(folder)
    shown = ("extractor", "version", "settings", "clips", "frames")
    return VersionRecord(
        version=version_of(content),
        corpus=str(content["corpus"]),
        store_hash=str(content["store_hash"]),
        pushed=now.astimezone(dt.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        clips=len(manifest),
        bytes=sum(file.bytes or 0 for file in files),
        target=manifest.target,
        classes=manifest.classes,
        features={
            name: {key: entry[key] for key in shown} for name, entry in sorted(content["modalities"].items())
        },
    )

"""A feature store from object storage or a server: copied once per machine, checked, then mapped.

A store in a directory, shared or not, is mapped where it is. An address is copied into
``VAVL_CACHE`` (default ``~/.cache/vavl/stores``), one directory per address and content:

    <corpus>-<store hash>-<digest>/   all files; verified.json holds sizes, times and hashes
    <corpus>-...-<digest>.notes/      store.json and the manifest alone, for who needs no features

Credentials come from the environment, as the drivers read them (AWS_ACCESS_KEY_ID,
GOOGLE_APPLICATION_CREDENTIALS, ...); their settings as ``FSSPEC_S3_ENDPOINT_URL`` and the like.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vavl.config.files import make_folder, read_json, sha256_of_file, write_json
from vavl.config.places import CACHE_VARIABLE
from vavl.corpora.manifest import MANIFEST_FILES
from vavl.errors import VavlError
from vavl.store.checked_files import MARKER_FILE, cache_directory, file_mark, held_lock, replace_directory
from vavl.store.remote_files import RemoteDirectory, StoreFile, copy_files
from vavl.store.store import checked_content, read_content
from vavl.store.store_versions import check_version, store_directory

_STORE_FILE = "store.json"
_NOT_IN_NAMES = re.compile(r"[^\w.-]")
_log = logging.getLogger(__name__)


def local_store(place: Path | str) -> Path:
    """Return a directory of this machine that holds the whole store.

    Args:
        place: a directory, which is returned as it is, or an address; either may name a version (``...@latest``).

    Raises:
        InputError: the driver of the address is missing, the place cannot be reached or the disk is too small.
        StoreError: there is no store, no such version, or what arrived is not what its store.json says.
    """
    directory = _directory_here(place)
    return directory if directory is not None else _CachedStore(place).directory(with_features=True)


def local_notes(place: Path | str) -> Path:
    """Return a directory with at least ``store.json`` and the manifest; features are not copied for it.

    Raises:
        InputError, StoreError: see ``local_store``.
    """
    directory = _directory_here(place)
    if directory is not None:
        return directory
    cached = _CachedStore(place)
    return cached.directory(with_features=cached.is_whole)


def run_cache_directory() -> Path:
    """Return the directory of this machine for the files of runs at addresses."""
    stores = cache_directory()
    return stores / "runs" if os.environ.get(CACHE_VARIABLE) else stores.with_name("runs")


def is_at_hand(place: Path | str) -> bool:
    """Tell whether this machine has the features of the store, so that opening it copies nothing."""
    return isinstance(place, Path) or _CachedStore(place).is_whole


def _directory_here(place: Path | str) -> Path | None:
    """Return the directory of this machine that ``place`` names, None for an address."""
    directory = store_directory(place) if isinstance(place, Path) else None
    if not isinstance(directory, Path):
        return None
    if directory != place:
        check_version(directory, read_content(directory))
    return directory


class _CachedStore:
    """What lies at an address now, and its place in the cache."""

    def __init__(self, named: Path | str) -> None:
        address = str(store_directory(named))
        self._remote = RemoteDirectory(address)
        self._text = self._remote.read(_STORE_FILE)
        place = f"{address}/{_STORE_FILE}"
        self._content = checked_content(_parsed(self._text), place)
        if address != str(named):
            check_version(address, self._content)
        self._cache = make_folder(cache_directory(), setting=CACHE_VARIABLE)
        digest = hashlib.sha256(address.encode() + b"\0" + self._text).hexdigest()[:12]
        name = _NOT_IN_NAMES.sub("_", f"{self._content['corpus']}-{self._content['store_hash']}")
        self._entry = self._cache / f"{name}-{digest}"

    @property
    def is_whole(self) -> bool:
        return (self._entry / MARKER_FILE).exists()

    def directory(self, *, with_features: bool) -> Path:
        """Return the directory in the cache, filled and checked."""
        entry = self._entry if with_features else self._entry.with_name(self._entry.name + ".notes")
        files = [file for file in store_files(self._content) if with_features or file.name in MANIFEST_FILES]
        with held_lock(entry.with_name(entry.name + ".lock")):
            error = _error_of(entry) if entry.exists() else None
            if entry.exists() and error is None:
                return entry
            if error:
                _log.warning("%s: %s; copying it anew", entry, error)
            self._copy(entry, files)
        return entry

    def _copy(self, entry: Path, files: list[StoreFile]) -> None:
        partial = entry.with_name(f".{entry.name}.partial")
        partial.mkdir(exist_ok=True)
        copy_files(self._remote, files, partial)
        (partial / _STORE_FILE).write_bytes(self._text)
        hashes = {file.name: file.sha256 for file in files} | {_STORE_FILE: hashlib.sha256(self._text).hexdigest()}
        for path in partial.rglob("*"):
            if path.is_file() and path.relative_to(partial).as_posix() not in hashes:
                path.unlink()
        write_json(partial / MARKER_FILE, {name: file_mark(partial / name, sha) for name, sha in hashes.items()})
        replace_directory(partial, entry)


def store_files(content: Mapping[str, Any]) -> list[StoreFile]:
    """Return the files of a store next to store.json, those that a reader needs first before the shards."""
    files = [StoreFile(name, known["bytes"], known["sha256"]) for name, known in content["files"].items()]
    return files + [
        StoreFile(f"{modality}/{shard['name']}", shard["bytes"], shard["sha256"])
        for modality, entry in content["modalities"].items()
        for shard in entry["shards"]
    ]


def _parsed(text: bytes) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _error_of(entry: Path) -> str | None:
    """Return what is wrong with an entry of the cache; a file is read only when its size or time changed."""
    try:
        marks = read_json(entry / MARKER_FILE)
        for name, mark in marks.items():
            path = entry / name
            if not path.exists():
                return f"{name} is missing"
            if file_mark(path, mark["sha256"]) != mark and sha256_of_file(path) != mark["sha256"]:
                return f"{name} was changed"
    except (VavlError, AttributeError, KeyError, TypeError):
        return f"{MARKER_FILE} cannot be read"
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    return None

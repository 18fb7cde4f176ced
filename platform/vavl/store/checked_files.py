"""Damage of files: sizes and hashes that are compared, and locks between processes."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from vavl.config.files import sha256_of_file
from vavl.config.places import CACHE_VARIABLE
from vavl.errors import StoreError

MAKE_AGAIN = "make the store again: python jobs/prepare_corpus.py CONFIG"
REPAIR = f"copy or push the store here again from an undamaged copy, or {MAKE_AGAIN}"
MARKER_FILE = "verified.json"
"""Of a copy in the cache: the state of its files when they were compared with their hashes."""
_log = logging.getLogger(__name__)


def check_size(path: Path, expected: int) -> None:
    """Refuse a file that is missing or has another size; reads nothing.

    Raises:
        StoreError: see above.
    """
    if not path.exists():
        raise StoreError(str(path), "", "the file of the store is missing", MAKE_AGAIN)
    size = path.stat().st_size
    if size != expected:
        raise StoreError(str(path), "", f"has {size} bytes, store.json says {expected}", REPAIR)


def check_hash(path: Path, sha256: str, field: str = "sha256") -> None:
    """Read a file and compare it with the hash that ``field`` of store.json states.

    Raises:
        StoreError: the file is missing, cannot be read or was changed.
    """
    try:
        found = sha256_of_file(path)
    except FileNotFoundError:
        raise StoreError(str(path), "", "the file of the store is missing", MAKE_AGAIN) from None
    except OSError as error:
        raise StoreError(str(path), "", f"cannot be read: {error.strerror}", REPAIR) from None
    if found != sha256:
        raise StoreError(str(path), field, "the file was changed or damaged since it was written", REPAIR)


def file_mark(path: Path, sha256: str) -> dict[str, Any]:
    """Return what tells later whether a file with this hash is as it was."""
    status = path.stat()
    return {"bytes": status.st_size, "mtime_ns": status.st_mtime_ns, "sha256": sha256}


def cache_directory() -> Path:
    """Return the directory of this machine for copies of stores: ``VAVL_CACHE``, or one in the home directory."""
    named = os.environ.get(CACHE_VARIABLE)
    return Path(named).expanduser().absolute() if named else Path.home() / ".cache" / "vavl" / "stores"


@contextlib.contextmanager
def held_lock(path: Path) -> Iterator[None]:
    """Hold a lock between the processes of this machine; waits for another holder."""
    lock = FileLock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        _log.info("waiting for another process: %s", path)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def replace_directory(new: Path, place: Path) -> None:
    """Put a directory in the place of another one, if there is one; who has its files open or mapped keeps them."""
    if place.exists():
        old = place.with_name(f".{place.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        place.rename(old)
        shutil.rmtree(old, ignore_errors=True)
    new.rename(place)

"""A feature store from object storage or a server: copied once per machine, checked, shared by its processes.

A store in a directory, shared or not, is read where it is. An address has a directory in ``VAVL_CACHE`` (default
``~/.cache/vavl/stores``), named by corpus, content and address: the small files are there before it is opened, each
shard from the first time that one of its clips is asked for.

Credentials come from the environment, as the drivers read them (AWS_ACCESS_KEY_ID,
GOOGLE_APPLICATION_CREDENTIALS, ...); their settings as ``FSSPEC_S3_ENDPOINT_URL`` and the like.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any

from vavl.config.files import make_directory, write_text
from vavl.config.places import CACHE_VARIABLE
from vavl.store.checked_files import CopiedFiles, again, cache_directory, held_lock
from vavl.store.remote_files import RemoteDirectory
from vavl.store.rows import shard_files
from vavl.store.store import checked_content, read_content, small_files
from vavl.store.store_versions import STORE_FILE, check_version, store_directory

_NOT_IN_NAMES = re.compile(r"[^\w.-]")


def local_store(place: Path | str) -> Path:
    """Return a directory of this machine that ``FeatureStore.open`` reads as the store.

    Args:
        place: a directory, which is returned as it is, or an address; either may name a version (``...@latest``).

    Raises:
        InputError: the driver of the address is missing, the place cannot be reached or the disk is too small.
        StoreError: there is no store, no such version, or what arrived is not what its store.json says.
    """
    if isinstance(place, Path):
        directory = Path(store_directory(place))
        if directory != place:
            check_version(directory, read_content(directory))
        return directory
    copied, content, text = _copy_of(place)
    # Shards that are here are looked at, too: one that was damaged is copied anew.
    shards = [file for file in shard_files(content) if (copied.directory / file.name).exists()]
    with held_lock(copied.directory.with_name(copied.directory.name + ".lock")):
        copied.begin()
        copied.fetch([*small_files(content), *shards])
        stated = copied.directory / STORE_FILE
        if not stated.exists() or stated.read_text(encoding="utf-8") != text:
            write_text(stated, text)
    return copied.directory


def is_at_hand(place: Path | str) -> bool:
    """Tell whether this machine has all features of the store, so that reading it copies nothing."""
    if isinstance(place, Path):
        return True
    copied, content, _ = _copy_of(place)
    return not any(copied.lacks(file) for file in (*small_files(content), *shard_files(content)))


def run_cache_directory() -> Path:
    """Return the directory of this machine for the files of runs at addresses."""
    stores = cache_directory()
    return stores / "runs" if os.environ.get(CACHE_VARIABLE) else stores.with_name("runs")


def _copy_of(place: str) -> tuple[CopiedFiles, dict[str, Any], str]:
    """Return the directory in the cache for what lies at an address now, and its store.json, parsed and as it is."""
    address = str(store_directory(place))
    text = again(f"{address}/{STORE_FILE}", lambda: RemoteDirectory(address).read(STORE_FILE))
    try:
        parsed = json.loads(text)
    except ValueError:
        parsed = None
    content = checked_content(parsed, f"{address}/{STORE_FILE}")
    if address != place:
        check_version(address, content)
    digest = hashlib.sha256(address.encode() + b"\0" + text).hexdigest()[:12]
    name = _NOT_IN_NAMES.sub("_", f"{content['corpus']}-{content['store_hash']}")
    entry = make_directory(cache_directory(), setting=CACHE_VARIABLE) / f"{name}-{digest}"
    return CopiedFiles(entry, address), content, text.decode()

"""Versions of stores below one address: directories named by their content.

    <address>/<corpus>/<version>/store.json     written last: a directory without it is no version
    <address>/<corpus>/<version>/version.json   when it was pushed and what it holds, never changed
    <address>/<corpus>/latest                   name of the newest version

A version is ``<store hash>-<8 digits over the hashes of all files>``: other features, another card
or other label tables are another version, and what a version holds never changes. A store is named
``<address>/<corpus>@<version>``; the first digits of a version will do, and ``latest`` is the newest one.

Whoever commits a version lists all, writes ``latest`` and lists again, until both lists agree. So two who push at
once need no lock: the last of them to write has seen both. This holds where a listing shows what was written
before it and a small file is replaced whole: S3, GCS, Azure and local disks. A shared directory may show
listings late (NFS); the next push repairs ``latest`` then.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vavl.config.files import sha256_of_json
from vavl.errors import StoreError
from vavl.store.remote_files import RemoteDirectory, directories_there, read_if_there, size_there, write_small
from vavl.store.store import content_hash

LATEST = "latest"
RECORD_FILE, STORE_FILE = "version.json", "store.json"
_log = logging.getLogger(__name__)
_MOST_ROUNDS = 20
_WHOLE = re.compile(r"[0-9a-f]{16}-[0-9a-f]{8}")
_NAMED = re.compile(r"(?P<place>.+)@(?P<version>latest|[0-9a-f]{6,16}|[0-9a-f]{16}-[0-9a-f]{1,8})")


def version_of(content: Mapping[str, Any]) -> str:
    """Return the name of the version that a store is, from its store.json."""
    shards = {name: entry["shards"] for name, entry in content["modalities"].items()}
    return f"{content['store_hash']}-{sha256_of_json([content['files'], shards])[:8]}"


def split_version(place: Path | str) -> tuple[Path | str, str | None]:
    """Return place and version of ``<place>@<version>``; None where no version is named.

    A directory whose own name looks like that is taken as it is.
    """
    match = None if isinstance(place, Path) and place.exists() else _NAMED.fullmatch(str(place))
    if match is None:
        return place, None
    return type(place)(match["place"]), match["version"]


def pinned_store(place: Path | str) -> Path | str:
    """Return the place of a store with its version in full; a place without version stays as it is.

    Raises:
        StoreError: there is no such version, more than one begins like this, or nothing was pushed there.
        InputError: the place cannot be reached.
    """
    base, version = split_version(place)
    if version is None or _WHOLE.fullmatch(version):
        return place
    remote = RemoteDirectory(as_address(base))
    newest = (read_if_there(remote, LATEST) or b"").decode(errors="replace").strip()
    if version != LATEST or not _WHOLE.fullmatch(newest):
        newest = _only_one(base, remote, version)
    _log.info("%s is version %s", place, newest)
    return type(base)(f"{base}@{newest}")


def store_directory(place: Path | str) -> Path | str:
    """Return the directory or address that holds the files of a store, whichever way it is named.

    Raises:
        StoreError, InputError: see ``pinned_store``.
    """
    base, version = split_version(pinned_store(place))
    if version is None:
        return place
    return base / version if isinstance(base, Path) else f"{base}/{version}"


def check_version(directory: Path | str, content: Mapping[str, Any]) -> None:
    """Refuse a store that is not the version by which its directory is named.

    Raises:
        StoreError: its store.json was changed, or is that of another store.
    """
    name, found = str(directory).rpartition("/")[2], version_of(content)
    if found != name or content_hash(content) != content["store_hash"]:
        fix = "push the store again: the version was changed where it lies"
        raise StoreError(f"{directory}/{STORE_FILE}", "", f"is not that of version {name}", fix)


def versions_at(remote: RemoteDirectory) -> list[dict[str, Any]]:
    """Return the records of the versions of a corpus, newest first: the content of each version.json.

    Raises:
        StoreError: a record is broken.
        InputError: the place cannot be listed or read.
    """
    records = [_record(remote, name) for name in _complete(remote)]
    return sorted(records, key=lambda record: (record["pushed"], record["version"]), reverse=True)


def write_latest(remote: RemoteDirectory) -> list[str]:
    """Write which version of a corpus is the newest; return the names of all, newest first.

    Raises:
        StoreError: others keep changing what lies there, or a record is broken.
        InputError: the place cannot be read or written.
    """
    for _ in range(_MOST_ROUNDS):
        names = [record["version"] for record in versions_at(remote)]
        if names:
            write_small(remote, LATEST, f"{names[0]}\n".encode())
            # Another push that has committed meanwhile may have written before us.
            if _complete(remote) == sorted(names):
                return names
    problem = f"versions came and went during {_MOST_ROUNDS} attempts"
    raise StoreError(f"{remote.address}/{LATEST}", "", problem, "push again when the others are done")


def as_address(place: Path | str) -> str:
    """Return a directory as an address; an address stays."""
    return f"file://{place.absolute()}" if isinstance(place, Path) else place


def as_json(content: Any) -> bytes:
    """Return JSON as it is written to an address."""
    return (json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False) + "\n").encode()


def _only_one(base: Path | str, remote: RemoteDirectory, version: str) -> str:
    """Return the newest of the versions there, or the only one that begins with ``version``."""
    known = [record["version"] for record in versions_at(remote)]
    if not known:
        fix = "python jobs/push_store.py CONFIG; python jobs/list_stores.py ADDRESS shows what there is"
        raise StoreError(str(base), "version", "no store was pushed there", fix)
    found = known[:1] if version == LATEST else [name for name in known if name.startswith(version)]
    if len(found) == 1:
        return str(found[0])
    problem = f"{', '.join(found)} all begin with {version}" if found else f"no version begins with {version}"
    raise StoreError(str(base), "version", problem, f"name one of: {', '.join(known)}")


def _complete(remote: RemoteDirectory) -> list[str]:
    """Return the names of the versions that were committed, sorted."""
    names = [name for name in directories_there(remote) if _WHOLE.fullmatch(name)]
    return [name for name in names if size_there(remote, f"{name}/{STORE_FILE}") is not None]


def _record(remote: RemoteDirectory, version: str) -> dict[str, Any]:
    name = f"{version}/{RECORD_FILE}"
    try:
        content: dict[str, Any] = json.loads(remote.read(name))
        _ = [content[key] for key in ("version", "pushed", "clips", "bytes", "features")]
    except (ValueError, KeyError, TypeError) as error:
        problem = f"not the record of a version: {error!r}"
        raise StoreError(f"{remote.address}/{name}", "", problem, "push the store again") from None
    return content

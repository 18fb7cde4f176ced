"""Versions of stores below one address, named by their content.

    <address>/<corpus>/versions.json            index: the newest version and what is known of each
    <address>/<corpus>/<version>/version.json   record of one version, never changed
    <address>/<corpus>/<version>/store.json     written last: a folder without it is no version

A version is ``<store hash>-<8 digits over the hashes of manifest and facts>``: other features, another card
or other label tables are another version, and what a version holds never changes. A store is named
``<address>/<corpus>@<version>``; the first digits of a version will do, and ``latest`` is the newest one.

The records are the truth and the index is made from them: whoever commits a version writes the index
from a listing and lists again afterwards, until both agree. So two who push at once need no lock: the
last of them to write has seen both. This holds where a listing shows what was written before it and a
small file is replaced whole: S3, GCS and Azure promise both, and so does a local disk. A shared folder
may show listings late (NFS); the next push, or ``refresh_index``, repairs the index then.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vavl.config.files import sha256_of_json
from vavl.errors import StoreError
from vavl.store.remote_files import RemoteFolder
from vavl.store.remote_writing import folders_there, read_if_there, size_there, write_small
from vavl.store.store import content_hash

LATEST = "latest"
INDEX_FILE, RECORD_FILE, STORE_FILE = "versions.json", "version.json", "store.json"
_log = logging.getLogger(__name__)
_INDEX_FORMAT = 1
_MOST_ROUNDS = 20
_WHOLE = re.compile(r"[0-9a-f]{16}-[0-9a-f]{8}")
_NAMED = re.compile(r"(?P<place>.+)@(?P<version>latest|[0-9a-f]{6,16}|[0-9a-f]{16}-[0-9a-f]{1,8})")


@dataclass(frozen=True)
class VersionRecord:
    """What is known of one version without opening it.

    Attributes:
        version: its name.
        corpus: of the store.
        store_hash: of the store.
        pushed: date and time of the first push, ISO 8601 in UTC, by the clock of who pushed.
        clips: of the manifest.
        bytes: of the files of the store.
        target: what the labels mean.
        classes: of the manifest.
        features: per modality ``extractor``, ``version``, ``settings``, ``clips`` and ``frames``.
    """

    version: str
    corpus: str
    store_hash: str
    pushed: str
    clips: int
    bytes: int
    target: str
    classes: tuple[str, ...]
    features: Mapping[str, Mapping[str, Any]]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values; ``from_dict`` gives back an equal record."""
        return {**vars(self), "classes": list(self.classes)}

    @classmethod
    def from_dict(cls, content: Any, place: str) -> VersionRecord:
        """Read what ``to_dict`` returned.

        Raises:
            StoreError: it is no such record.
        """
        try:
            known = {name: content[name] for name in cls.__dataclass_fields__}
            return cls(**{**known, "classes": tuple(known["classes"])})
        except (KeyError, TypeError) as fault:
            raise StoreError(
                place, "", f"not the record of a version: {fault!r}", "push the store again"
            ) from None


def version_of(content: Mapping[str, Any]) -> str:
    """Return the name of the version that a store is, from its store.json."""
    return f"{content['store_hash']}-{sha256_of_json(content.get('files', {}))[:8]}"


def split_version(place: Path | str) -> tuple[Path | str, str | None]:
    """Return place and version of ``<place>@<version>``; None where no version is named.

    A folder whose own name looks like that is taken as it is.
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
    records = read_index(base)
    found = [record.version for record in records if version == LATEST or record.version.startswith(version)]
    if version == LATEST:
        found = found[:1]
    if len(found) == 1:
        _log.info("%s is version %s", place, found[0])
        return type(base)(f"{base}@{found[0]}")
    known = ", ".join(record.version for record in records)
    problem = (
        f"no version begins with {version}" if not found else f"{', '.join(found)} all begin with {version}"
    )
    raise StoreError(str(base), "version", problem, f"name one of: {known}")


def store_folder(place: Path | str) -> Path | str:
    """Return the folder or address that holds the files of a store, whichever way it is named.

    Raises:
        StoreError, InputError: see ``pinned_store``.
    """
    base, version = split_version(pinned_store(place))
    if version is None:
        return place
    return base / version if isinstance(base, Path) else f"{base}/{version}"


def check_version(folder: Path | str, content: Mapping[str, Any]) -> None:
    """Refuse a store that is not the version by which its folder is named.

    Args:
        folder: that ``store_folder`` returned for a place with a version.
        content: of its store.json.

    Raises:
        StoreError: its store.json was changed, or is that of another store.
    """
    name, found = str(folder).rpartition("/")[2], version_of(content)
    if found != name or content_hash(content) != content["store_hash"]:
        raise StoreError(
            f"{folder}/{STORE_FILE}", "", f"is not that of version {name}",
            "the version was changed where it lies: push the store again",
        )  # fmt: skip


def read_index(place: Path | str) -> list[VersionRecord]:
    """Return the versions of a corpus, newest first, from its index.

    Raises:
        StoreError: nothing was pushed there, or the index is broken.
        InputError: the place cannot be reached.
    """
    remote = RemoteFolder(as_address(place))
    text = read_if_there(remote, INDEX_FILE)
    name = f"{place}/{INDEX_FILE}"
    if text is None:
        raise StoreError(
            name, "", "there is no such file: no store was pushed there",
            "python jobs/push_store.py CONFIG; python jobs/list_stores.py ADDRESS shows what there is",
        )  # fmt: skip
    content = _parsed(text, name)
    if content.get("format_version") != _INDEX_FORMAT or not isinstance(content.get("versions"), list):
        raise StoreError(name, "format_version", "is no index that this code can read", "push a store again")
    return [VersionRecord.from_dict(entry, name) for entry in content["versions"]]


def refresh_index(remote: RemoteFolder) -> list[VersionRecord]:
    """Write the index of a corpus from the versions that lie there; returns them, newest first.

    Raises:
        StoreError: others keep changing what lies there.
        InputError: the place cannot be read or written.
    """
    known: dict[str, VersionRecord] = {}
    for _ in range(_MOST_ROUNDS):
        known = {name: known.get(name) or _record(remote, name) for name in _complete(remote)}
        records = sorted(known.values(), key=lambda record: (record.pushed, record.version), reverse=True)
        content = {
            "format_version": _INDEX_FORMAT,
            "newest": records[0].version if records else None,
            "versions": [record.to_dict() for record in records],
        }
        write_small(remote, INDEX_FILE, as_json(content))
        # A version that another committed in the meantime stands in no index if its writer wrote before us.
        if _complete(remote) == sorted(known):
            return records
    raise StoreError(
        f"{remote.address}/{INDEX_FILE}", "", f"versions came and went during {_MOST_ROUNDS} attempts",
        "push again when the others are done",
    )  # fmt: skip


def as_address(place: Path | str) -> str:
    """Return a folder as an address; an address stays."""
    return f"file://{place.absolute()}" if isinstance(place, Path) else place


def as_json(content: Any) -> bytes:
    """Return JSON as it is written to an address."""
    return (json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False) + "\n").encode()


def _complete(remote: RemoteFolder) -> list[str]:
    """Return the names of the versions that were committed, sorted."""
    names = [name for name in folders_there(remote) if _WHOLE.fullmatch(name)]
    return [name for name in names if size_there(remote, f"{name}/{STORE_FILE}") is not None]


def _record(remote: RemoteFolder, version: str) -> VersionRecord:
    name = f"{version}/{RECORD_FILE}"
    place = f"{remote.address}/{name}"
    return VersionRecord.from_dict(_parsed(remote.read(name), place), place)


def _parsed(text: bytes, place: str) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise StoreError(place, "", "is not a JSON object", "push the store again")
    return content

"""What lies at an address of stores, and what a push did: for people and for programs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vavl.errors import InputError
from vavl.store.remote_files import RemoteFolder, size_text
from vavl.store.remote_writing import folders_there, read_if_there
from vavl.store.store_push import Pushed
from vavl.store.store_versions import INDEX_FILE, STORE_FILE, VersionRecord, as_address, read_index


@dataclass(frozen=True)
class Listed:
    """A store at an address.

    Attributes:
        place: that a run names as its store.
        is_newest: of the versions of its corpus; False without versions.
        record: of a version; None for a store that lies there without one.
        content: of the store.json of a store without version, else empty.
    """

    place: str
    is_newest: bool
    record: VersionRecord | None
    content: dict[str, Any]


def list_stores(address: Path | str) -> list[Listed]:
    """Return the stores at an address, or at one of the corpora there; corpora sorted, newest versions first.

    Raises:
        InputError: there is no store, or the address cannot be listed.
        StoreError: an index is broken.
    """
    remote = RemoteFolder(as_address(address))
    found = _stores_in(address, remote, "")
    for name in () if found else folders_there(remote):
        found += _stores_in(f"{address}/{name}", remote, f"{name}/")
    if not found:
        raise InputError(
            str(address), "", "there is no feature store",
            "name the folder or address that stores were pushed to (`to` of jobs/push_store.py)",
        )  # fmt: skip
    return found


def listed_rows(found: Sequence[Listed]) -> list[tuple[str, str]]:
    """Return the rows of the table that the job prints: place, and what is known of it."""
    return [(store.place, _words(store)) for store in found]


def listing_summary(found: Sequence[Listed]) -> dict[str, Any]:
    """Return the content of summary.json: ``stores``, each with ``place``, ``newest`` and its record."""
    return {
        "stores": [
            {"place": store.place, "newest": store.is_newest}
            | (store.record.to_dict() if store.record else {"store_hash": store.content.get("store_hash")})
            for store in found
        ]
    }


def push_summary(pushed: Pushed) -> dict[str, Any]:
    """Return the content of summary.json of a push.

    Keys: ``place`` that a run names as its store, ``version``, ``newest`` version of the corpus there,
    ``versions`` there, ``sent`` and ``kept`` files, ``sent_bytes``, ``seconds``, ``bytes_per_second``.
    """
    return {
        "place": pushed.place,
        "version": pushed.version,
        "newest": pushed.versions[0].version,
        "versions": len(pushed.versions),
        "sent": list(pushed.sent),
        "kept": list(pushed.kept),
        "sent_bytes": pushed.sent_bytes,
        "seconds": round(pushed.seconds, 3),
        "bytes_per_second": round(pushed.bytes_per_second),
    }


def pushed_rows(pushed: Pushed) -> list[tuple[str, str]]:
    """Return the rows of the table that the job prints."""
    speed = f"{pushed.seconds:.1f} s, {pushed.bytes_per_second / 1e6:.1f} MB/s with reading back"
    newest = pushed.versions[0].version
    return [
        ("store", pushed.place),
        ("sent", f"{len(pushed.sent)} files, {size_text(pushed.sent_bytes)} in {speed}"),
        ("there already", f"{len(pushed.kept)} files"),
        ("versions", f"{len(pushed.versions)}, newest {'this one' if newest == pushed.version else newest}"),
    ]


def _stores_in(place: Path | str, remote: RemoteFolder, folder: str) -> list[Listed]:
    """Return what one folder holds: versions, a store without version, or nothing."""
    if read_if_there(remote, f"{folder}{INDEX_FILE}") is not None:
        records = read_index(place)
        return [
            Listed(f"{place}@{record.version}", number == 0, record, {})
            for number, record in enumerate(records)
        ]
    text = read_if_there(remote, f"{folder}{STORE_FILE}")
    if text is None:
        return []
    try:
        content = json.loads(text)
    except ValueError:
        content = {}
    return [Listed(str(place), is_newest=False, record=None, content=content)]


def _words(store: Listed) -> str:
    record = store.record
    if record is None:
        return f"without version, hash {store.content.get('store_hash', 'unknown')}"
    features = ", ".join(
        f"{name} {entry['extractor']} {entry['version']}" for name, entry in record.features.items()
    )
    newest = "newest, " if store.is_newest else ""
    when = f"{record.pushed[:16]} UTC".replace("T", " ")
    return f"{newest}{when}, {record.clips} clips, {size_text(record.bytes)}, {features}"

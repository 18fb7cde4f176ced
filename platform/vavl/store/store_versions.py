"""Stores below an address, each a version of its corpus: named by their content, pushed, found and listed.

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

import datetime as dt
import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from vavl.config.files import sha256_of_file, sha256_of_json
from vavl.corpora.manifest import MANIFEST_FILE, Manifest
from vavl.errors import InputError, StoreError
from vavl.store.checked_files import MAKE_AGAIN, StoreFile, Transfer, again, size_text
from vavl.store.remote_files import RemoteDirectory
from vavl.store.rows import shard_files
from vavl.store.store import FeatureStore, content_hash, small_files

LATEST = "latest"
RECORD_FILE, STORE_FILE = "version.json", "store.json"
# What people read alongside a store, if it is there; a reader of features needs none of it.
_COMPANIONS = ("quarantine.jsonl", "notes.jsonl", "audit.json", "audit.html", "config.yaml", "summary.json")
_MOST_ROUNDS = 20
_WHOLE = re.compile(r"[0-9a-f]{16}-[0-9a-f]{8}")
_NAMED = re.compile(r"(?P<place>.+)@(?P<version>latest|[0-9a-f]{6,16}|[0-9a-f]{16}-[0-9a-f]{1,8})")
_log = logging.getLogger(__name__)


def version_of(content: Mapping[str, Any]) -> str:
    """Return the name of the version that a store is, from its store.json."""
    shards = {name: entry["shards"] for name, entry in content["modalities"].items()}
    return f"{content['store_hash']}-{sha256_of_json([content['files'], shards])[:8]}"


def split_version(place: Path | str) -> tuple[Path | str, str | None]:
    """Return place and version of ``<place>@<version>``; None where no version is named.

    A directory whose own name looks like that is taken as it is.
    """
    match = None if isinstance(place, Path) and place.exists() else _NAMED.fullmatch(str(place))
    return (place, None) if match is None else (type(place)(match["place"]), match["version"])


def pinned_store(place: Path | str) -> Path | str:
    """Return the place of a store with its version in full; a place without version stays as it is.

    Raises:
        StoreError: there is no such version, more than one begins like this, or nothing was pushed there.
        InputError: the place cannot be reached.
    """
    base, version = split_version(place)
    if version is None or _WHOLE.fullmatch(version):
        return place
    corpus = RemoteDirectory(base)
    found = again(corpus.address, lambda: _version_at(corpus, version, str(base)))
    _log.info("%s is version %s", place, found)
    return type(base)(f"{base}@{found}")


def _version_at(corpus: RemoteDirectory, version: str, base: str) -> str:
    """Return the newest of the versions there, or the only one that begins with ``version``."""
    newest = (corpus.read_if_there(LATEST) or b"").decode(errors="replace").strip() if version == LATEST else ""
    if _WHOLE.fullmatch(newest):
        return newest
    known = [str(record["version"]) for record in versions_at(corpus)]
    if not known:
        fix = "python jobs/push_store.py CONFIG; python jobs/list_stores.py ADDRESS shows what there is"
        raise StoreError(base, "version", "no store was pushed there", fix)
    found = known[:1] if version == LATEST else [name for name in known if name.startswith(version)]
    if len(found) == 1:
        return found[0]
    problem = f"{', '.join(found)} all begin with {version}" if found else f"no version begins with {version}"
    raise StoreError(base, "version", problem, f"name one of: {', '.join(known)}")


def store_directory(place: Path | str) -> Path | str:
    """Return the directory or address that holds the files of a store, whichever way it is named.

    Raises:
        StoreError, InputError: see ``pinned_store``.
    """
    base, version = split_version(pinned_store(place))
    return place if version is None else type(base)(f"{base}/{version}")


def check_version(directory: Path | str, content: Mapping[str, Any]) -> None:
    """Refuse a store that is not the version by which its directory is named.

    Raises:
        StoreError: its store.json was changed, or is that of another store.
    """
    name = str(directory).rpartition("/")[2]
    if version_of(content) != name or content_hash(content) != content["store_hash"]:
        fix = "push the store again: the version was changed where it lies"
        raise StoreError(f"{directory}/{STORE_FILE}", "", f"is not that of version {name}", fix)


@dataclass(frozen=True)
class Pushed:
    """What a push did."""

    place: str  # that a run names as its store, ``<address>/<corpus>@<version>``
    version: str
    sent: tuple[str, ...]  # files that went there now
    kept: tuple[str, ...]  # files that were there already
    sent_bytes: int
    seconds: float
    versions: tuple[str, ...]  # of the corpus there, newest first

    def summary(self) -> dict[str, Any]:
        """Return the content of summary.json: the fields, the ``newest`` version, how many ``versions``."""
        return vars(self) | {
            "newest": self.versions[0],
            "versions": len(self.versions),
            "seconds": round(self.seconds, 3),
            "bytes_per_second": round(self.sent_bytes / max(self.seconds, 1e-6)),
        }

    def rows(self) -> list[tuple[str, str]]:
        """Return the rows of the table that the job prints."""
        speed = f"{self.seconds:.1f} s, {self.summary()['bytes_per_second'] / 1e6:.1f} MB/s with reading back"
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
    if RemoteDirectory(to).protocol in ("http", "https"):
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
    version, corpus = version_of(store.content), RemoteDirectory(to, store.corpus)
    remote = RemoteDirectory(to, store.corpus, version)
    files = [*small_files(store.content), *shard_files(store.content)]
    # What a version holds is never changed, only repaired.
    is_committed = _version_in(again(remote.address, partial(remote.read_if_there, STORE_FILE))) == version
    if not is_committed:
        companions = [directory / name for name in _COMPANIONS if (directory / name).is_file()]
        files += [StoreFile(path.name, path.stat().st_size, sha256_of_file(path)) for path in companions]
    transfer = Transfer(f"pushing to {remote.address}", files)
    sent = [file for file in transfer.run(lambda file: _sent(remote, directory, file, transfer, read_back)) if file]
    if not is_committed:
        record = json.dumps(_record(store, version, files, now), indent=2, ensure_ascii=False) + "\n"
        for name, content in ((RECORD_FILE, record.encode()), (STORE_FILE, (directory / STORE_FILE).read_bytes())):
            again(f"{remote.address}/{name}", partial(remote.write, name, content))
    _log.info("sent %s; %d of %d files were there", transfer, len(files) - len(sent), len(files))
    return Pushed(
        place=f"{to}/{store.corpus}@{version}",
        version=version,
        sent=tuple(file.name for file in sent),
        kept=tuple(file.name for file in files if file not in sent),
        sent_bytes=sum(file.bytes for file in sent),
        seconds=transfer.seconds,
        versions=tuple(again(corpus.address, partial(write_latest, corpus))),
    )


def _version_in(text: bytes | None) -> str | None:
    """Return the version that a store.json is of; None where it is none, or is broken."""
    try:
        return version_of(json.loads(text or b"{}"))
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _sent(
    remote: RemoteDirectory, directory: Path, file: StoreFile, transfer: Transfer, read_back: bool
) -> StoreFile | None:
    """Send a file and return it; None if it lies there already."""

    def is_there() -> bool:
        return remote.size(file.name) == file.bytes and (not read_back or remote.sha256(file.name) == file.sha256)

    place = f"{remote.address}/{file.name}"
    if again(place, is_there):
        return None
    again(place, lambda: remote.send(directory / file.name, file.name))
    transfer.add(file.bytes)
    if not again(place, is_there):
        problem = "what arrived is not what was sent (size or SHA-256)"
        raise StoreError(place, "", problem, "start the same command again")
    return file


def _record(store: FeatureStore, version: str, files: Sequence[StoreFile], now: dt.datetime) -> dict[str, Any]:
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


def write_latest(corpus: RemoteDirectory) -> list[str]:
    """Write which version of a corpus is the newest; return the names of all, newest first.

    Raises:
        StoreError: others keep changing what lies there, or a record is broken.
        InputError: the place cannot be read or written.
    """
    for _ in range(_MOST_ROUNDS):
        names = [record["version"] for record in versions_at(corpus)]
        if names:
            corpus.write(LATEST, f"{names[0]}\n".encode())
            # Another push that has committed meanwhile may have written before us.
            if _complete(corpus) == sorted(names):
                return names
    problem = f"versions came and went during {_MOST_ROUNDS} attempts"
    raise StoreError(f"{corpus.address}/{LATEST}", "", problem, "push again when the others are done")


def versions_at(corpus: RemoteDirectory) -> list[dict[str, Any]]:
    """Return the records of the versions of a corpus, newest first: the content of each version.json.

    Raises:
        StoreError: a record is broken.
        InputError: the place cannot be listed or read.
    """
    records = []
    for name in _complete(corpus):
        try:
            record: dict[str, Any] = json.loads(corpus.read(f"{name}/{RECORD_FILE}"))
            _ = [record[key] for key in ("version", "pushed", "clips", "bytes", "features")]
        except (ValueError, KeyError, TypeError) as error:
            problem = f"not the record of a version: {error!r}"
            place = f"{corpus.address}/{name}/{RECORD_FILE}"
            raise StoreError(place, "", problem, "push the store again") from None
        records.append(record)
    return sorted(records, key=lambda record: (record["pushed"], record["version"]), reverse=True)


def _complete(corpus: RemoteDirectory) -> list[str]:
    """Return the names of the versions that were committed, sorted."""
    names = [name for name in corpus.directories() if _WHOLE.fullmatch(name)]
    return [name for name in names if corpus.size(f"{name}/{STORE_FILE}") is not None]


def list_stores(address: Path | str) -> list[dict[str, Any]]:
    """Return the stores at an address, or at one of the corpora there; corpora sorted, newest versions first.

    Returns:
        The entries of summary.json's ``stores``: ``place`` that a run names as its store, whether it is the
        ``newest`` of its corpus, and its version.json, or ``store_hash`` alone of a store without version.

    Raises:
        InputError: there is no store, or the address cannot be listed.
        StoreError: a record is broken.
    """
    found = _stores_in(str(address), RemoteDirectory(address))
    for name in () if found else RemoteDirectory(address).directories():
        found += _stores_in(f"{address}/{name}", RemoteDirectory(address, name))
    if not found:
        fix = "name the directory or address that stores were pushed to (`to` of jobs/push_store.py)"
        raise InputError(str(address), "", "there is no feature store", fix)
    return found


def _stores_in(place: str, remote: RemoteDirectory) -> list[dict[str, Any]]:
    """Return what one directory holds: versions, a store without version, or nothing."""
    records = versions_at(remote)
    if records:
        return [{"place": f"{place}@{one['version']}", "newest": one is records[0]} | one for one in records]
    text = remote.read_if_there(STORE_FILE)
    if text is None:
        return []
    try:
        store_hash = json.loads(text).get("store_hash")
    except ValueError:
        store_hash = None
    return [{"place": place, "newest": False, "store_hash": store_hash}]


def listed_rows(found: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Return the rows of the table that the job prints: place, and what is known of it."""
    return [(store["place"], _words(store)) for store in found]


def _words(store: Mapping[str, Any]) -> str:
    if "version" not in store:
        return f"without version, hash {store['store_hash'] or 'unknown'}"
    features = ", ".join(f"{name} {entry['extractor']} {entry['version']}" for name, entry in store["features"].items())
    newest = "newest, " if store["newest"] else ""
    when = store["pushed"][:16].replace("T", " ")
    return f"{newest}{when} UTC, {store['clips']} clips, {size_text(store['bytes'])}, {features}"

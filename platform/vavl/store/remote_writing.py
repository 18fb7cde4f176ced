"""Files written to an address: each is whole or absent there, and its hash can be read back."""

from __future__ import annotations

import contextlib
import hashlib
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from fsspec.callbacks import Callback

from vavl.errors import InputError, StoreError
from vavl.store.remote_files import RemoteFolder

# An upload to these appears when it is complete; elsewhere a reader could see half a file.
_WHOLE_OR_ABSENT = frozenset({"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az"})
Tick = Callable[[int], None]


def send_file(remote: RemoteFolder, source: Path, name: str, tick: Tick) -> None:
    """Copy ``source`` to ``name`` below the address; ``tick`` hears how many bytes went.

    Raises:
        InputError: the address cannot be written, e.g. for want of rights or of space.
    """
    progress = _Progress(tick)
    with _beside(remote, name) as place:
        remote.files.put_file(str(source), place, callback=progress)
    # Some drivers say nothing while they copy.
    tick(source.stat().st_size - progress.told)


def write_small(remote: RemoteFolder, name: str, content: bytes) -> None:
    """Write a small file, whole or not at all; an earlier one is replaced.

    Raises:
        InputError: the address cannot be written.
    """
    with _beside(remote, name) as place:
        remote.files.pipe_file(place, content)


def move_there(remote: RemoteFolder, name: str, target: str) -> None:
    """Move a file below the address.

    Raises:
        InputError: the address cannot be written, or there is no such file.
    """
    with _beside(remote, target) as place:
        remote.files.mv(remote.path(name), place)


def size_there(remote: RemoteFolder, name: str) -> int | None:
    """Return the bytes of a file at the address, None where there is none.

    Raises:
        InputError: the address cannot be read.
    """
    try:
        return int(remote.files.info(remote.path(name))["size"])
    except FileNotFoundError:
        return None
    except Exception as fault:  # noqa: BLE001  every driver raises errors of its own
        raise remote.unreachable(fault) from None


def hash_there(remote: RemoteFolder, name: str) -> str:
    """Read a file back and return its SHA-256.

    Raises:
        InputError, StoreError: see ``RemoteFolder.read``.
    """
    digest = hashlib.sha256()
    for chunk in remote.chunks(name):
        digest.update(chunk)
    return digest.hexdigest()


def folders_there(remote: RemoteFolder) -> list[str]:
    """Return the names of the folders right below the address; none where nothing was written yet.

    Raises:
        InputError: the address cannot be listed.
    """
    try:
        remote.files.invalidate_cache()
        entries = remote.files.ls(remote.path(""), detail=True)
    except FileNotFoundError:
        return []
    except Exception as fault:  # noqa: BLE001  see above
        raise remote.unreachable(fault, "listed") from None
    names = (
        entry["name"].rstrip("/").rpartition("/")[2] for entry in entries if entry["type"] == "directory"
    )
    return sorted(names)


def read_if_there(remote: RemoteFolder, name: str) -> bytes | None:
    """Return the content of a small file, None where there is none.

    Raises:
        InputError: the address cannot be read.
    """
    try:
        return remote.read(name)
    except StoreError:
        return None


@contextlib.contextmanager
def _beside(remote: RemoteFolder, name: str) -> Iterator[str]:
    """Yield where to write ``name``; it stands in its place when the block has succeeded."""
    place = remote.path(name)
    try:
        if remote.protocol in _WHOLE_OR_ABSENT:
            yield place
            return
        folder, _, file = place.rpartition("/")
        partial = f"{folder}/.{file}.{secrets.token_hex(4)}.partial"
        remote.files.makedirs(folder, exist_ok=True)
        try:
            yield partial
            remote.files.mv(partial, place)
        except BaseException:
            with contextlib.suppress(Exception):
                remote.files.rm_file(partial)
            raise
    except NotImplementedError:
        raise InputError(
            remote.address, "", f"{remote.protocol}:// can only be read",
            "name a directory or object storage, e.g. s3://bucket/demo",
        ) from None  # fmt: skip
    except Exception as fault:  # noqa: BLE001  see above
        raise remote.unreachable(fault, "written") from None


class _Progress(Callback):  # type: ignore[misc]
    """Hands on what a driver tells of its progress."""

    def __init__(self, tick: Tick) -> None:
        super().__init__()
        self._tick, self.told = tick, 0

    def relative_update(self, inc: int = 1) -> None:
        self.told += inc
        self._tick(inc)

    def absolute_update(self, value: int) -> None:
        self.relative_update(value - self.told)

    def call(self, *words: Any, **named: Any) -> None:
        """Nothing else is told."""

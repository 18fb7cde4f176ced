"""Files at an address (``s3://``, ``gs://``, ``http://``, ``file://`` ...): read, copied and checked."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec.core

from vavl.errors import InputError, StoreError, VavlError

_CHUNK_BYTES = 16 * 2**20
_SPARE_BYTES = 100 * 2**20
_SECONDS_BETWEEN_LINES = 10.0
_NOT_FOUND = 404
_DRIVERS = {
    "s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "abfs": "adlfs", "abfss": "adlfs", "az": "adlfs",
    "http": "aiohttp", "https": "aiohttp", "sftp": "paramiko", "ssh": "paramiko",
}  # fmt: skip
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StoreFile:
    """A file of a store; ``bytes`` and ``sha256`` are None where store.json does not say them."""

    name: str
    bytes: int | None
    sha256: str | None


class RemoteFolder:
    """A folder at an address.

    Args:
        address: without password or signature, for it stands in messages.

    Raises:
        InputError: nothing here reads such addresses, or the place cannot be reached.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        protocol = address.partition("://")[0].lower()
        # A server that knows no ranges can still be read from start to end.
        self._block = 0 if protocol in ("http", "https") else _CHUNK_BYTES
        try:
            self._files, self._root = fsspec.core.url_to_fs(address)
        except ImportError as fault:
            driver = _DRIVERS.get(protocol)
            raise InputError(
                address, "", f"the driver of {protocol}:// is not installed",
                f"pip install {driver}" if driver else str(fault),
            ) from None  # fmt: skip
        except ValueError:
            raise InputError(
                address, "", f"addresses of {protocol}:// are not known",
                "give a folder, or an address of s3://, gs://, abfs://, https:// or file://",
            ) from None  # fmt: skip
        except Exception as fault:  # noqa: BLE001  every driver raises errors of its own
            raise self._unreachable(fault) from None
        self._files.invalidate_cache()

    def read(self, name: str) -> bytes:
        """Return the content of a small file.

        Raises:
            StoreError: there is no such file.
            InputError: it cannot be reached.
        """
        return b"".join(self.chunks(name))

    def chunks(self, name: str) -> Iterator[bytes]:
        """Yield the content of a file, piece by piece; raises like ``read``."""
        try:
            with self._files.open(f"{self._root.rstrip('/')}/{name}", "rb", block_size=self._block) as stream:
                while chunk := stream.read(_CHUNK_BYTES):
                    yield chunk
        except FileNotFoundError as fault:
            # The HTTP driver calls a server that is away by this name, too.
            if isinstance(fault.__cause__, Exception) and not _is_absence(fault.__cause__):
                raise self._unreachable(fault.__cause__) from None
            raise StoreError(
                f"{self.address}/{name}", "", "there is no such file: no feature store, or an incomplete one",
                "check the address; copy the whole store there",
            ) from None  # fmt: skip
        except Exception as fault:  # noqa: BLE001  see above
            raise self._unreachable(fault) from None

    def _unreachable(self, fault: Exception) -> InputError:
        # The text of a driver's error may hold a signed address; its name says enough.
        detail = getattr(fault, "status", None) or getattr(fault, "strerror", None)
        reason = type(fault).__name__ + (f" ({detail})" if isinstance(detail, int) else "")
        return InputError(
            self.address, "", f"cannot be read: {reason}",
            "check the address, the network and the credentials in the environment of every node",
        )  # fmt: skip


def copy_files(remote: RemoteFolder, files: Sequence[StoreFile], folder: Path) -> dict[str, str]:
    """Copy files into ``folder`` and compare each with its known size and hash.

    Returns:
        SHA-256 by file name.

    Raises:
        InputError: a file cannot be reached, or the disk is too small or cannot be written.
        StoreError: a file is missing, or is not what was expected.
    """
    total = sum(file.bytes or 0 for file in files)
    _check_space(folder, total)
    clock = _CopyClock(remote.address, total)
    hashes = {}
    for file in files:
        size, hashes[file.name] = _copy(remote, file.name, folder / file.name, clock)
        place = f"{remote.address}/{file.name}"
        if file.bytes is not None and size != file.bytes:
            raise _other(place, f"has {size} bytes, store.json says {file.bytes}")
        if file.sha256 is None:
            _log.info("%s: store.json holds no hash of it, its form alone is checked", place)
        elif hashes[file.name] != file.sha256:
            raise _other(place, "is not the file that store.json was written for (SHA-256)")
    clock.finish(folder)
    return hashes


@contextlib.contextmanager
def held_lock(path: Path) -> Iterator[None]:
    """Hold a lock between the processes of this machine; waits for another holder."""
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _log.info("waiting for another process: %s", path)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


class _CopyClock:
    """Says from time to time how far a copy has come."""

    def __init__(self, address: str, total: int) -> None:
        self._address, self._total, self._done = address, total, 0
        self._start = self._last = time.monotonic()

    def tick(self, count: int) -> None:
        self._done += count
        now = time.monotonic()
        if now - self._last >= _SECONDS_BETWEEN_LINES:
            self._last = now
            left = (self._total - self._done) * (now - self._start) / max(1, self._done)
            _log.info(
                "copying %s: %s of %s, about %.0f s left",
                self._address, _gigabytes(self._done), _gigabytes(self._total), max(0.0, left),
            )  # fmt: skip

    def finish(self, folder: Path) -> None:
        seconds = time.monotonic() - self._start
        _log.info(
            "copied %s (%s) in %.1f s to %s", self._address, _gigabytes(self._done), seconds, folder.parent
        )


def _copy(remote: RemoteFolder, name: str, target: Path, clock: _CopyClock) -> tuple[int, str]:
    """Copy one file; returns its size and hash."""
    digest, size = hashlib.sha256(), 0
    try:
        with target.open("wb") as file:
            for chunk in remote.chunks(name):
                file.write(chunk)
                digest.update(chunk)
                size += len(chunk)
                clock.tick(len(chunk))
            file.flush()
            os.fsync(file.fileno())
    except OSError as fault:
        raise InputError(
            str(target.parent), "", f"cannot be written: {fault.strerror or fault}",
            "free disk space, or export VAVL_CACHE=/another/disk",
        ) from None  # fmt: skip
    return size, digest.hexdigest()


def _is_absence(fault: Exception) -> bool:
    return isinstance(fault, FileNotFoundError) or getattr(fault, "status", None) == _NOT_FOUND


def _check_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed + _SPARE_BYTES > free:
        raise InputError(
            str(folder.parent), "", f"the store takes {_gigabytes(needed)}, {_gigabytes(free)} are free",
            "free disk space, or export VAVL_CACHE=/another/disk",
        )  # fmt: skip


def _other(place: str, problem: str) -> VavlError:
    return StoreError(
        place, "", problem, "start again if the store was just being written; else copy it there anew"
    )


def _gigabytes(count: Any) -> str:
    return f"{count / 1e9:.2f} GB"

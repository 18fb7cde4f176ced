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
# What a person can do about the errors of drivers, by the name of their type: (problem, fix).
_KNOWN_ERRORS = {
    "NoCredentialsError": (
        "no credentials were found",
        "export AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY on every node, or give the machines a role",
    ),
    "PermissionError": ("access denied", "check the rights of the credentials in the environment of every node"),
    "FileNotFoundError": ("there is no such bucket or file", "create the bucket, or correct the address"),
    "EndpointConnectionError": ("no server answers", "check the network, and AWS_ENDPOINT_URL where it is set"),
}  # fmt: skip
_log = logging.getLogger(__name__)
# Every client would say where it found its credentials.
for _name in ("aiobotocore", "botocore"):
    logging.getLogger(_name).setLevel(logging.WARNING)


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
        self.protocol = protocol = address.partition("://")[0].lower()
        # A server that knows no ranges can still be read from start to end.
        self._block = 0 if protocol in ("http", "https") else _CHUNK_BYTES
        try:
            # A cached listing hides what other machines have written since.
            self.files, self._root = fsspec.core.url_to_fs(address, use_listings_cache=False)
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
            raise self.unreachable(fault) from None
        self.files.invalidate_cache()

    def path(self, name: str) -> str:
        """Return the place of a file in the words of its driver."""
        return f"{self._root.rstrip('/')}/{name}" if name else str(self._root)

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
            with self.files.open(self.path(name), "rb", block_size=self._block) as stream:
                while chunk := stream.read(_CHUNK_BYTES):
                    yield chunk
        except FileNotFoundError as fault:
            # The HTTP driver calls a server that is away by this name, too.
            if isinstance(fault.__cause__, Exception) and not _is_absence(fault.__cause__):
                raise self.unreachable(fault.__cause__) from None
            raise StoreError(
                f"{self.address}/{name}", "", "there is no such file: no feature store, or an incomplete one",
                "check the address; copy the whole store there",
            ) from None  # fmt: skip
        except Exception as fault:  # noqa: BLE001  see above
            raise self.unreachable(fault) from None

    def unreachable(self, fault: Exception, what: str = "read") -> InputError:
        """Return the error for a fault of a driver; ``what`` cannot be done.

        The text of a driver's error may hold a signed address; its name says enough.
        """
        status, number = getattr(fault, "status", None), getattr(fault, "errno", None)
        detail = status if isinstance(status, int) else os.strerror(number) if isinstance(number, int) else ""
        reason = type(fault).__name__ + (f" ({detail})" if detail else "")
        problem, fix = _KNOWN_ERRORS.get(
            type(fault).__name__,
            ("", "check the address, the network and the credentials in the environment of every node"),
        )
        said = f"{problem} ({reason})" if problem else reason
        return InputError(self.address, "", f"cannot be {what}: {said}", fix)


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
    clock = TransferClock("copying", remote.address, total)
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
    _log.info(
        "copied %s (%s) in %.1f s, %s, to %s",
        remote.address, size_text(clock.done), clock.seconds, clock.rate(), folder.parent,
    )  # fmt: skip
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


class TransferClock:
    """Says from time to time how far a transfer has come, and how fast it is.

    Args:
        what: is done, e.g. "copying".
        address: from where or where to.
        total: bytes, as far as they are known.
    """

    def __init__(self, what: str, address: str, total: int) -> None:
        self._what, self._address, self._total, self.done = what, address, total, 0
        self._start = self._last = time.monotonic()

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.monotonic() - self._start

    def tick(self, count: int) -> None:
        """Count bytes that were moved."""
        self.done += count
        now = time.monotonic()
        if now - self._last >= _SECONDS_BETWEEN_LINES:
            self._last = now
            left = (self._total - self.done) * self.seconds / max(1, self.done)
            _log.info(
                "%s %s: %s of %s, %s, about %.0f s left", self._what, self._address, size_text(self.done),
                size_text(self._total), self.rate(), max(0.0, left),
            )  # fmt: skip

    def rate(self) -> str:
        """Return the mean rate in words."""
        return f"{self.done / max(self.seconds, 1e-6) / 1e6:.1f} MB/s"


def _copy(remote: RemoteFolder, name: str, target: Path, clock: TransferClock) -> tuple[int, str]:
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
            str(folder.parent), "", f"the store takes {size_text(needed)}, {size_text(free)} are free",
            "free disk space, or export VAVL_CACHE=/another/disk",
        )  # fmt: skip


def _other(place: str, problem: str) -> VavlError:
    return StoreError(
        place, "", problem, "start again if the store was just being written; else copy it there anew"
    )


def size_text(count: Any) -> str:
    """Return a number of bytes in words."""
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.2f} MB"

"""Files at an address (``s3://``, ``gs://``, ``http://``, ``file://`` ...): read, listed and written.

What cannot be reached, read, listed or written is an ``InputError``; other errors are named where they are raised.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import fsspec.core

from vavl.errors import InputError, StoreError, VavlError

_CHUNK_BYTES = 16 * 2**20
_SECONDS_BETWEEN_LINES = 10.0
_PAUSES_S = (1.0, 5.0)
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
    "PermissionError": (
        "access denied",
        "check the rights of the credentials in the environment of every node, and whether they have expired",
    ),
    "FileNotFoundError": ("there is no such bucket or file", "create the bucket, or correct the address"),
    "EndpointConnectionError": ("no server answers", "check the network, and AWS_ENDPOINT_URL where it is set"),
}  # fmt: skip
# An upload to these appears when it is complete; elsewhere a reader could see half a file.
_WHOLE_OR_ABSENT = frozenset({"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az"})
Found = TypeVar("Found")
_log = logging.getLogger(__name__)
# Every client would say where it found its credentials.
for _name in ("aiobotocore", "botocore"):
    logging.getLogger(_name).setLevel(logging.WARNING)


class PassingError(InputError):
    """An address that may be reached a little later: a timeout, a connection that broke, a server that is busy."""


class OtherFileError(StoreError):
    """A file that is not the expected one: a short read, or a store that was just being written."""


@dataclass(frozen=True)
class StoreFile:
    """A file of a store, by its path in it."""

    name: str
    bytes: int
    sha256: str


class RemoteDirectory:
    """A directory at an address.

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
        except ImportError as error:
            driver = _DRIVERS.get(protocol)
            fix = f"pip install {driver}" if driver else str(error)
            raise InputError(address, "", f"the driver of {protocol}:// is not installed", fix) from None
        except ValueError:
            fix = "give a directory, or an address of s3://, gs://, abfs://, https:// or file://"
            raise InputError(address, "", f"addresses of {protocol}:// are not known", fix) from None
        except Exception as error:  # noqa: BLE001  every driver raises errors of its own
            raise self.unreachable(error) from None
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
        with self._found(name):
            return bytes(self.files.cat_file(self.path(name)))

    def chunks(self, name: str) -> Iterator[bytes]:
        """Yield the content of a file, piece by piece; raises like ``read``."""
        with self._found(name), self.files.open(self.path(name), "rb", block_size=self._block) as stream:
            while chunk := stream.read(_CHUNK_BYTES):
                yield chunk

    @contextlib.contextmanager
    def _found(self, name: str) -> Iterator[None]:
        try:
            with self.reached():
                yield
        except FileNotFoundError as error:
            # The HTTP driver calls a server that is away by this name, too.
            cause = error.__cause__
            if self._block == 0 and isinstance(cause, Exception) and getattr(cause, "status", None) != _NOT_FOUND:
                raise self.unreachable(cause) from None
            problem = "there is no such file: no feature store, or an incomplete one"
            fix = "check the address; copy the whole store there"
            raise StoreError(f"{self.address}/{name}", "", problem, fix) from None

    @contextlib.contextmanager
    def reached(self, what: str = "read") -> Iterator[None]:
        """Let a file that is missing pass as FileNotFoundError; what else a driver raises says what cannot be done.

        Raises:
            InputError: the place cannot be reached.
        """
        try:
            yield
        except (FileNotFoundError, VavlError):
            raise
        except Exception as error:  # noqa: BLE001  every driver raises errors of its own
            raise self.unreachable(error, what) from None

    def unreachable(self, error: Exception, what: str = "read") -> InputError:
        """Return the error for an error of a driver; ``what`` cannot be done.

        The text of a driver's error may hold a signed address; its name says enough.
        """
        status, number = getattr(error, "status", None), getattr(error, "errno", None)
        detail = status if isinstance(status, int) else os.strerror(number) if isinstance(number, int) else ""
        reason = type(error).__name__ + (f" ({detail})" if detail else "")
        # HEAD has no body that could say why S3 refuses: 400 is that of a token that has expired.
        is_refused = "(400)" in str(error.__cause__)
        problem, fix = _KNOWN_ERRORS.get(
            "PermissionError" if is_refused else type(error).__name__,
            ("", "check the address, the network and the credentials in the environment of every node"),
        )
        said = f"{problem} ({reason})" if problem else reason
        return (InputError if problem else PassingError)(self.address, "", f"cannot be {what}: {said}", fix)


def again(place: str, attempt: Callable[[], Found]) -> Found:
    """Return what an attempt does; an error that may pass is met by another one, twice."""
    for pause in _PAUSES_S:
        try:
            return attempt()
        except (PassingError, OtherFileError) as error:
            _log.warning("%s %s; again in %g s", place, error.problem, pause)
            time.sleep(pause)
    return attempt()


class Transfer:
    """Counts the bytes of a transfer, and says from time to time how far it has come.

    Args:
        what: is done and with which address, e.g. "copying s3://bucket/demo".
        total: bytes.
        stop: ends the transfer.
    """

    def __init__(self, what: str, total: int, stop: threading.Event | None = None) -> None:
        self._what, self._total, self.done, self.stop = what, total, 0, stop or threading.Event()
        self._start = self._last = time.monotonic()

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.monotonic() - self._start

    @property
    def rate(self) -> str:
        """Mean rate in words."""
        return f"{self.done / max(self.seconds, 1e-6) / 1e6:.1f} MB/s"

    def add(self, count: int) -> None:
        """Count bytes that were moved."""
        self.done += count
        if time.monotonic() - self._last >= _SECONDS_BETWEEN_LINES:
            self._last = time.monotonic()
            left = max(0, self._total - self.done) * self.seconds / max(1, self.done)
            done, total = size_text(self.done), size_text(self._total)
            _log.info("%s: %s of %s, %s, about %.0f s left", self._what, done, total, self.rate, left)


def size_text(count: float) -> str:
    """Return a number of bytes in words."""
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.2f} MB"


def send_file(remote: RemoteDirectory, source: Path, name: str) -> None:
    """Copy ``source`` to ``name`` below the address, whole or not at all."""
    with _beside(remote, name) as place:
        remote.files.put_file(str(source), place)


def write_small(remote: RemoteDirectory, name: str, content: bytes) -> None:
    """Write a small file, whole or not at all; an earlier one is replaced."""
    with _beside(remote, name) as place:
        remote.files.pipe_file(place, content)


def move_there(remote: RemoteDirectory, name: str, target: str) -> None:
    """Move a file below the address."""
    with _beside(remote, target) as place:
        remote.files.mv(remote.path(name), place)


def size_there(remote: RemoteDirectory, name: str) -> int | None:
    """Return the bytes of a file at the address, None where there is none."""
    with remote.reached(), contextlib.suppress(FileNotFoundError):
        return int(remote.files.info(remote.path(name))["size"])
    return None


def hash_there(remote: RemoteDirectory, name: str) -> str:
    """Read a file back and return its SHA-256.

    Raises:
        InputError, StoreError: see ``RemoteDirectory.read``.
    """
    digest = hashlib.sha256()
    for chunk in remote.chunks(name):
        digest.update(chunk)
    return digest.hexdigest()


def directories_there(remote: RemoteDirectory) -> list[str]:
    """Return the names of the directories right below the address; none where nothing was written yet."""
    entries: list[dict[str, Any]] = []
    with remote.reached("listed"), contextlib.suppress(FileNotFoundError):
        remote.files.invalidate_cache()
        entries = remote.files.ls(remote.path(""), detail=True)
    directories = (entry["name"].rstrip("/") for entry in entries if entry["type"] == "directory")
    return sorted(name.rpartition("/")[2] for name in directories)


def read_if_there(remote: RemoteDirectory, name: str) -> bytes | None:
    """Return the content of a small file, None where there is none."""
    try:
        return remote.read(name)
    except StoreError:
        return None


@contextlib.contextmanager
def _beside(remote: RemoteDirectory, name: str) -> Iterator[str]:
    """Yield where to write ``name``; it stands in its place when the block has succeeded."""
    place = remote.path(name)
    try:
        if remote.protocol in _WHOLE_OR_ABSENT:
            yield place
            return
        directory, _, file = place.rpartition("/")
        partial = f"{directory}/.{file}.{secrets.token_hex(4)}.partial"
        remote.files.makedirs(directory, exist_ok=True)
        try:
            yield partial
            remote.files.mv(partial, place)
        except BaseException:
            with contextlib.suppress(Exception):
                remote.files.rm_file(partial)
            raise
    except NotImplementedError:
        fix = "name a directory or object storage, e.g. s3://bucket/demo"
        raise InputError(remote.address, "", f"{remote.protocol}:// can only be read", fix) from None
    except Exception as error:  # noqa: BLE001  every driver raises errors of its own
        raise remote.unreachable(error, "written") from None

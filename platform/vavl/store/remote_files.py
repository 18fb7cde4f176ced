"""Files in a directory or at an address (``s3://``, ``gs://``, ``http://`` ...): read, listed and written.

What cannot be reached, read, listed or written is an ``InputError``; other errors are named where they are raised.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec.core

from vavl.config.files import full_disk_named
from vavl.errors import FullDiskError, InputError, StoreError, VavlError

_CHUNK_BYTES = 16 * 2**20
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
    "NotImplementedError": ("it can only be read", "name a directory or object storage, e.g. s3://bucket/demo"),
}
# An upload to these appears when it is complete; elsewhere a reader could see half a file.
_WHOLE_OR_ABSENT = frozenset({"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az"})
# Every client would say where it found its credentials.
for _name in ("aiobotocore", "botocore"):
    logging.getLogger(_name).setLevel(logging.WARNING)


class PassingError(InputError):
    """An address that may be reached a little later: a timeout, a connection that broke, a server that is busy."""


class OtherFileError(StoreError):
    """A file that is not the expected one: a short read, or a store that was just being written."""


class RemoteDirectory:
    """A directory, here or at an address; nothing of it need be there yet.

    Args:
        place: a directory, or an address without password or signature, for it stands in messages.
        below: names of directories in it, one in the other.

    Raises:
        InputError: nothing here reads such addresses, or the place cannot be reached.
    """

    def __init__(self, place: Path | str, *below: str) -> None:
        # Not ``as_uri``: fsspec takes %20 for part of the name.
        address = f"file://{place.absolute()}" if isinstance(place, Path) else place
        self.address = "/".join([address, *below])
        self.protocol = protocol = address.partition("://")[0].lower()
        self._is_web = protocol in ("http", "https")
        try:
            # A cached listing hides what other machines have written since.
            self.files, self._root = fsspec.core.url_to_fs(self.address, use_listings_cache=False)
        except ImportError as error:
            driver = _DRIVERS.get(protocol)
            fix = f"pip install {driver}" if driver else str(error)
            raise InputError(self.address, "", f"the driver of {protocol}:// is not installed", fix) from None
        except ValueError:
            fix = "give a directory, or an address of s3://, gs://, abfs://, https:// or file://"
            raise InputError(self.address, "", f"addresses of {protocol}:// are not known", fix) from None
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
        """
        with self._found(name):
            return bytes(self.files.cat_file(self.path(name)))

    def read_if_there(self, name: str) -> bytes | None:
        """Return the content of a small file, None where there is none."""
        with contextlib.suppress(FileNotFoundError), self.reached():
            # In one request: what is replaced between two could not be read.
            return bytes(self.files.cat_file(self.path(name)))
        return None

    def chunks(self, name: str) -> Iterator[bytes]:
        """Yield the content of a file, piece by piece; raises like ``read``."""
        # A server that knows no ranges can still be read from start to end: block size 0.
        block = 0 if self._is_web else _CHUNK_BYTES
        with self._found(name), self.files.open(self.path(name), "rb", block_size=block) as stream:
            while chunk := stream.read(_CHUNK_BYTES):
                yield chunk

    def size(self, name: str) -> int | None:
        """Return the bytes of a file, None where there is none."""
        with contextlib.suppress(FileNotFoundError), self.reached():
            return int(self.files.info(self.path(name))["size"])
        return None

    def sha256(self, name: str) -> str:
        """Read a file and return its SHA-256; raises like ``read``."""
        digest = hashlib.sha256()
        for chunk in self.chunks(name):
            digest.update(chunk)
        return digest.hexdigest()

    def directories(self) -> list[str]:
        """Return the names of the directories right below this one; none where nothing was written yet."""
        entries: list[dict[str, Any]] = []
        with contextlib.suppress(FileNotFoundError), self.reached("listed"):
            self.files.invalidate_cache()
            entries = self.files.ls(self.path(""), detail=True)
        directories = (entry["name"].rstrip("/") for entry in entries if entry["type"] == "directory")
        return sorted(name.rpartition("/")[2] for name in directories)

    def send(self, source: Path, name: str) -> None:
        """Copy a file of this machine to ``name``, whole or not at all."""
        with self._written_beside(name) as place:
            self.files.put_file(str(source), place)

    def write(self, name: str, content: bytes) -> None:
        """Write a small file, whole or not at all; an earlier one is replaced."""
        with self._written_beside(name) as place:
            self.files.pipe_file(place, content)

    def move(self, name: str, target: str) -> None:
        """Move a file to another name."""
        with self._written_beside(target) as place:
            self.files.mv(self.path(name), place)

    @contextlib.contextmanager
    def reached(self, what: str = "read") -> Iterator[None]:
        """Let a file that is missing pass as FileNotFoundError; what else a driver raises says what cannot be done.

        Raises:
            InputError: the place cannot be reached.
        """
        try:
            yield
        except VavlError:
            raise
        except FileNotFoundError as error:
            # The HTTP driver calls a server that is away by this name, too.
            cause = error.__cause__
            if self._is_web and isinstance(cause, Exception) and getattr(cause, "status", None) != _NOT_FOUND:
                raise self.unreachable(cause, what) from None
            raise
        except Exception as error:  # noqa: BLE001  every driver raises errors of its own
            raise self.unreachable(error, what) from None

    @contextlib.contextmanager
    def _found(self, name: str) -> Iterator[None]:
        try:
            with self.reached():
                yield
        except FileNotFoundError:
            problem = "there is no such file: no feature store, or an incomplete one"
            fix = "check the address; copy the whole store there"
            raise StoreError(f"{self.address}/{name}", "", problem, fix) from None

    @contextlib.contextmanager
    def _written_beside(self, name: str) -> Iterator[str]:
        """Yield where to write ``name``; it stands in its place when the block has succeeded."""
        place = self.path(name)
        try:
            if self.protocol in _WHOLE_OR_ABSENT:
                yield place
                return
            directory, _, file = place.rpartition("/")
            partial = f"{directory}/.{file}.{secrets.token_hex(4)}.partial"
            self.files.makedirs(directory, exist_ok=True)
            try:
                with full_disk_named(Path(place)):
                    yield partial
                    self.files.mv(partial, place)
            except BaseException:
                with contextlib.suppress(Exception):
                    self.files.rm_file(partial)
                raise
        except FullDiskError:
            raise
        except Exception as error:  # noqa: BLE001  every driver raises errors of its own
            raise self.unreachable(error, "written") from None

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

"""Files compared with their sizes and hashes: those of a store, and copies of them; and locks between processes."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import shutil
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Self, TypeVar

from filelock import FileLock, Timeout

from vavl.config.files import sha256_of_file, write_text
from vavl.config.places import CACHE_VARIABLE
from vavl.errors import InputError, StoreError
from vavl.store.remote_files import OtherFileError, PassingError, RemoteDirectory

MAKE_AGAIN = "make the store again: python jobs/prepare_corpus.py CONFIG"
REPAIR = f"copy or push the store here again from an undamaged copy, or {MAKE_AGAIN}"
_SPARE_BYTES = 100 * 2**20
_AT_ONCE = 4
_PAUSES_S = (1.0, 5.0)
_SECONDS_BETWEEN_LINES = 10.0
_ORIGIN_FILE, _LOCKS = ".origin", ".locks"
_MORE_SPACE = "free disk space, or export VAVL_CACHE=/another/disk"
_Found = TypeVar("_Found")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StoreFile:
    """A file of a store, by its path in it."""

    name: str
    bytes: int
    sha256: str


def check_size(path: Path, expected: int) -> None:
    """Refuse a file that is missing or has another size; reads nothing.

    Raises:
        StoreError: see above.
    """
    if not path.exists():
        raise StoreError(str(path), "", "the file of the store is missing", MAKE_AGAIN)
    size = path.stat().st_size
    if size != expected:
        raise StoreError(str(path), "", f"has {size} bytes, store.json says {expected}", REPAIR)


def check_hash(path: Path, sha256: str, field: str = "sha256") -> None:
    """Read a file and compare it with the hash that ``field`` of store.json states.

    Raises:
        StoreError: the file is missing, cannot be read or was changed.
    """
    try:
        found = sha256_of_file(path)
    except FileNotFoundError:
        raise StoreError(str(path), "", "the file of the store is missing", MAKE_AGAIN) from None
    except OSError as error:
        raise StoreError(str(path), "", f"cannot be read: {error.strerror}", REPAIR) from None
    if found != sha256:
        raise StoreError(str(path), field, "the file was changed or damaged since it was written", REPAIR)


def cache_directory() -> Path:
    """Return the directory of this machine for copies of stores: ``VAVL_CACHE``, or one in the home directory."""
    named = os.environ.get(CACHE_VARIABLE)
    return Path(named).expanduser().absolute() if named else Path.home() / ".cache" / "vavl" / "stores"


@contextlib.contextmanager
def held_lock(path: Path) -> Iterator[None]:
    """Hold a lock between the processes of this machine; waits for another holder."""
    lock = FileLock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        _log.info("waiting for another process: %s", path)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def replaced_directory(place: Path) -> Iterator[Path]:
    """Yield the path of a new directory next to ``place``, which takes its place when the block has succeeded.

    One process at a time; nothing is replaced if the block makes no directory there. Who has files of the old one
    open or mapped keeps them.
    """
    new, old = place.with_name(f".{place.name}.partial"), place.with_name(f".{place.name}.old")
    with held_lock(place.with_name(f".{place.name}.lock")):
        if old.exists() and not place.exists():  # killed between the two renames
            old.rename(place)
        shutil.rmtree(new, ignore_errors=True)
        try:
            yield new
            if new.exists():
                shutil.rmtree(old, ignore_errors=True)
                if place.exists():
                    place.rename(old)
                new.rename(place)
                shutil.rmtree(old, ignore_errors=True)
        finally:
            shutil.rmtree(new, ignore_errors=True)


def size_text(count: float) -> str:
    """Return a number of bytes in words."""
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.2f} MB"


def again(place: str, attempt: Callable[[], _Found]) -> _Found:
    """Return what an attempt does; an error that may pass is met by another one, twice."""
    for pause in _PAUSES_S:
        try:
            return attempt()
        except (PassingError, OtherFileError) as error:
            _log.warning("%s %s; again in %g s", place, error.problem, pause)
            time.sleep(pause)
    return attempt()


class Transfer:
    """Copies files, some at a time, and says from time to time how far it has come.

    Args:
        what: is done and with which address, e.g. "copying s3://bucket/demo".
        files: that are copied.
        stop: ends the transfer.
    """

    def __init__(self, what: str, files: Sequence[StoreFile], stop: threading.Event | None = None) -> None:
        self._what, self._files, self.stop = what, files, stop or threading.Event()
        self._total, self.done = sum(file.bytes for file in files), 0
        self._start = self._last = time.monotonic()

    def run(self, copy: Callable[[StoreFile], _Found]) -> list[_Found]:
        """Copy each file, and return what ``copy`` says of it; the first error ends the transfer."""
        threads = ThreadPoolExecutor(_AT_ONCE)
        try:
            return list(threads.map(copy, self._files))
        finally:
            threads.shutdown(cancel_futures=True)

    def add(self, count: int) -> None:
        """Count bytes that were copied."""
        self.done += count
        if time.monotonic() - self._last >= _SECONDS_BETWEEN_LINES:
            self._last = time.monotonic()
            left = max(0, self._total - self.done) * self.seconds / max(1, self.done)
            _log.info("%s (%s): %s, about %.0f s left", self._what, size_text(self._total), self, left)

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.monotonic() - self._start

    def __str__(self) -> str:
        rate = self.done / max(self.seconds, 1e-6) / 1e6
        return f"{size_text(self.done)} in {self.seconds:.1f} s, {rate:.1f} MB/s"


@dataclass(frozen=True)
class CopiedFiles:
    """A directory of this machine whose files come from an address, each when it is first asked for.

    A file that was compared with its SHA-256 gets a time that follows from it: whoever finds both, size and time, need
    not read it again.
    """

    directory: Path
    address: str

    @classmethod
    def at(cls, directory: Path) -> Self | None:
        """Return the copy that ``begin`` made of a directory; None for any other one."""
        try:
            return cls(directory, (directory / _ORIGIN_FILE).read_text(encoding="utf-8"))
        except OSError:
            return None

    def begin(self) -> None:
        """Make the directory a copy of the address, without any file yet."""
        (self.directory / _LOCKS).mkdir(parents=True, exist_ok=True)
        if self.at(self.directory) is None:
            write_text(self.directory / _ORIGIN_FILE, self.address)

    def lock(self, name: str) -> FileLock:
        """Return a lock between the processes of this machine."""
        return FileLock(self.directory / _LOCKS / name.replace("/", "-"))

    def lacks(self, file: StoreFile) -> bool:
        """Tell whether a file is not here, or was changed since it was compared; reads a file whose time is unknown."""
        path = self.directory / file.name
        try:
            status = path.stat()
            if status.st_size == file.bytes and status.st_mtime_ns != _time_of(file):
                if sha256_of_file(path) != file.sha256:
                    return True
                with contextlib.suppress(PermissionError):  # it is another user's
                    os.utime(path, ns=(_time_of(file), _time_of(file)))
        except FileNotFoundError:
            return True
        return status.st_size != file.bytes

    def check_space(self, files: Iterable[StoreFile]) -> None:
        """Refuse to copy files that the disk has no room for.

        Raises:
            InputError: see above.
        """
        total, free = sum(file.bytes for file in files), shutil.disk_usage(self.directory).free
        if total + _SPARE_BYTES > free:
            problem = f"the store takes {size_text(total)}, {size_text(free)} are free"
            raise InputError(str(self.directory.parent), "", problem, _MORE_SPACE)

    def fetch(self, files: Iterable[StoreFile], stop: threading.Event | None = None) -> None:
        """Copy the files that are not here, some at a time, until ``stop`` is set.

        One process of this machine copies a file, the others wait for it. What a network loses is asked for again.

        Raises:
            InputError: a file cannot be reached, or the disk is too small or cannot be written.
            StoreError: a file is missing, or is not what was expected.
        """
        missing = [file for file in files if self.lacks(file)]
        if not missing:
            return
        self.check_space(missing)
        remote, transfer = RemoteDirectory(self.address), Transfer(f"copying {self.address}", missing, stop)
        transfer.run(lambda file: self._fetch(remote, file, transfer))
        if len(missing) > 1:  # a reader asks for one after the other
            _log.info("copied %s: %s, to %s", self.address, transfer, self.directory)

    def _fetch(self, remote: RemoteDirectory, file: StoreFile, transfer: Transfer) -> None:
        path = self.directory / file.name
        with self.lock(file.name):
            if transfer.stop.is_set() or not self.lacks(file):
                return
            if path.exists():
                _log.warning("%s was changed; copying it anew", path)
            again(f"{self.address}/{file.name}", lambda: self._copy(remote, file, transfer))

    def _copy(self, remote: RemoteDirectory, file: StoreFile, transfer: Transfer) -> None:
        path, digest, size = self.directory / file.name, hashlib.sha256(), 0
        partial = path.with_name(f".{path.name}.partial")
        try:
            path.parent.mkdir(exist_ok=True)
            with partial.open("wb") as target:
                for chunk in remote.chunks(file.name):
                    if transfer.stop.is_set():
                        return
                    target.write(chunk)
                    digest.update(chunk)
                    size += len(chunk)
                    transfer.add(len(chunk))
                target.flush()
                os.fsync(target.fileno())
            if (size, digest.hexdigest()) != (file.bytes, file.sha256):
                other = "is not the file that store.json was written for (SHA-256)"
                problem = other if size == file.bytes else f"has {size} bytes, store.json says {file.bytes}"
                fix = "start again if the store was just being written; else copy it there anew"
                raise OtherFileError(f"{remote.address}/{file.name}", "", problem, fix)
            os.utime(partial, ns=(_time_of(file), _time_of(file)))
            partial.replace(path)
        except OSError as error:
            problem = f"cannot be written: {error.strerror or error}"
            raise InputError(str(path.parent), "", problem, _MORE_SPACE) from None
        finally:
            partial.unlink(missing_ok=True)


def _time_of(file: StoreFile) -> int:
    """Return the time in ns that a checked file gets: whole seconds of 2001 to 2010, which every file system keeps."""
    return (10**9 + (zlib.crc32(str(file.sha256).encode()) >> 4)) * 10**9

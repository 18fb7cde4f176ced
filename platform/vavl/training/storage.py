"""The directory of a run as every machine sees it: on a shared file system or in object storage."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from vavl.config.files import make_directory, written_beside
from vavl.errors import TrainingError
from vavl.store.checked_files import again
from vavl.store.remote_files import RemoteDirectory


class RunStorage:
    """Reads and writes files below ``output_dir``; each is whole or absent.

    Every method raises InputError where the storage cannot be reached, read or written, and StoreError for a file
    that is missing. What a network loses of a checkpoint or a result is asked for again, as that of a store is; small
    files that processes look at again and again are not.

    Args:
        output_dir: a directory, or an address such as ``s3://bucket/runs/demo``.
    """

    def __init__(self, output_dir: Path | str) -> None:
        self.address = str(output_dir)
        self.is_remote = "://" in self.address
        self._local = None if self.is_remote else Path(output_dir).absolute()
        self._remote = RemoteDirectory(self._local or self.address)

    def directory(self, name: str) -> RunStorage:
        """Return the storage of a directory below this one."""
        return RunStorage(f"{self.address.rstrip('/')}/{name}" if self._local is None else self._local / name)

    def ray_arguments(self) -> tuple[str, Any]:
        """Return path and file system (None = this machine's) in the form that Ray's storage takes."""
        if self._local is not None:
            return str(self._local), None
        from pyarrow.fs import FSSpecHandler, PyFileSystem

        return self._remote.path("").rstrip("/"), PyFileSystem(FSSpecHandler(self._remote.files))

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Path]:
        """Yield an empty directory of this machine for files that ``put`` moves here; it is removed afterwards."""
        above = make_directory(self._local) if self._local is not None else None
        with tempfile.TemporaryDirectory(prefix=".writing-", dir=above, ignore_cleanup_errors=True) as directory:
            yield Path(directory)

    def put(self, source: Path, name: str) -> None:
        """Move a file of this machine to ``name``."""
        if self._local is None:
            self._send(source, name)
            source.unlink()
            return
        target = self._local / name
        make_directory(target.parent)
        _sync(source)
        shutil.move(source, target)
        _sync(target.parent)

    def put_copy(self, source: Path, name: str) -> None:
        """Copy a file or a directory of this machine to ``name``; a directory that is there is replaced.

        Its files are replaced one by one, so that a killed process leaves no name without a file.
        """
        if source.is_file():
            self._send(source, name)
            return
        there = self.tree(name)
        for path in sorted(path for path in source.rglob("*") if path.is_file()):
            below = path.relative_to(source).as_posix()
            self._send(path, f"{name}/{below}")
            there.pop(below, None)
        for former in there:
            self.remove(f"{name}/{former}")

    def write(self, name: str, content: bytes) -> None:
        """Write a small file."""
        self._remote.write(name, content)

    def create(self, name: str, content: bytes) -> bool:
        """Write a small file where there is none, in one step; return False where there is one.

        Object storage without conditional writes lets the last of several writers win: read it back there.
        """
        if self._local is not None:
            target = make_directory(self._local) / name
            with self.scratch() as directory:
                made = directory / name
                made.write_bytes(content)
                try:
                    os.link(made, target)  # whole from the start, and exclusive on NFS too
                except FileExistsError:
                    return False
                except OSError:  # a file system without links
                    return self._create_here(target, content)
            return True
        try:
            self._remote.files.pipe_file(self._remote.path(name), content, mode="create")
        except FileExistsError:
            return False
        except Exception:  # noqa: BLE001  a driver that does not know this way of writing
            if self.read(name) is not None:
                return False
            self.write(name, content)
        return True

    @staticmethod
    def _create_here(target: Path, content: bytes) -> bool:
        try:
            with target.open("xb") as file:
                file.write(content)
        except FileExistsError:
            return False
        return True

    def read(self, name: str) -> bytes | None:
        """Return the content of a small file, None where there is none."""
        return self._remote.read_if_there(name)

    def check_writable(self) -> None:
        """Prove that files can be written and removed; leaves none."""
        name = f".probe-{secrets.token_hex(4)}"
        self.write(name, b"vavl")
        self.remove(name)

    def sha256(self, name: str) -> str:
        """Read a file and return its SHA-256."""
        return again(f"{self.address}/{name}", partial(self._remote.sha256, name))

    def directories(self) -> list[str]:
        """Return the names of the directories right below this one."""
        return self._remote.directories()

    def files(self) -> dict[str, int]:
        """Return the sizes in bytes of the files right below this directory, by name."""
        entries = self._listed("ls", "")
        return {name: size for name, size in entries.items() if "/" not in name}

    def tree(self, name: str = "") -> dict[str, int]:
        """Return the sizes in bytes of all files below the directory ``name``, by path relative to it."""
        return self._listed("find", name)

    def fetch(self, names: Iterable[str], target: Path) -> None:
        """Copy files to a directory of this machine; each is whole or absent there."""
        for name in names:
            again(f"{self.address}/{name}", partial(self._fetch, name, target / name))

    def fetch_tree(self, name: str, target: Path) -> None:
        """Copy everything below ``name`` to a directory of this machine; nothing where it is that directory itself."""
        if self._local is None or (self._local / name) != target.absolute():
            self.directory(name).fetch(sorted(self.tree(name)), target)

    def remove(self, name: str) -> None:
        """Remove a file or a directory with everything below it, if it is there."""
        try:
            with contextlib.suppress(FileNotFoundError), self._remote.reached("written"):
                self._remote.files.rm(self._remote.path(name), recursive=True)
        finally:
            self._remote.files.invalidate_cache()

    def move(self, name: str, target: str) -> None:
        """Move a file or a directory within the storage: a rename, in object storage a copy of every file."""
        found = self.tree(name) if self._local is None else {}
        for below in found or ("",):
            tail = f"/{below}" if below else ""
            self._remote.move(f"{name}{tail}", f"{target}{tail}")

    def local_path(self, name: str) -> Path | None:
        """Return where ``name`` is on this machine, None in object storage."""
        return None if self._local is None else self._local / name

    def _send(self, source: Path, name: str) -> None:
        again(f"{self.address}/{name}", partial(self._remote.send, source, name))

    def _fetch(self, name: str, target: Path) -> None:
        with written_beside(target) as beside, beside.open("wb") as file:
            file.writelines(self._remote.chunks(name))

    def _listed(self, how: str, name: str) -> dict[str, int]:
        """Return the sizes of files by path below ``name``; ``how`` is the driver's ``ls`` or ``find``."""
        root = self._remote.path(name).rstrip("/")
        found: Any = []
        with contextlib.suppress(FileNotFoundError), self._remote.reached("listed"):
            self._remote.files.invalidate_cache()
            found = getattr(self._remote.files, how)(root, detail=True)
        entries = found.values() if isinstance(found, dict) else found
        return {
            entry["name"][len(root) :].lstrip("/"): int(entry["size"]) for entry in entries if entry["type"] == "file"
        }


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class WorkerOutput:
    """The results of a run as a worker writes and reads them.

    Args:
        output_dir: of the run. Files go into a directory as they are; for an address they are written to this
            machine's temporary files first.
    """

    def __init__(self, output_dir: Path | str) -> None:
        self.storage = RunStorage(output_dir)
        self._scratch: tempfile.TemporaryDirectory[str] | None = None
        here = self.storage.local_path("")
        if here is None:
            self._scratch = tempfile.TemporaryDirectory(prefix="vavl-run-")
            here = Path(self._scratch.name)
        self.directory: Path = here
        """Directory of this machine: the run's own, or temporary files."""

    def publish(self, name: str) -> None:
        """Put a file or directory of this machine into the run's storage; nothing is left to do where it is one."""
        if self._scratch is not None:
            self.storage.put_copy(self.directory / name, name)

    def fetch(self, name: str) -> Path:
        """Return a directory of this machine with what ``name`` holds in the run's storage."""
        if self._scratch is not None:
            self.storage.fetch_tree(name, self.directory / name)
        return self.directory / name

    def fetch_file(self, name: str) -> Path | None:
        """Return a file of this machine with what the run's storage holds of it; None where it holds none."""
        if name not in self.storage.files():
            return None
        if self._scratch is not None:
            self.storage.fetch([name], self.directory)
        return self.directory / name


_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@contextlib.contextmanager
def full_disk_as_error(output_dir: str) -> Iterator[None]:
    """Turn what a full disk raises into an error of the platform; other errors pass.

    Raises:
        TrainingError: no space is left, a quota is used up, or a file may not grow.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        if _code_of(error) not in _FULL:
            raise
        fix = "free disk space, then start the same command again: the last whole checkpoint is intact"
        raise TrainingError(output_dir, "", f"the run's results cannot be written: {error}", fix) from error


def _code_of(error: OSError | SafetensorError) -> int | None:
    if isinstance(error, OSError):
        return error.errno
    # safetensors gives the code in its text alone: "I/O error: File too large (os error 27)".
    found = re.search(r"os error (\d+)", str(error))
    return int(found[1]) if found else None

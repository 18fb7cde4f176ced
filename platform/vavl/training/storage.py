"""The directory of a run as every machine sees it: on a shared file system or in object storage."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vavl.config.files import make_folder
from vavl.data.remote_files import RemoteFolder
from vavl.data.remote_writing import folders_there, hash_there, read_if_there, send_file, write_small


class RunStorage:
    """Reads and writes files below ``output_dir``; each is whole or absent.

    Args:
        output_dir: a directory, or an address such as ``s3://bucket/runs/demo``.

    Raises:
        InputError: the address has no driver here or cannot be reached.
    """

    def __init__(self, output_dir: Path | str) -> None:
        self.address = str(output_dir)
        self.is_remote = "://" in self.address
        self._local = None if self.is_remote else Path(output_dir).absolute()
        self._remote = RemoteFolder(self.address if self._local is None else self._local.as_uri())

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
        above = make_folder(self._local) if self._local is not None else None
        with tempfile.TemporaryDirectory(prefix=".writing-", dir=above, ignore_cleanup_errors=True) as folder:
            yield Path(folder)

    def put(self, source: Path, name: str) -> None:
        """Move a file of this machine to ``name``.

        Raises:
            InputError: the storage cannot be written.
        """
        if self._local is None:
            send_file(self._remote, source, name, lambda _: None)
            source.unlink()
            return
        target = self._local / name
        make_folder(target.parent)
        _sync(source)
        shutil.move(source, target)
        _sync(target.parent)

    def put_copy(self, source: Path, name: str) -> None:
        """Copy a file or a directory of this machine to ``name``; a directory that is there is replaced.

        Raises:
            InputError: the storage cannot be written.
        """
        if source.is_file():
            send_file(self._remote, source, name, lambda _: None)
            return
        self.remove(name)
        for path in sorted(path for path in source.rglob("*") if path.is_file()):
            send_file(self._remote, path, f"{name}/{path.relative_to(source).as_posix()}", lambda _: None)

    def write(self, name: str, content: bytes) -> None:
        """Write a small file.

        Raises:
            InputError: the storage cannot be written.
        """
        write_small(self._remote, name, content)

    def read(self, name: str) -> bytes | None:
        """Return the content of a small file, None where there is none.

        Raises:
            InputError: the storage cannot be read.
        """
        return read_if_there(self._remote, name)

    def sha256(self, name: str) -> str:
        """Read a file and return its SHA-256.

        Raises:
            InputError, StoreError: it cannot be read, or is missing.
        """
        return hash_there(self._remote, name)

    def directories(self) -> list[str]:
        """Return the names of the directories right below this one."""
        return folders_there(self._remote)

    def files(self) -> dict[str, int]:
        """Return the sizes in bytes of the files right below this directory, by name.

        Raises:
            InputError: the storage cannot be listed.
        """
        return {path: size for path, size in self._walk().items() if "/" not in path}

    def fetch(self, names: Iterator[str] | list[str], target: Path) -> None:
        """Copy files to a directory of this machine.

        Raises:
            InputError, StoreError: a file cannot be read, or is missing.
        """
        for name in names:
            place = target / name
            place.parent.mkdir(parents=True, exist_ok=True)
            with place.open("wb") as file:
                for chunk in self._remote.chunks(name):
                    file.write(chunk)

    def fetch_tree(self, name: str, target: Path) -> None:
        """Copy everything below ``name`` to a directory of this machine; nothing where it is that directory itself."""
        if self._local is not None and (self._local / name) == target.absolute():
            return
        below = self.directory(name)
        below.fetch(sorted(below._walk()), target)

    def remove(self, name: str) -> None:
        """Remove a file or a directory with everything below it, if it is there.

        Raises:
            InputError: the storage cannot be written.
        """
        try:
            self._remote.files.rm(self._remote.path(name), recursive=True)
        except FileNotFoundError:
            return
        except Exception as error:  # noqa: BLE001  every driver raises errors of its own
            raise self._remote.unreachable(error, "written") from None
        finally:
            self._remote.files.invalidate_cache()

    def move(self, name: str, target: str) -> None:
        """Rename a directory below this one; in object storage that is a copy.

        Raises:
            InputError: the storage cannot be written.
        """
        try:
            self._remote.files.mv(self._remote.path(name), self._remote.path(target), recursive=True)
        except Exception as error:  # noqa: BLE001  every driver raises errors of its own
            raise self._remote.unreachable(error, "written") from None
        finally:
            self._remote.files.invalidate_cache()

    def local_path(self, name: str) -> Path | None:
        """Return where ``name`` is on this machine, None in object storage."""
        return None if self._local is None else self._local / name

    def _walk(self) -> dict[str, int]:
        root = self._remote.path("").rstrip("/")
        try:
            self._remote.files.invalidate_cache()
            found = self._remote.files.find(root, detail=True)
        except FileNotFoundError:
            return {}
        except Exception as error:  # noqa: BLE001  see above
            raise self._remote.unreachable(error, "listed") from None
        return {path[len(root) :].lstrip("/"): int(entry["size"]) for path, entry in found.items()}


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

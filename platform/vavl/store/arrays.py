"""Arrays of a number per clip, in files that the processes of a machine map together.

What a run knows of each clip, where its features lie, their length, its label, its place among the training clips,
takes no private memory: one process builds the arrays, piece by piece, and every rank maps the same pages.
They lie in ``VAVL_CACHE/arrays``, one directory per purpose, and may be deleted whenever no process is starting.
"""

from __future__ import annotations

import logging
import mmap
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from vavl.config.files import make_directory, read_json, sha256_of_json, write_json
from vavl.config.places import CACHE_VARIABLE
from vavl.errors import InputError, StoreError
from vavl.store.checked_files import cache_directory, replaced_directory

PIECE = 2**20
"""Clips that are held in memory at once where all of them are gone through."""
_FACTS_FILE = "arrays.json"
_log = logging.getLogger(__name__)


def pieces(rows: NDArray[Any], size: int = PIECE) -> Iterator[NDArray[Any]]:
    """Yield parts of a mapped array one after the other."""
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def mapped_file(path: Path) -> mmap.mmap:
    """Map a file for reading; its ``size()`` is that of the same file later, whatever takes its place."""
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def file_state(path: Path) -> list[int]:
    """Return what changes when a file does: its size, time and inode; zeros where there is none."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return [0, 0, 0]
    return [status.st_size, status.st_mtime_ns, status.st_ino]


class ArrayWriter:
    """Writes named arrays into a directory, each as a ``.npy`` file."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._files: dict[str, BinaryIO] = {}

    def append(self, name: str, piece: NDArray[Any], rows: int | None = None) -> None:
        """Write the next piece of an array that has ``rows`` rows in all, by default those of this piece alone."""
        if name not in self._files:
            self._files[name] = (self._directory / f"{name}.npy").open("wb")
            shape = (len(piece) if rows is None else rows, *piece.shape[1:])
            header = {"descr": np.lib.format.dtype_to_descr(piece.dtype), "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(self._files[name], header)
        self._files[name].write(np.ascontiguousarray(piece).data)

    def close(self) -> None:
        """Close the files."""
        for file in self._files.values():
            file.close()


@dataclass(frozen=True)
class MappedArrays:
    """Named read-only arrays of a directory, mapped; they stay as they are when the directory is replaced."""

    arrays: Mapping[str, NDArray[Any]]  # by name.
    facts: Any  # what the builder stated next to them.
    maps: Sequence[mmap.mmap]  # what the arrays lie in.

    @classmethod
    def read(cls, directory: Path, key: Any) -> Self | None:
        """Map the arrays of a directory; None if they are of another key, damaged, or not those that were built."""
        try:
            content = read_json(directory / _FACTS_FILE)
            if (content["key"], content["files"]) != (sha256_of_json(key), _states(directory)):
                return None
            mapped = {path.stem: np.load(path, mmap_mode="r") for path in directory.glob("*.npy")}
            facts = content["facts"]
        except (InputError, OSError, KeyError, TypeError, ValueError):
            return None
        arrays = {name: np.asarray(one) for name, one in mapped.items()}
        return cls(arrays, facts, [one.base for one in mapped.values()])

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self.arrays[name]

    def check_uncut(self) -> None:
        """Refuse files that were cut since they were mapped: the next look at them would be a bus error.

        Raises:
            StoreError: one was.
        """
        if any(mapped.size() < len(mapped) for mapped in self.maps):
            place = str(cache_directory() / "arrays")
            raise StoreError(place, "", "a file was cut while it was in use", "start again: it is built anew")


def shared_arrays(purpose: Sequence[Any], key: Any, build: Callable[[ArrayWriter], Any]) -> MappedArrays:
    """Return arrays that one process of this machine builds and all of them map.

    Args:
        purpose: names the arrays, e.g. path of the store and settings; plain JSON.
        key: state of what they are made of, e.g. hashes, sizes and times of files; plain JSON. Arrays of another key
            are built anew in the place of the old ones, as are damaged ones.
        build: writes the arrays and returns their ``facts``, plain JSON; other processes wait for it.

    Raises:
        InputError: the disk of the cache is full; and what ``build`` raises.
    """
    name = sha256_of_json(purpose)[:24]
    try:
        home = make_directory(cache_directory() / "arrays", setting=CACHE_VARIABLE)
    except InputError as error:
        _log.warning("%s: %s; each process builds the arrays of its clips for itself", error.file, error.problem)
        with tempfile.TemporaryDirectory(prefix="vavl-arrays-") as directory:
            return _built(Path(directory), key, build)
    with replaced_directory(home / name) as new:
        found = MappedArrays.read(home / name, key)
        if found is None:
            new.mkdir()
            found = _built(new, key, build)
        return found


def _built(directory: Path, key: Any, build: Callable[[ArrayWriter], Any]) -> MappedArrays:
    writer = ArrayWriter(directory)
    try:
        facts = build(writer)
        writer.close()
        # Written last, it tells a whole directory.
        write_json(directory / _FACTS_FILE, {"key": sha256_of_json(key), "facts": facts, "files": _states(directory)})
    except OSError as error:
        problem = f"the arrays of the clips cannot be written: {error.strerror or error}"
        fix = f"make room, or choose another {CACHE_VARIABLE}"
        raise InputError(str(directory.parent), "", problem, fix) from None
    finally:
        writer.close()
        # Arrow would keep what the columns of all clips took: 9 bytes per clip, for as long as the process lives.
        pa.default_memory_pool().release_unused()
    built = MappedArrays.read(directory, key)
    assert built is not None, f"{directory} was changed since it was built"
    return built


def _states(directory: Path) -> dict[str, list[int]]:
    # Without the inode: some file systems number a file anew whenever it is looked up.
    return {path.name: file_state(path)[:2] for path in directory.glob("*.npy")}

"""Arrays of a number per clip, in files that the processes of a machine map together.

What a run knows of each clip, where its features lie, their length, its label, its place among the training clips,
takes no private memory: one process builds the arrays, piece by piece, and every rank maps the same pages.
They lie in ``VAVL_CACHE/arrays``, one directory per purpose, and may be deleted whenever no process is starting.
"""

from __future__ import annotations

import contextlib
import logging
import mmap
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from vavl.config.files import make_folder, read_json, sha256_of_json, write_json
from vavl.config.places import CACHE_VARIABLE
from vavl.errors import InputError, StoreError
from vavl.store.checked_files import cache_directory, held_lock, replace_directory

PIECE = 2**20
"""Clips that are held in memory at once where all of them are gone through."""
_FACTS_FILE = "arrays.json"
_log = logging.getLogger(__name__)


def pieces(rows: NDArray[Any], size: int = PIECE) -> Iterator[NDArray[Any]]:
    """Yield parts of a mapped array one after the other."""
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


@dataclass
class ArrayWriter:
    """Writes named arrays of a directory, piece by piece; the first piece decides type and shape of a row."""

    directory: Path
    _files: dict[str, BinaryIO] = field(default_factory=dict, repr=False)
    _forms: dict[str, dict[str, Any]] = field(default_factory=dict, repr=False)

    def append(self, name: str, piece: NDArray[Any]) -> None:
        """Add rows to an array."""
        form = self._forms.setdefault(name, {"dtype": piece.dtype.str, "row": piece.shape[1:], "rows": 0})
        if name not in self._files:
            self._files[name] = (self.directory / name).open("wb")
        if (piece.dtype.str, piece.shape[1:]) != (form["dtype"], form["row"]):
            raise ValueError(f"{name}: rows of {piece.dtype} {piece.shape[1:]} after {form['dtype']} {form['row']}")
        self._files[name].write(np.ascontiguousarray(piece).data)
        form["rows"] += len(piece)

    def finish(self, key: Any, facts: Any) -> None:
        """Close the files and write, last, what tells a whole directory; ``key`` and ``facts`` are plain JSON."""
        self.close()
        for name, form in self._forms.items():
            form["mtime_ns"] = (self.directory / name).stat().st_mtime_ns
        write_json(self.directory / _FACTS_FILE, {"key": sha256_of_json(key), "facts": facts, "arrays": self._forms})

    def close(self) -> None:
        """Close the files."""
        for file in self._files.values():
            file.close()


@dataclass(frozen=True)
class MappedArrays:
    """Named read-only arrays of a directory, mapped; they stay as they are when the directory is replaced.

    Attributes:
        arrays: by name.
        facts: what the builder stated next to them.
    """

    arrays: Mapping[str, NDArray[Any]]
    facts: Any
    _maps: Sequence[mmap.mmap] = field(repr=False)

    @classmethod
    def read(cls, directory: Path, key: Any = None) -> Self:
        """Map the arrays that an ``ArrayWriter`` left in a directory.

        Args:
            directory: of the files.
            key: refuse those of another key, and files whose time is not that of their writing; None compares sizes.

        Raises:
            ValueError: a file is missing or damaged, or the key is another one.
        """
        try:
            content = read_json(directory / _FACTS_FILE)
            if key is not None and content["key"] != sha256_of_json(key):
                raise ValueError("of another state")
            arrays, maps = {}, []
            for name, form in content["arrays"].items():
                dtype, shape = np.dtype(form["dtype"]), (form["rows"], *form["row"])
                with (directory / name).open("rb") as file:
                    buffer = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if np.prod(shape) else None
                if key is not None and (directory / name).stat().st_mtime_ns != form["mtime_ns"]:
                    raise ValueError(f"{name} was changed")
                if buffer is not None:
                    maps.append(buffer)
                arrays[name] = np.frombuffer(buffer or b"", dtype).reshape(shape)
        except (InputError, OSError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"damaged: {error}") from None
        return cls(arrays, content["facts"], maps)

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self.arrays[name]

    def check_uncut(self) -> None:
        """Refuse files that were cut since they were mapped: the next look at them would be a bus error.

        Raises:
            StoreError: one was.
        """
        if any(mapped.size() < len(mapped) for mapped in self._maps):
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
        home = make_folder(cache_directory() / "arrays", setting=CACHE_VARIABLE)
    except InputError as error:
        _log.warning("%s: %s; each process builds the arrays of its clips for itself", error.file, error.problem)
        with tempfile.TemporaryDirectory(prefix="vavl-arrays-") as folder:
            _build(Path(folder), key, build)
            return MappedArrays.read(Path(folder))
    place, partial = home / name, home / f".{name}.partial"
    with held_lock(home / f"{name}.lock"):
        with contextlib.suppress(ValueError):
            return MappedArrays.read(place, key)
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        try:
            _build(partial, key, build)
            replace_directory(partial, place)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        return MappedArrays.read(place, key)


def _build(directory: Path, key: Any, build: Callable[[ArrayWriter], Any]) -> None:
    writer = ArrayWriter(directory)
    try:
        writer.finish(key, build(writer))
    except OSError as error:
        problem = f"the arrays of the clips cannot be written: {error.strerror or error}"
        fix = f"make room, or choose another {CACHE_VARIABLE}"
        raise InputError(str(directory.parent), "", problem, fix) from None
    finally:
        writer.close()


def file_state(path: Path) -> list[int]:
    """Return what changes when a file does: its size, time and inode; zeros where there is none."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return [0, 0, 0]
    return [status.st_size, status.st_mtime_ns, status.st_ino]


class RowPlace(NamedTuple):
    """Where the features of one row lie: number of the file, frames, and the bytes at which values and times begin."""

    file: int
    frames: int
    values_at: int
    times_at: int


@dataclass(frozen=True)
class ModalityIndex:
    """Where the rows of one modality lie in the files (shards) of a store, over mapped arrays.

    Within a record batch the values of its rows follow each other, and so do their times, as Arrow lays them out; so a
    row costs 8 bytes, and a record batch 28. Who writes a format fills it with ``add_batch`` for every record batch of
    every file in the order of the rows, either into the store itself or through ``shared_arrays``; who reads opens it
    with ``ModalityIndex(arrays.arrays, bytes per frame)`` and reads ``place(row)``.

    Attributes:
        arrays: ``frames`` (rows,) int32, ``crc`` (rows,) uint32 or absent, and per record batch ``first_row`` and
            ``values_at``, ``times_at`` int64, ``file`` int32.
        frame_bytes: of the values of one frame; a time is a float32.
    """

    arrays: Mapping[str, NDArray[Any]]
    frame_bytes: int

    @staticmethod
    def add_batch(
        writer: ArrayWriter,
        first_row: int,
        frames: NDArray[np.int32],
        crc: NDArray[np.uint32] | None,
        place: tuple[int, int, int],
    ) -> None:
        """Add the rows of a record batch.

        Args:
            writer: of the arrays.
            first_row: rows of all record batches before.
            frames: (rows of the batch,).
            crc: (rows of the batch,), CRC-32 over the bytes of each row's times, then its values; None where the store
                has none.
            place: number of the file, and the bytes at which the values and the times of the batch begin in it.
        """
        writer.append("frames", frames)
        if crc is not None:
            writer.append("crc", crc)
        for name, number in zip(("first_row", "values_at", "times_at"), (first_row, *place[1:]), strict=True):
            writer.append(name, np.array([number], np.int64))
        writer.append("file", np.array([place[0]], np.int32))

    def __len__(self) -> int:
        return len(self.frames)

    @property
    def frames(self) -> NDArray[np.int32]:
        """Frames of every row."""
        return self.arrays["frames"]

    @property
    def crc(self) -> NDArray[np.uint32] | None:
        """Checksum of every row, None where the store has none."""
        return self.arrays.get("crc")

    def batch_of(self, row: int) -> tuple[int, int]:
        """Return the number of the record batch that holds a row, and the row's number in it."""
        number = int(np.searchsorted(self.arrays["first_row"], row, side="right")) - 1
        return number, row - int(self.arrays["first_row"][number])

    def place(self, row: int) -> RowPlace:
        """Return where a row lies; ``row`` must be one."""
        number, within = self.batch_of(row)
        before = int(self.frames[row - within : row].sum(dtype=np.int64))
        return RowPlace(
            int(self.arrays["file"][number]),
            int(self.frames[row]),
            int(self.arrays["values_at"][number]) + before * self.frame_bytes,
            int(self.arrays["times_at"][number]) + before * 4,
        )

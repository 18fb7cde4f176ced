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
import pyarrow as pa
from numpy.typing import NDArray

from vavl.config.files import make_directory, read_json, sha256_of_json, write_json, written_beside
from vavl.config.places import CACHE_VARIABLE
from vavl.errors import InputError, StoreError
from vavl.store.checked_files import REPAIR, cache_directory, held_lock, replace_directory

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
    """Named read-only arrays of a directory, mapped; they stay as they are when the directory is replaced."""

    arrays: Mapping[str, NDArray[Any]]  # by name.
    facts: Any  # what the builder stated next to them.
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
                buffer = mapped_file(directory / name) if np.prod(shape) else None
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
        home = make_directory(cache_directory() / "arrays", setting=CACHE_VARIABLE)
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
        # Arrow would keep what the columns of all clips took: 9 bytes per clip, for as long as the process lives.
        pa.default_memory_pool().release_unused()


def file_state(path: Path) -> list[int]:
    """Return what changes when a file does: its size, time and inode; zeros where there is none."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return [0, 0, 0]
    return [status.st_size, status.st_mtime_ns, status.st_ino]


class RowPlace(NamedTuple):
    """Where a row lies: number of the shard, frames, CRC-32, and the bytes at which its values and its times begin."""

    shard: int
    frames: int
    crc32: int
    values_at: int
    times_at: int


_OF_ROWS = {"frames": "<i4", "crc32": "<u4"}
_OF_BATCHES = {"first_row": "<i8", "values_at": "<i8", "times_at": "<i8", "shard": "<i4"}


@dataclass(frozen=True)
class ModalityIndex:
    """Where the rows of one modality lie in the shards of a store: the file ``<modality>_index.bin``, mapped.

    Within a record batch the values of its rows follow each other, and so do their times, as Arrow lays them out; so a
    row costs 8 bytes, and a record batch 28. The arrays follow each other in the file.
    """

    # ``frames`` (rows,) int32, ``crc32`` (rows,) uint32 over the bytes of a row's times, then its values, and per
    # record batch ``first_row``, ``values_at`` and ``times_at`` int64 and ``shard`` int32.
    arrays: Mapping[str, NDArray[Any]]
    frame_bytes: int  # of the values of one frame; a time is a float32.

    @classmethod
    def read(cls, path: Path, rows: int, frame_bytes: int) -> Self:
        """Map the file of so many rows.

        Raises:
            StoreError: it has another number of them.
        """
        mapped = np.frombuffer(mapped_file(path), np.uint8)
        batches, rest = divmod(len(mapped) - rows * _size(_OF_ROWS), _size(_OF_BATCHES))
        if rest or not 1 <= batches <= rows:
            raise StoreError(str(path), "", f"is not of the {rows} clips that store.json says", REPAIR)
        arrays, start = {}, 0
        for count, kinds in ((rows, _OF_ROWS), (batches, _OF_BATCHES)):
            for name, kind in kinds.items():
                end = start + count * np.dtype(kind).itemsize
                arrays[name], start = np.asarray(mapped[start:end]).view(kind), end
        return cls(arrays, frame_bytes)

    def __len__(self) -> int:
        return len(self.frames)

    @property
    def frames(self) -> NDArray[np.int32]:
        """Frames of every row."""
        return self.arrays["frames"]

    def shards(self, rows: NDArray[np.integer]) -> NDArray[np.int32]:
        """Return the numbers of the shards that rows lie in."""
        return self.arrays["shard"][np.searchsorted(self.arrays["first_row"], rows, side="right") - 1]

    def place(self, row: int) -> RowPlace:
        """Return where a row lies; ``row`` must be one."""
        number = int(np.searchsorted(self.arrays["first_row"], row, side="right")) - 1
        first, values_at, times_at, shard = (int(self.arrays[name][number]) for name in _OF_BATCHES)
        before = int(self.frames[first:row].sum(dtype=np.int64))
        frames, crc32 = int(self.frames[row]), int(self.arrays["crc32"][row])
        return RowPlace(shard, frames, crc32, values_at + before * self.frame_bytes, times_at + before * 4)


class IndexWriter:
    """Collects the index of a modality, 8 bytes per row, and writes it."""

    def __init__(self) -> None:
        self.rows = 0
        self._arrays: dict[str, list[NDArray[Any]]] = {name: [] for name in (*_OF_ROWS, *_OF_BATCHES)}

    def add(self, frames: NDArray[np.int32], crc32: NDArray[np.uint32], place: tuple[int, int, int]) -> None:
        """Add a record batch; ``place`` is where its values and its times begin, and the number of its shard."""
        self._arrays["frames"].append(frames)
        self._arrays["crc32"].append(crc32)
        for (name, kind), number in zip(_OF_BATCHES.items(), (self.rows, *place), strict=True):
            self._arrays[name].append(np.array([number], kind))
        self.rows += len(frames)

    def write(self, path: Path) -> None:
        """Write the file, whole or not at all."""
        with written_beside(path) as partial, partial.open("wb") as file:
            for name, kind in (_OF_ROWS | _OF_BATCHES).items():
                file.writelines(piece.astype(kind).tobytes() for piece in self._arrays[name])


def _size(kinds: Mapping[str, str]) -> int:
    return sum(np.dtype(kind).itemsize for kind in kinds.values())

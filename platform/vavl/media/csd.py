"""Computational sequences (.csd) of the CMU Multimodal SDK: features with intervals, per video, in HDF5.

``<sequence>/data/<video>/features`` is (rows, width), ``.../intervals`` (rows, 2) in seconds;
``<sequence>/metadata/dimension names`` may name the columns. Nothing outside the file is opened: links
and datasets stored elsewhere are refused.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from vavl.errors import ConfigError, CorpusError
from vavl.media.csv_table import place_inside

if TYPE_CHECKING:
    import h5py

KEY_COLUMN = "key"
"""Column of a container that is read as a table: the keys of its segments, ``video[n]``."""

_MOST_BYTES = 2**32  # of one video; a longer one is a header that lies


@dataclass(frozen=True)
class Segment:
    """One interval of a video."""

    key: str  # ``video[n]``
    video: str
    start: float  # seconds from the start of the video
    end: float


class Container:
    """An open computational sequence."""

    def __init__(self, file: h5py.File, path: Path, sequence: str | None) -> None:
        self._path = path
        names = list(file)
        if sequence is None and len(names) != 1:
            raise self._error("", f"holds {len(names)} sequences: {', '.join(names[:5])}", "name one in the card")
        self._group = self._member(file, sequence or names[0], f"found here: {', '.join(names[:5])}")
        self._data = self._member(self._group, "data")
        self.videos = tuple(sorted(self._data))

    def intervals(self, video: str) -> npt.NDArray[np.float64]:
        """Return (rows, 2) start and end in seconds; empty for an unknown video."""
        if video not in self._data:
            return np.zeros((0, 2))
        rows = self._array(video, "intervals")
        if rows.ndim != 2 or rows.shape[1] != 2:
            raise self._error(f"{video}/intervals", f"shape {rows.shape} is not (rows, 2)", "restore the file")
        if len(rows) != len(self._array(video, "features")):
            raise self._error(video, "features and intervals differ in their number", "restore the file")
        found: npt.NDArray[np.float64] = np.asarray(rows[()], dtype=np.float64)
        return found

    def features(self, video: str, first: int, last: int) -> npt.NDArray[np.float32]:
        """Return rows ``first`` to ``last``, this one left out, as (rows, width)."""
        rows = self._array(video, "features")
        if rows.ndim != 2:
            raise self._error(f"{video}/features", f"shape {rows.shape} is not (rows, width)", "restore the file")
        found: npt.NDArray[np.float32] = np.asarray(rows[first:last], dtype=np.float32)
        return found

    def dimensions(self) -> tuple[str, ...]:
        """Return the names of the columns of the features; numbers from 0 where the file names none."""
        named: Any = None
        with contextlib.suppress(KeyError, CorpusError, ValueError, TypeError):
            text = self._member(self._group, "metadata")["dimension names"][0]
            named = json.loads(text)
        if isinstance(named, list) and named and all(isinstance(name, str) for name in named):
            return tuple(named)
        width = self._array(self.videos[0], "features").shape[-1] if self.videos else 0
        return tuple(str(number) for number in range(width))

    def segments(self) -> Iterator[Segment]:
        """Yield every interval of every video, in the order of the file within a video."""
        for video in self.videos:
            for number, (start, end) in enumerate(self.intervals(video)):
                yield Segment(f"{video}[{number}]", video, float(start), float(end))

    def _array(self, video: str, name: str) -> h5py.Dataset:
        import h5py

        found = self._member(self._member(self._data, video), name)
        place = f"{video}/{name}"
        if not isinstance(found, h5py.Dataset) or not np.issubdtype(found.dtype, np.number):
            raise self._error(place, "holds no numbers", "restore the file")
        if found.external or found.is_virtual:
            raise self._error(place, "is stored in another file", "use the file of the publishers")
        if found.nbytes > _MOST_BYTES:
            raise self._error(place, f"is declared as {found.shape}", "restore the file")
        return found

    def _member(self, group: Any, name: str, known: str = "") -> Any:
        import h5py

        link = group.get(name, getlink=True) if isinstance(group, h5py.Group) else None
        if link is None:
            raise self._error(
                name, f"is not there{f'; {known}' if known else ''}", "restore the file, or correct the card"
            )
        if not isinstance(link, h5py.HardLink):
            raise self._error(name, "is a link", "use the file of the publishers")
        return group[name]

    def _error(self, field: str, problem: str, fix: str) -> CorpusError:
        return CorpusError(str(self._path), field, problem, fix)


@contextlib.contextmanager
def open_container(root: Path, name: str, sequence: str | None) -> Iterator[Container]:
    """Open a computational sequence below the corpus directory.

    Raises:
        CorpusError: the file is missing, broken, or no computational sequence; also while it is read.
        ConfigError: h5py is not installed.
    """
    path = place_inside(root, name)
    try:
        import h5py
    except ImportError:
        fix = "pip install --constraint constraints.txt 'vavl[mosei]'"
        raise ConfigError(str(path), "", "reading .csd files needs h5py, which is not installed", fix) from None
    try:
        with h5py.File(path, "r") as file:
            yield Container(file, path, sequence)
    except (OSError, RuntimeError, KeyError) as error:
        fix = "put the file there, get it again, or correct its name in the card"
        raise CorpusError(str(path), "", f"not a readable .csd file: {str(error).splitlines()[0]}", fix) from None


def read_segments(root: Path, name: str, sequence: str | None) -> dict[str, Segment]:
    """Return key -> segment of a container.

    Raises:
        CorpusError: see ``open_container``; or it holds no segment.
    """
    with open_container(root, name, sequence) as container:
        found = {segment.key: segment for segment in container.segments()}
    if not found:
        raise CorpusError(str(root / name), "data", "holds no segment", "restore the file")
    return found


def read_csd_keys(root: Path, name: str) -> list[str]:
    """Return the keys of the rows of a container that is read as a table, one per segment."""
    return list(read_segments(root, name, None))


def read_csd_columns(root: Path, name: str, columns: Sequence[str]) -> npt.NDArray[np.float64]:
    """Return (row, column) of a container that is read as a table; rows as of ``read_csd_keys``.

    Raises:
        CorpusError: see ``open_container``; or it has no such column.
    """
    with open_container(root, name, None) as container:
        known = container.dimensions()
        for column in columns:
            if column not in known:
                problem = f"no such column; the container has {', '.join(known)}"
                raise CorpusError(str(root / name), column, problem, "correct the column's name in the card")
        places = [known.index(column) for column in columns]
        rows = [container.features(video, 0, len(container.intervals(video)))[:, places] for video in container.videos]
    return np.concatenate(rows).astype(np.float64) if rows else np.zeros((0, len(columns)))

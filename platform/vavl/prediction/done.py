"""What is predicted already: rows of finished parts, found by their keys."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from vavl.config.files import read_json, sha256_of_json, write_json, written_beside
from vavl.errors import StoreError
from vavl.models.settings import Task
from vavl.prediction.clips import ClipInput
from vavl.prediction.rows import part_schema
from vavl.prediction.worker import ClipPart

logger = logging.getLogger(__name__)

_ALL, _INPUT = "all.parquet", "input.json"


@dataclass(frozen=True)
class DoneRows:
    """Rows of earlier work that hold now.

    Attributes:
        rows: of the columns of a part; each key's rows once.
        was_killed: a process ended in the middle of a clip, in an earlier job.
    """

    rows: pa.Table
    was_killed: bool

    @property
    def keys(self) -> set[str]:
        """Keys of the clips."""
        return set(self.rows["key"].to_pylist())


def read_done(folder: Path, keys: Sequence[str], task: Task, *, resume: bool, retry_failed: bool) -> DoneRows:
    """Read what earlier jobs finished of these clips; remove what they left half done.

    Args:
        folder: of the parts.
        keys: of the clips that are wanted now.
        task: of the model.
        resume: use what is there, or throw it away.
        retry_failed: leave out clips with an error.
    """
    schema = part_schema(task)
    was_killed = any(folder.glob(".*.current"))
    # A clip in which a killed job was at work gets a new chance.
    for path in folder.glob(".*.*"):
        path.unlink()
    wanted = pa.array(keys, pa.string())
    known: set[str] = set()
    tables = [schema.empty_table()]
    for path in sorted(folder.glob("*.parquet")) if resume else ():
        table = _rows_of(path, schema)
        if table is None:
            logger.warning("%s is damaged or of an older version; its clips are predicted again", path.name)
            continue
        table = table.filter(pc.is_in(table["key"], value_set=wanted))
        if retry_failed:
            table = table.filter(pc.is_null(table["error"]))
        fresh = table.filter(
            pc.invert(pc.is_in(table["key"], value_set=pa.array(sorted(known), pa.string())))
        )
        known |= set(fresh["key"].to_pylist())
        tables.append(fresh)
    if not resume:
        for path in folder.glob("*.parquet"):
            path.unlink()
    return DoneRows(pa.concat_tables(tables), was_killed)


def check_input(folder: Path, name: str, done: DoneRows, *, resume: bool) -> None:
    """Refuse to replace the predictions of another input by an oversight, and note the one that is predicted.

    A folder that was moved is the same input: rows of it are kept.

    Raises:
        StoreError: another input was predicted into the folder, and nothing of it can be kept.
    """
    path = folder / _INPUT
    before = read_json(path).get("input") if path.exists() else None
    if resume and before not in (None, name) and not len(done.rows):
        raise StoreError(
            str(folder.parent), "output_dir", f"holds the predictions of {before}, not of {name}",
            "choose another output_dir, or set resume=false to replace them",
        )  # fmt: skip
    write_json(path, {"input": name})


def parts_to_do(
    folder: Path, clips: Sequence[ClipInput], keys: Sequence[str], done: set[str], most: int
) -> Iterator[ClipPart]:
    """Yield the clips that are left, in parts of at most ``most`` clips."""
    waiting: list[tuple[str, ClipInput]] = []
    for key, clip in zip(keys, clips, strict=True):
        if key in done or clip.problem is not None:
            continue
        waiting.append((key, clip))
        if len(waiting) == most:
            yield _part(folder, waiting)
            waiting = []
    if waiting:
        yield _part(folder, waiting)


def read_part(path: Path, task: Task) -> pa.Table:
    """Read the rows of a part that was just written."""
    return pq.read_table(path, schema=part_schema(task))


def keep_all(folder: Path, rows: pa.Table) -> None:
    """Put all rows into one file in place of the parts, which only an interrupted job needs."""
    with written_beside(folder / _ALL) as partial:
        pq.write_table(rows, partial)
    for path in folder.glob("*.parquet"):
        if path.name != _ALL:
            path.unlink()


def _part(folder: Path, clips: Sequence[tuple[str, ClipInput]]) -> ClipPart:
    name = sha256_of_json([key for key, _ in clips])[:16]
    return ClipPart(folder / f"{name}.parquet", tuple(clips))


def _rows_of(path: Path, schema: pa.Schema) -> pa.Table | None:
    """Return the rows of a part; None if it cannot be read; an empty table for one of another model."""
    try:
        with pq.ParquetFile(path) as file:
            if "key" not in file.schema_arrow.names:
                return None
            return file.read() if file.schema_arrow.equals(schema) else schema.empty_table()
    except (pa.ArrowException, OSError):
        return None

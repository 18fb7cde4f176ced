"""Clips of a manifest: a table of clip ids and of paths that lead nowhere but below their root."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from vavl.errors import CorpusError
from vavl.media.csv_table import place_inside, read_header, read_text_columns
from vavl.prediction.clips import ClipInput, ClipsFound

MANIFEST_SUFFIXES = frozenset({".parquet", ".csv"})
_PATHS = ("audio_path", "video_path")
_COLUMNS = ("clip_id", *_PATHS, "corpus", "speaker", "split")


def manifest_clips(file: Path, root: Path) -> ClipsFound:
    """Read a manifest: ``clip_id``, ``audio_path`` and/or ``video_path``; also ``corpus``, ``speaker``, ``split``.

    Args:
        file: .parquet or .csv; an empty field means that the clip lacks it.
        root: folder that the paths count from.

    Raises:
        CorpusError: the table is not readable, lacks a column, names a clip twice or not at all, or a path
            leads out of the root, links followed.
    """
    columns = _parquet(file) if file.suffix.lower() == ".parquet" else _csv(file)
    missing = [name for name in ("clip_id",) if name not in columns]
    missing += ["audio_path or video_path"] * all(name not in columns for name in _PATHS)
    if missing:
        raise CorpusError(
            str(file), ", ".join(missing), f"no such column; the table has {', '.join(columns) or 'none of them'}",
            f"name the columns {', '.join(_COLUMNS)}; all but the first and one path may be left out",
        )  # fmt: skip
    clips = [
        ClipInput(**{name.removesuffix("_path"): value or None for name, value in row.items() if name != "clip_id"},
                  clip_id=row["clip_id"] or "")
        for row in _rows(columns)
    ]  # fmt: skip
    _check_ids(file, clips)
    _check_paths(file, clips, root)
    return ClipsFound("manifest", clips)


def _parquet(file: Path) -> dict[str, list[str | None]]:
    try:
        known = [name for name in pq.read_schema(file).names if name in _COLUMNS]
        table = pq.read_table(file, columns=known)
        return {name: table[name].cast(pa.string()).to_pylist() for name in known}
    except (pa.ArrowException, OSError) as fault:
        raise CorpusError(str(file), "", f"not a readable Parquet table: {fault}", "write it again") from None


def _csv(file: Path) -> dict[str, list[str | None]]:
    known = [name for name in read_header(file) if name in _COLUMNS]
    values: Sequence[Sequence[str | None]] = read_text_columns(file.parent, file.name, known) if known else []
    return {name: list(column) for name, column in zip(known, values, strict=True)}


def _rows(columns: dict[str, list[str | None]]) -> Iterator[dict[str, str | None]]:
    for values in zip(*columns.values(), strict=True):
        yield dict(zip(columns, values, strict=True))


def _check_ids(file: Path, clips: Sequence[ClipInput]) -> None:
    if not clips:
        raise CorpusError(str(file), "", "the table has no rows", "name at least one clip")
    empty = next((row for row, clip in enumerate(clips, start=1) if not clip.clip_id), None)
    if empty is not None:
        raise CorpusError(str(file), f"clip_id, row {empty}", "is empty", "give every clip a name of its own")
    clip_id, count = Counter(clip.clip_id for clip in clips).most_common(1)[0]
    if count > 1:
        raise CorpusError(
            str(file), "clip_id", f"{clip_id!r} stands there {count} times", "keep one row per clip"
        )


def _check_paths(file: Path, clips: Sequence[ClipInput], root: Path) -> None:
    for row, clip in enumerate(clips, start=1):
        for name in (clip.audio, clip.video):
            if name is None:
                continue
            try:
                place_inside(root, name)
            except (CorpusError, ValueError) as fault:
                problem = fault.problem if isinstance(fault, CorpusError) else str(fault)
                raise CorpusError(
                    str(file), f"row {row}, {clip.clip_id}", f"{name}: {problem}",
                    f"name files below {root}, or give root=FOLDER",
                ) from None  # fmt: skip

"""CSV tables of a corpus, plain or .csv.gz, column by column; nothing outside the corpus folder is opened."""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Sequence
from csv import reader as quoted_values
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyarrow import csv

from vavl.errors import CorpusError

_MARKS = ",;\t"
_QUOTED = re.compile('"[^"]*"')
_LONGEST_HEADER = 1 << 20


def place_inside(root: Path, name: str) -> Path:
    """Return the path of ``name`` below ``root``.

    Raises:
        CorpusError: the path, links followed, leads out of ``root``.
    """
    path = root / name
    try:
        place = path.resolve()
    except (OSError, RuntimeError):
        raise CorpusError(str(root), name, "is a link that leads to itself", "put the file there") from None
    if not place.is_relative_to(root.resolve()):
        raise CorpusError(
            str(root), name, f"lies outside the corpus folder: {place}",
            "name files inside the corpus folder; put the file there in place of the link",
        )  # fmt: skip
    return path


def read_text_columns(root: Path, name: str, columns: Sequence[str]) -> list[list[str]]:
    """Read columns of a CSV table as text, spaces around the values removed.

    Args:
        root: corpus folder.
        name: path of the table below it.
        columns: names of the columns to read.

    Returns:
        One list per column; an empty field is "".

    Raises:
        CorpusError: the table is missing, empty, broken or lacks a column.
    """
    path = place_inside(root, name)
    header = read_header(path)
    _check_columns(path, header, columns)
    table = _read(path, columns, {column: pa.string() for column in columns})
    values = [[value.strip() for value in table[column].to_pylist()] for column in columns]
    for column, texts in zip(columns, values, strict=True):
        row = next((row for row, text in enumerate(texts, start=1) if "\0" in text), None)
        if row is not None:
            raise CorpusError(str(path), f"{column}, row {row}", "holds a NUL character", "correct that line")
    return values


def read_number_columns(root: Path, name: str, columns: Sequence[str]) -> npt.NDArray[np.float64]:
    """Read columns of a CSV table as (row, column) float64; an empty field is NaN.

    Raises:
        CorpusError: the table is missing, empty, broken, lacks a column or holds text in one.
    """
    path = place_inside(root, name)
    _check_columns(path, read_header(path), columns)
    table = _read(path, columns, {column: pa.float64() for column in columns})
    arrays = [table[column].to_numpy(zero_copy_only=False) for column in columns]
    values: npt.NDArray[np.float64] = np.stack(arrays, axis=1)
    return values


def read_header(path: Path) -> list[str]:
    """Return the column names of a CSV table.

    Raises:
        CorpusError: the file is missing, is not text in UTF-8, has no header, or names a column twice.
    """
    return _head(path)[0]


def _head(path: Path) -> tuple[list[str], str]:
    """Return the column names of a table, and the mark between its columns: comma, semicolon or tab."""
    line = _first_line(path)
    if not line.strip():
        raise CorpusError(str(path), "", "the table is empty", "restore the file")
    if line.count('"') % 2 or "\0" in line:
        problem = "a name in the header goes over two lines, or the file is no text"
        raise CorpusError(str(path), "header", problem, "write the header into one line")
    marks = _QUOTED.sub("", line)
    mark = max(_MARKS, key=marks.count)
    header = [name.strip() for name in next(quoted_values([line], delimiter=mark, skipinitialspace=True))]
    if len(set(header)) != len(header):
        raise CorpusError(str(path), "header", "a column name occurs twice", "rename one of the columns")
    return header, mark


def _first_line(path: Path) -> str:
    if path.exists() and not path.is_file():
        raise CorpusError(str(path), "", "the table is not a regular file", "put the table itself there")
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
            line = stream.readline(_LONGEST_HEADER)
    except (OSError, EOFError, zlib.error) as fault:
        raise CorpusError(
            str(path), "", f"the table cannot be read: {getattr(fault, 'strerror', None) or fault}",
            "put the table there, or correct its name in the card",
        ) from None  # fmt: skip
    try:
        # Files of old Macs end their lines with a carriage return alone.
        return re.split("[\r\n]", line.decode("utf-8-sig"), maxsplit=1)[0]
    except UnicodeDecodeError as fault:
        raise CorpusError(
            str(path), "", f"the table cannot be read: it is not text in UTF-8 ({fault})",
            "save it as CSV in UTF-8",
        ) from None  # fmt: skip


def _check_columns(path: Path, header: Sequence[str], columns: Sequence[str]) -> None:
    for column in columns:
        if column not in header:
            raise CorpusError(
                str(path), column, f"no such column; the table has {', '.join(header)}",
                "correct the column's name in the card",
            )  # fmt: skip


def _read(path: Path, columns: Sequence[str], types: dict[str, pa.DataType]) -> pa.Table:
    header, mark = _head(path)
    # Where semicolons part the columns, a comma may be the decimal point; a dot is tried first.
    points = (".", ",") if mark == ";" and pa.float64() in types.values() else (".",)
    for point in points:
        try:
            table = csv.read_csv(
                path,  # unpacked by its suffix
                read_options=csv.ReadOptions(column_names=header, skip_rows=1, use_threads=False),
                parse_options=csv.ParseOptions(delimiter=mark, newlines_in_values=True),
                convert_options=csv.ConvertOptions(
                    include_columns=list(columns), column_types=types, decimal_point=point
                ),
            )
            break
        except (pa.ArrowInvalid, OSError) as fault:
            if point == points[-1]:
                raise CorpusError(
                    str(path), ", ".join(columns), f"not a valid table: {fault}", "correct that line"
                ) from None
    if table.num_rows == 0:
        raise CorpusError(str(path), "", "the table has a header and no rows", "restore the file")
    return table

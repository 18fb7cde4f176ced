"""CSV tables of a corpus, plain or .csv.gz, column by column; nothing outside the corpus directory is opened."""

from __future__ import annotations

import gzip
import re
import zlib
from codecs import BOM_UTF16_BE, BOM_UTF16_LE, BOM_UTF32_LE, getincrementaldecoder
from collections.abc import Sequence
from csv import reader as quoted_values
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyarrow import csv

from vavl.errors import CorpusError

_MARKS = ",;\t"
_QUOTED = re.compile('"[^"]*"')
_LONGEST_HEADER = 1 << 20
_SAMPLE_BYTES = 64
_FEWEST_BYTES = 8

MISSING = frozenset(("", "na", "n/a", "n.a.", "nan", "none", "null", "nil", "-", "--", "?", "xxx", "#n/a", "<na>"))
"""What stands in tables where a value is missing, in lower case."""

_MISSING_NUMBERS = sorted(
    {form for text in MISSING for form in (text, text.upper(), text.capitalize())} | {"NaN", "-nan"}
)


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
        fix = "name files inside the corpus directory; put the file there in place of the link"
        raise CorpusError(str(root), name, f"lies outside the corpus directory: {place}", fix)
    return path


def with_slashes(root: Path, name: str) -> str:
    """Return a path that a table names below ``root``; one that was written on Windows as it is found here."""
    turned = name.replace("\\", "/")
    return turned if not (root / name).exists() and (root / turned).exists() else name


def read_text_columns(root: Path, name: str, columns: Sequence[str]) -> list[list[str]]:
    """Read columns of the table ``name`` below ``root`` as text, spaces around the values removed.

    Returns:
        One list per column; an empty field is "".

    Raises:
        CorpusError: the table is missing, empty, broken or lacks a column.
    """
    path, table = _read(root, name, columns, pa.string())
    values = [[value.strip() for value in table[column].to_pylist()] for column in columns]
    for column, texts in zip(columns, values, strict=True):
        row = next((row for row, text in enumerate(texts, start=1) if "\0" in text), None)
        if row is not None:
            raise CorpusError(str(path), f"{column}, row {row}", "holds a NUL character", "correct that line")
    return values


def read_number_columns(root: Path, name: str, columns: Sequence[str]) -> npt.NDArray[np.float64]:
    """Read columns of a CSV table as (row, column) float64; an empty field, NA and the like are NaN.

    Raises:
        CorpusError: the table is missing, empty, broken, lacks a column or holds text in one.
    """
    _, table = _read(root, name, columns, pa.float64())
    arrays = [table[column].to_numpy(zero_copy_only=False) for column in columns]
    values: npt.NDArray[np.float64] = np.stack(arrays, axis=1)
    return values


def read_header(path: Path) -> list[str]:
    """Return the column names of a CSV table; raises like ``read_form``."""
    return read_form(path).header


@dataclass(frozen=True)
class TableForm:
    """How a table is written."""

    header: list[str]
    mark: str  # between columns: comma, semicolon or tab, or the one that a first line ``sep=`` names
    encoding: str  # ``utf8``, or ``utf-16`` (-le, -be) as Excel and SPSS write it
    head_lines: int  # lines before the first row

    def decimal_points(self) -> tuple[str, ...]:
        """Return what may stand before decimals: a comma too, where it does not part the columns."""
        return (".",) if self.mark == "," else (".", ",")


def is_missing(text: str) -> bool:
    """Tell whether a value of a table only says that there is none: NA, nan, none, null, ``-``, xxx, nothing ..."""
    return text.strip().lower() in MISSING


def read_form(path: Path) -> TableForm:
    """Return how a CSV table is written: its header, marks and encoding.

    Raises:
        CorpusError: the file is missing, is not text in UTF-8 or UTF-16, has no header, or names a column twice.
    """
    encoding, lines = _first_lines(path)
    named = re.fullmatch(r"\s*\"?sep=(.)\"?\s*", lines[0], re.IGNORECASE)
    line = lines[1] if named else lines[0]
    if not line.strip():
        problem = "the table is empty"
        if encoding != "utf8":
            problem = f"cannot be read: no text in {encoding} behind its first bytes"
        raise CorpusError(str(path), "", problem, "restore the file")
    if line.count('"') % 2 or "\0" in line:
        problem = "a name in the header goes over two lines, or the file is no text"
        raise CorpusError(str(path), "header", problem, "write the header into one line")
    marks = _QUOTED.sub("", line)
    mark = named[1] if named else max(_MARKS, key=marks.count)
    header = [name.strip() for name in next(quoted_values([line], delimiter=mark, skipinitialspace=True))]
    if len(set(header)) != len(header):
        raise CorpusError(str(path), "header", "a column name occurs twice", "rename one of the columns")
    return TableForm(header, mark, encoding, 2 if named else 1)


def _first_lines(path: Path) -> tuple[str, list[str]]:
    """Return the encoding of a table and its first two lines; "" for one that is not there."""
    if path.exists() and not path.is_file():
        raise CorpusError(str(path), "", "the table is not a regular file", "put the table itself there")
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
            head = stream.read(_LONGEST_HEADER)
    except (OSError, EOFError, zlib.error) as error:
        problem = f"the table cannot be read: {getattr(error, 'strerror', None) or error}"
        raise CorpusError(str(path), "", problem, "put the table there, or correct its name in the card") from None
    encoding = _encoding(head)
    try:
        if encoding == "utf8":
            lines = [line.decode("utf-8-sig") for line in re.split(b"\r\n|[\r\n]", head, maxsplit=2)[:2]]
        else:
            # Files of old Macs end their lines with a carriage return alone.
            lines = re.split("\r\n|[\r\n]", getincrementaldecoder(encoding)().decode(head), maxsplit=2)
    except UnicodeError as error:
        problem = f"the table cannot be read: it is not text in UTF-8 or UTF-16 ({error})"
        raise CorpusError(str(path), "", problem, "save it as CSV in UTF-8") from None
    return encoding, [*lines, ""][:2]


def _encoding(head: bytes) -> str:
    """Tell UTF-16 by its byte order mark, or by a zero byte in every ASCII character, from UTF-8."""
    if head.startswith((BOM_UTF16_LE, BOM_UTF16_BE)) and not head.startswith(BOM_UTF32_LE):
        return "utf-16"
    start = head[:_SAMPLE_BYTES]
    low, high = start[0::2], start[1::2]
    if len(start) >= _FEWEST_BYTES and not any(high) and all(low):
        return "utf-16-le"
    return "utf-16-be" if len(start) >= _FEWEST_BYTES and not any(low) and all(high) else "utf8"


def _read(root: Path, name: str, columns: Sequence[str], kind: pa.DataType) -> tuple[Path, pa.Table]:
    path = place_inside(root, name)
    form = read_form(path)
    for column in columns:
        if column not in form.header:
            problem = f"no such column; the table has {', '.join(form.header)}"
            raise CorpusError(str(path), column, problem, "correct the column's name in the card")
    # Where no comma parts the columns, it may be the decimal point; a dot is tried first.
    points = form.decimal_points() if kind == pa.float64() else (".",)
    for point in points:
        try:
            table = csv.read_csv(
                path,  # unpacked by its suffix
                read_options=csv.ReadOptions(
                    column_names=form.header, skip_rows=form.head_lines, use_threads=False, encoding=form.encoding
                ),
                parse_options=csv.ParseOptions(delimiter=form.mark, newlines_in_values=True),
                convert_options=csv.ConvertOptions(
                    include_columns=list(columns),
                    column_types=dict.fromkeys(columns, kind),
                    decimal_point=point,
                    null_values=_MISSING_NUMBERS,
                ),
            )
            break
        except (pa.ArrowInvalid, OSError, UnicodeError) as error:
            if point == points[-1]:
                problem = f"not a valid table: {error}"
                raise CorpusError(str(path), ", ".join(columns), problem, "correct that line") from None
    if table.num_rows == 0:
        raise CorpusError(str(path), "", "the table has a header and no rows", "restore the file")
    return path, table

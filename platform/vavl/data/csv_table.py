"""CSV tables of a corpus, plain or .csv.gz, column by column; nothing outside the corpus folder is opened."""

from __future__ import annotations

import gzip
import re
import zlib
from collections import Counter
from collections.abc import Sequence
from csv import reader as quoted_values
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyarrow import csv

from vavl.config.files import sha256_of_file
from vavl.data.card_sources import TableSource
from vavl.errors import CorpusError


@dataclass(frozen=True)
class FeatureTable:
    """Ready features of one modality.

    Attributes:
        keys: one key per row, each once.
        columns: names of the features, in the order of the file.
        values: (row, feature) float32; NaN where the file has none.
        file_hash: SHA-256 of the file.
    """

    keys: tuple[str, ...]
    columns: tuple[str, ...]
    values: npt.NDArray[np.float32]
    file_hash: str


def place_inside(root: Path, name: str) -> Path:
    """Return the path of ``name`` below ``root``.

    Raises:
        CorpusError: the path, links followed, leads out of ``root``.
    """
    path = root / name
    if not path.resolve().is_relative_to(root.resolve()):
        raise CorpusError(
            str(root), name, f"lies outside the corpus folder: {path.resolve()}",
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
    return [[value.strip() for value in table[column].to_pylist()] for column in columns]


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


def read_feature_table(source: TableSource, root: Path) -> FeatureTable:
    """Read the whole table of ready features that a card names.

    Raises:
        CorpusError: the table is missing, empty or broken, a key is repeated, or the number of feature
            columns differs from ``width``.
    """
    path = place_inside(root, source.file)
    columns = [name for name in read_header(path) if re.fullmatch(source.feature_columns, name)]
    if len(columns) != source.width:
        raise CorpusError(
            str(path), "video.feature_columns",
            f"{len(columns)} columns match {source.feature_columns}, the card says width {source.width}",
            "correct feature_columns or width in the card, or restore the table",
        )  # fmt: skip
    (keys,) = read_text_columns(root, source.file, (source.key_column,))
    if len(set(keys)) != len(keys):
        repeated = next(key for key, count in Counter(keys).items() if count > 1)
        raise CorpusError(
            str(path), source.key_column, f"key {repeated!r} occurs twice", "keep one row per clip"
        )
    values = read_number_columns(root, source.file, columns)
    return FeatureTable(tuple(keys), tuple(columns), values.astype(np.float32), sha256_of_file(path))


def read_header(path: Path) -> list[str]:
    """Return the column names of a CSV table.

    Raises:
        CorpusError: the file is missing, has no header, or names a column twice.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
            line = stream.readline().decode("utf-8-sig")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as fault:
        raise CorpusError(
            str(path), "", f"the table cannot be read: {getattr(fault, 'strerror', None) or fault}",
            "put the table there, or correct its name in the card",
        ) from None  # fmt: skip
    if not line.strip():
        raise CorpusError(str(path), "", "the table is empty", "restore the file")
    header = [name.strip() for name in next(quoted_values([line], skipinitialspace=True))]
    if len(set(header)) != len(header):
        raise CorpusError(str(path), "header", "a column name occurs twice", "rename one of the columns")
    return header


def _check_columns(path: Path, header: Sequence[str], columns: Sequence[str]) -> None:
    for column in columns:
        if column not in header:
            raise CorpusError(
                str(path), column, f"no such column; the table has {', '.join(header)}",
                "correct the column's name in the card",
            )  # fmt: skip


def _read(path: Path, columns: Sequence[str], types: dict[str, pa.DataType]) -> pa.Table:
    header = read_header(path)
    try:
        table = csv.read_csv(
            path,  # unpacked by its suffix
            read_options=csv.ReadOptions(column_names=header, skip_rows=1, use_threads=False),
            convert_options=csv.ConvertOptions(include_columns=list(columns), column_types=types),
        )
    except (pa.ArrowInvalid, OSError) as fault:
        raise CorpusError(
            str(path), ", ".join(columns), f"not a valid table: {fault}", "correct that line"
        ) from None
    if table.num_rows == 0:
        raise CorpusError(str(path), "", "the table has a header and no rows", "restore the file")
    return table

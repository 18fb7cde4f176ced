"""Columns of a label table, whether it is a CSV file or a container of the CMU Multimodal SDK."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vavl.errors import CorpusError
from vavl.media.csd import KEY_COLUMN, read_csd_columns, read_csd_keys
from vavl.media.csv_table import read_number_columns, read_text_columns


def text_column(root: Path, name: str, column: str) -> list[str]:
    """Return one column as text; of a .csd file only the column ``key``.

    Raises:
        CorpusError: the file is missing or broken, or has no such column of text.
    """
    if not name.endswith(".csd"):
        return read_text_columns(root, name, (column,))[0]
    if column != KEY_COLUMN:
        raise CorpusError(
            str(root / name), column, f"the only text of a .csd file is `{KEY_COLUMN}`: its segments, video[n]",
            f"write key_column: {KEY_COLUMN}, and soft_columns or attribute_columns for the rest",
        )  # fmt: skip
    return read_csd_keys(root, name)


def number_columns(root: Path, name: str, columns: Sequence[str]) -> npt.NDArray[np.float64]:
    """Return columns as (row, column) float64, NaN where the table has nothing.

    Raises:
        CorpusError: the file is missing or broken, or has no such column of numbers.
    """
    read = read_csd_columns if name.endswith(".csd") else read_number_columns
    return read(root, name, columns)

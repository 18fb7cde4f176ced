"""Labels in one table of a card (CSV, or .csd of the CMU Multimodal SDK): classes, shares or votes, attributes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from vavl.corpora.card_sources import LabelTable
from vavl.corpora.discovery import Found
from vavl.errors import CorpusError
from vavl.media.csd import KEY_COLUMN, read_csd_columns, read_csd_keys
from vavl.media.csv_table import is_missing, read_number_columns, read_text_columns
from vavl.media.patterns import named_in, whole_match


class ClipLabel(NamedTuple):
    """What is known about the emotion of one clip: the label columns of a manifest; every part may be missing."""

    label: str | None = None
    soft_label: tuple[float, ...] | None = None  # one share per class in the card's order, sum 1
    arousal: float | None = None  # attributes are rescaled from the corpus' own range to 0 .. 1
    valence: float | None = None
    dominance: float | None = None

    @property
    def is_known(self) -> bool:
        """True when at least one part is known."""
        return any(part is not None for part in self)


@dataclass(frozen=True)
class LabelRows:
    """The rows of a label table that count."""

    classes: Sequence[str]
    table: LabelTable
    root: Path
    # clip id -> what was found; the rows of a table without a file, which is that of a dataset
    clips: Mapping[str, Found] = field(default_factory=dict)

    def labels(self) -> dict[str, ClipLabel]:
        """Return clip id -> label; clips whose rows say nothing are absent.

        Raises:
            CorpusError: the table is missing or broken, repeats a clip, or holds what the card rules out.
        """
        clip_ids = self._clip_ids()
        names = self._names() if self.table.label_column is not None else [None] * len(clip_ids)
        shares = self._shares() if self.table.soft_columns else None
        attributes = self._attributes() if self.table.attribute_columns else {}
        labels = {}
        for row, clip_id in enumerate(clip_ids):
            share = None if shares is None or np.isnan(shares[row]).any() else shares[row]
            labels[clip_id] = ClipLabel(
                names[row] if share is None else names[row] or self._largest(share),
                None if share is None else tuple(share.tolist()),
                **{name: values[row] for name, values in attributes.items()},
            )
        return {clip_id: label for clip_id, label in labels.items() if label.is_known}

    @property
    def _file(self) -> str:
        return str(self.root / (self.table.file or ""))

    def _column(self, column: str) -> list[str]:
        """Return one column as text, all rows."""
        if self.table.file is None:
            return [found.groups[column] or "" for found in self.clips.values()]
        return text_column(self.root, self.table.file, column)

    @cached_property
    def _kept(self) -> npt.NDArray[np.int64]:
        """Rows that count, from 0."""
        rule = self.table.rows
        if rule is None:
            key = self.table.key_column
            return np.arange(len(self.clips) if key is None else len(self._column(key)))
        values = self._column(rule.column)
        kept = np.flatnonzero([whole_match(rule.pattern, value, "rows.pattern") is not None for value in values])
        if not len(kept):
            problem = f"no row matches {rule.pattern}; values e.g. {values[:2]}"
            raise CorpusError(self._file, rule.column, problem, "correct rows.pattern of the card")
        return kept

    def _texts(self, column: str) -> list[str]:
        texts = self._column(column)
        return [texts[row] for row in self._kept]

    def _numbers(self, columns: Sequence[str]) -> npt.NDArray[np.float64]:
        if self.table.file is not None:
            return number_columns(self.root, self.table.file, columns)[self._kept]
        return np.stack([self._as_numbers(name) for name in columns], axis=1)[self._kept]

    def _as_numbers(self, column: str) -> npt.NDArray[np.float64]:
        numbers = np.full(len(self.clips), np.nan)
        for row, (clip_id, text) in enumerate(zip(self.clips, self._column(column), strict=True)):
            try:
                numbers[row] = np.nan if is_missing(text) else float(text)
            except ValueError:
                problem, fix = f"{text!r} is no number", "name a column of numbers"
                raise CorpusError(self._file, f"{column}, clip {clip_id}", problem, fix) from None
        return numbers

    def _row_number(self, row: int) -> str:
        return f"row {int(self._kept[row]) + 1}"

    def _clip_ids(self) -> list[str]:
        if self.table.key_column is None:
            found = list(self.clips)
            return [found[row] for row in self._kept]
        clip_ids: dict[str, None] = {}
        for row, key in enumerate(self._texts(self.table.key_column)):
            clip_id = named_in(self.table.key_pattern, key, "key_pattern")
            if not clip_id or clip_id in clip_ids:
                problem = "is there twice" if clip_id else f"does not match {self.table.key_pattern}"
                problem = f"key {key!r} {problem}"
                fix = "correct the table, or key_pattern or rows of the card's label table"
                raise CorpusError(self._file, f"{self.table.key_column}, {self._row_number(row)}", problem, fix)
            clip_ids[clip_id] = None
        return list(clip_ids)

    def _names(self) -> Sequence[str | None]:
        assert self.table.label_column is not None
        return [self._name(text) for text in self._texts(self.table.label_column)]

    def _name(self, text: str) -> str | None:
        column, names = str(self.table.label_column), self.table.map
        if is_missing(text) and text not in (self.classes if names is None else names):
            return None
        if names is None:
            return known_class(self.classes, text, self._file, column)
        if text not in names:
            outcomes = ", ".join(str(name) for name in dict.fromkeys(names.values()))
            problem = f"`{text}` is not in the card's map, which leads to {outcomes}"
            raise CorpusError(self._file, column, problem, "add it to the map of the card's label table")
        name = names[text]
        return None if name is None else known_class(self.classes, name, self._file, column)

    def _shares(self) -> npt.NDArray[np.float64]:
        """Return (row, class) shares of sum 1; a row that says nothing is NaN."""
        columns = list(self.table.soft_columns.values())
        read = self._numbers(columns)
        shares = np.zeros((len(read), len(self.classes)))
        shares[:, [self.classes.index(name) for name in self.table.soft_columns]] = read
        empty = np.isnan(read).all(axis=1)
        if self.table.on_zero == "unlabelled":
            empty |= (read == 0).all(axis=1)
        unfit = ~np.isfinite(shares).all(axis=1) | (shares < 0).any(axis=1) | (shares.sum(axis=1) <= 0)
        wrong = ~empty & unfit
        if wrong.any():
            row = int(wrong.argmax())
            problem = f"shares {read[row].tolist()} are no distribution"
            fix = "give every class a share of 0 or more, at least one of them above 0"
            raise CorpusError(self._file, f"{', '.join(columns)}, {self._row_number(row)}", problem, fix)
        shares[empty] = np.nan
        normalized: npt.NDArray[np.float64] = shares / shares.sum(axis=1, keepdims=True)
        return normalized

    def _largest(self, share: npt.NDArray[np.float64]) -> str | None:
        """Return the class with the largest share; on a tie as the card says."""
        if self.table.on_tie == "no_class" and (share == share.max()).sum() > 1:
            return None
        return self.classes[int(share.argmax())]

    def _attributes(self) -> dict[str, list[float | None]]:
        """Return each attribute of the table by row, 0 .. 1; None where the table has nothing."""
        columns = self.table.attribute_columns
        named = list(columns)
        read = self._numbers([columns[name] for name in named])
        assert self.table.attribute_range is not None
        low, high = self.table.attribute_range
        wrong = (read < low) | (read > high)
        if wrong.any():
            row, place = (int(position) for position in np.argwhere(wrong)[0])
            problem = f"{named[place]} {read[row, place]:g} is outside {low:g} .. {high:g}"
            fix = "correct the value, or attribute_range in the card"
            raise CorpusError(self._file, f"{columns[named[place]]}, {self._row_number(row)}", problem, fix)
        # A new array: what the table says stays as it is, however often it is read.
        rescaled = (read - low) / (high - low)
        return {
            name: [None if np.isnan(value) else float(value) for value in rescaled[:, place]]
            for place, name in enumerate(named)
        }


def known_class(classes: Sequence[str], name: str, file: str, field: str) -> str:
    """Return ``name`` if it is a class of the card. Raises CorpusError if it is not."""
    if name not in classes:
        problem = f"label {name!r} is outside the classes {', '.join(classes)}"
        raise CorpusError(file, field, problem, "correct the label, or add the class or a map to the card")
    return name


def text_column(root: Path, name: str, column: str) -> list[str]:
    """Return one column as text; of a .csd file only the column ``key``.

    Raises:
        CorpusError: the file is missing or broken, or has no such column of text.
    """
    if not name.endswith(".csd"):
        return read_text_columns(root, name, (column,))[0]
    if column != KEY_COLUMN:
        problem = f"the only text of a .csd file is `{KEY_COLUMN}`: its segments, video[n]"
        fix = f"write key_column: {KEY_COLUMN}, and soft_columns or attribute_columns for the rest"
        raise CorpusError(str(root / name), column, problem, fix)
    return read_csd_keys(root, name)


def number_columns(root: Path, name: str, columns: Sequence[str]) -> npt.NDArray[np.float64]:
    """Return columns as (row, column) float64, NaN where the table has nothing.

    Raises:
        CorpusError: the file is missing or broken, or has no such column of numbers.
    """
    read = read_csd_columns if name.endswith(".csd") else read_number_columns
    return read(root, name, columns)

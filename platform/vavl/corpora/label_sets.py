"""Every set of labels that a card names: read from names and tables, and as columns of a manifest.

The chosen set stands in columns of plain names, the others as <column>__<set>.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from vavl.corpora.card import CorpusCard
from vavl.corpora.card_sources import GroupValue, LabelTable, NameLabels, TableLabels
from vavl.corpora.discovery import Found
from vavl.errors import ConfigError, CorpusError
from vavl.media.csd import KEY_COLUMN, read_csd_columns, read_csd_keys
from vavl.media.csv_table import is_missing, read_number_columns, read_text_columns
from vavl.media.patterns import named_in, whole_match

logger = logging.getLogger(__name__)


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


LABEL_COLUMNS = ClipLabel._fields
_KINDS = (pa.string(), pa.list_(pa.float32()), pa.float32(), pa.float32(), pa.float32())
_PARTS = ("class", "shares", "attributes", "attributes", "attributes")  # for messages

Column = tuple[str, pa.DataType, list[Any]]
Labels = dict[str, ClipLabel]  # clip id -> label; unlabeled clips are absent


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


def read_labels(card: CorpusCard, root: Path, clips: Mapping[str, Found]) -> dict[str, Labels]:
    """Return the labels of ``clips`` (clip id -> one modality of the clip) by the name of their set.

    Raises:
        CorpusError: a label is outside the card's classes (file and classes are named), or a label
            table is missing, broken, repeats a clip or matches no clip at all.
    """
    sets: dict[str, Labels] = {}
    for name, labels in card.labels.items():
        match labels:
            case NameLabels():
                sets[name] = _labels_of_names(card, name, labels, clips)
            case TableLabels(tables=tables):
                sets[name] = _labels_of_tables(card, root, tables, clips)
    return sets


def group_value(fact: str, value: GroupValue, found: Found) -> str | None:
    """Return a fact of a clip, read from the groups of its name; None where it is unknown.

    Raises:
        CorpusError: the card's map does not hold the group's text.
    """
    texts = [found.groups[group] for group in value.groups]
    text = "_".join(text for text in texts if text) if all(texts) else None
    if text is None or value.map is None:
        return text or None
    if text not in value.map:
        outcomes = dict.fromkeys(str(name) for name in value.map.values())
        groups = ", ".join(value.groups)
        problem = f"`{text}` (group {groups}) is not in the card's map, which leads to {', '.join(outcomes)}"
        raise CorpusError(found.place, fact, problem, f"add it to {fact}.map of the card, or remove the clip")
    return value.map[text]


def _labels_of_names(card: CorpusCard, name: str, labels: NameLabels, clips: Mapping[str, Found]) -> Labels:
    fact = f"labels.{name}"
    named = ((clip_id, group_value(fact, labels.value, found)) for clip_id, found in clips.items())
    return {
        clip_id: ClipLabel(known_class(card.classes, label, clips[clip_id].place, fact))
        for clip_id, label in named
        if label is not None
    }


def _labels_of_tables(
    card: CorpusCard, root: Path, tables: tuple[LabelTable, ...], clips: Mapping[str, Found]
) -> Labels:
    joined: Labels = {}
    for table in tables:
        file = root / (table.file or "")
        labels = LabelRows(card.classes, table, root, clips).labels()
        of_table = labels if table.file is None else _of_clips(file, labels, clips)
        for clip_id, label in of_table.items():
            joined[clip_id] = _both(file, clip_id, joined.get(clip_id, ClipLabel()), label)
    return joined


def _of_clips(file: Path, labels: Labels, clips: Mapping[str, Found]) -> Labels:
    surplus = sorted(labels.keys() - clips.keys())
    if len(surplus) == len(labels):
        problem = f"no row belongs to a clip; rows e.g. {surplus[:1]}, clips e.g. {sorted(clips)[:1]}"
        fix = "correct key_column or key_pattern of the card's label table"
        raise CorpusError(str(file), "key_column", problem, fix)
    if surplus:
        logger.warning("%s: %d labels belong to no clip and are left out, e.g. %s", file, len(surplus), surplus[0])
    return {clip_id: label for clip_id, label in labels.items() if clip_id in clips}


def _both(file: Path, clip_id: str, one: ClipLabel, other: ClipLabel) -> ClipLabel:
    """Join what two tables say of a clip; neither overrules the other."""
    pairs = list(zip(one, other, strict=True))
    twice = [part for part, (first, second) in zip(_PARTS, pairs, strict=True) if None not in (first, second)]
    if twice:
        problem = f"an earlier table of the set gives the clip's {' and '.join(dict.fromkeys(twice))} too"
        fix = "name each part of a label in one table only, or make two sets of labels"
        raise CorpusError(str(file), clip_id, problem, fix)
    return ClipLabel._make(first if first is not None else second for first, second in pairs)


def column_of_set(column: str, name: str) -> str:
    """Return the name of a label column of a set that is not the chosen one."""
    return f"{column}__{name}"


def columns_of_labels(clip_ids: Sequence[str], sets: Mapping[str, Mapping[str, ClipLabel]]) -> list[Column]:
    """Return the columns of every set, the first being the chosen one; without any set they are all null."""
    columns: list[Column] = []
    for position, (name, known) in enumerate(sets.items() or [("", {})]):
        labels = [known.get(clip_id, ClipLabel()) for clip_id in clip_ids]
        for place, (column, kind) in enumerate(zip(LABEL_COLUMNS, _KINDS, strict=True)):
            named = column_of_set(column, name) if position else column
            columns.append((named, kind, [label[place] for label in labels]))
    return columns


def with_label_set(table: pa.Table, metadata: Mapping[str, Any], name: str) -> tuple[pa.Table, dict[str, Any]]:
    """Return table and metadata in which the label set ``name`` is the chosen one; nothing is copied.

    Raises:
        ConfigError: the manifest holds no such set; the known ones are listed.
    """
    sets, chosen = metadata.get("labels", {}), metadata.get("label_set", "")
    if name not in sets:
        problem = f"there is no set of labels `{name}`"
        fix = f"choose one of {', '.join(sets)}, or null" if sets else "leave data.labels null: there is one set"
        raise ConfigError(f"manifest of {metadata['corpus']}", "data.labels", problem, fix)
    if name == chosen:
        return table, dict(metadata)
    new_names = {column: column_of_set(column, chosen) for column in LABEL_COLUMNS}
    new_names |= {column_of_set(column, name): column for column in LABEL_COLUMNS}
    renamed = table.rename_columns([new_names.get(column, column) for column in table.column_names])
    return renamed, {**metadata, "label_set": name, "target": sets[name]["target"]}

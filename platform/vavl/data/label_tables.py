"""Labels of clips: from the groups of a pattern or from a table joined by clip id."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vavl.data.card import CorpusCard
from vavl.data.card_sources import GroupValue, LabelTable
from vavl.data.csv_table import read_number_columns, read_text_columns
from vavl.data.discovery import Found
from vavl.errors import CorpusError

logger = logging.getLogger(__name__)

ATTRIBUTES = ("arousal", "valence", "dominance")


@dataclass(frozen=True)
class ClipLabel:
    """What is known about the emotion of one clip; every part may be missing.

    Attributes:
        name: the class.
        shares: one share per class in the card's order, sum 1.
        attributes: arousal, valence, dominance in the corpus' own range.
    """

    name: str | None = None
    shares: tuple[float, ...] | None = None
    attributes: tuple[float | None, float | None, float | None] = (None, None, None)

    @property
    def is_known(self) -> bool:
        """True when at least one part is known."""
        return self.name is not None or self.shares is not None or self.attributes != (None, None, None)


def read_labels(card: CorpusCard, root: Path, clips: Mapping[str, Found]) -> dict[str, ClipLabel]:
    """Return the labels of ``clips`` (clip id -> one side of the clip); unlabelled clips are absent.

    Raises:
        CorpusError: a label is outside the card's classes (file and classes are named), or the label
            table is missing, broken, repeats a clip or matches no clip at all.
    """
    match card.label:
        case GroupValue() as value:
            named = ((clip_id, group_value("label", value, found)) for clip_id, found in clips.items())
            labels = {
                clip_id: ClipLabel(name=_known_class(card.classes, name, clips[clip_id].place, "label"))
                for clip_id, name in named
                if name is not None
            }
        case LabelTable() as table:
            labels = _labels_of_table(card.classes, table, root)
            labels = _joined(root / table.file, labels, clips)
        case None:
            labels = {}
    return labels


def group_value(fact: str, value: GroupValue, found: Found) -> str | None:
    """Return a fact of a clip, read from the groups of its name; None where it is unknown.

    Raises:
        CorpusError: the card's map does not hold the group's text.
    """
    text = found.groups[value.group]
    if text is None or value.map is None:
        return text or None
    if text not in value.map:
        outcomes = dict.fromkeys(str(name) for name in value.map.values())
        raise CorpusError(
            found.place, fact, f"`{text}` (group {value.group}) is not in the card's map, which leads to "
            f"{', '.join(outcomes)}", f"add it to {fact}.map of the card, or remove the clip",
        )  # fmt: skip
    return value.map[text]


def _known_class(classes: Sequence[str], name: str, file: str, field: str) -> str:
    if name not in classes:
        raise CorpusError(
            file, field, f"label {name!r} is outside the classes {', '.join(classes)}",
            "correct the label, or add the class or a map to the card",
        )  # fmt: skip
    return name


def _joined(file: Path, labels: dict[str, ClipLabel], clips: Mapping[str, Found]) -> dict[str, ClipLabel]:
    surplus = sorted(labels.keys() - clips.keys())
    if len(surplus) == len(labels):
        raise CorpusError(
            str(file), "key_column",
            f"no row belongs to a clip; rows e.g. {surplus[:1]}, clips e.g. {sorted(clips)[:1]}",
            "correct label.key_column or label.key_pattern in the card",
        )  # fmt: skip
    if surplus:
        logger.warning(
            "%s: %d labels belong to no clip and are left out, e.g. %s", file, len(surplus), surplus[0]
        )
    return {clip_id: label for clip_id, label in labels.items() if clip_id in clips}


def _labels_of_table(classes: Sequence[str], table: LabelTable, root: Path) -> dict[str, ClipLabel]:
    clip_ids = _clip_ids(table, root)
    names: Sequence[str | None] = [None] * len(clip_ids)
    if table.label_column is not None:
        (texts,) = read_text_columns(root, table.file, (table.label_column,))
        names = [_table_name(classes, table, root, text) for text in texts]
    shares = _shares(classes, table, root) if table.soft_columns else None
    attributes = _attributes(table, root) if table.attribute_columns else None
    labels = {}
    for row, (clip_id, name) in enumerate(zip(clip_ids, names, strict=True)):
        share = None if shares is None or np.isnan(shares[row]).any() else shares[row]
        # Equal shares: the class that comes first in the card.
        largest = None if share is None else classes[int(share.argmax())]
        labels[clip_id] = ClipLabel(
            name=name or largest,
            shares=None if share is None else tuple(share.tolist()),
            attributes=(None, None, None) if attributes is None else attributes[row],
        )
    return {clip_id: label for clip_id, label in labels.items() if label.is_known}


def _clip_ids(table: LabelTable, root: Path) -> list[str]:
    (keys,) = read_text_columns(root, table.file, (table.key_column,))
    clip_ids: dict[str, None] = {}
    for row, key in enumerate(keys, start=1):
        match = re.fullmatch(table.key_pattern, key)
        if match is None or not match["clip"] or match["clip"] in clip_ids:
            problem = (
                "is there twice"
                if match and match["clip"] in clip_ids
                else f"does not match {table.key_pattern}"
            )
            raise CorpusError(
                str(root / table.file), f"{table.key_column}, row {row}", f"key {key!r} {problem}",
                "correct the table or label.key_pattern of the card",
            )  # fmt: skip
        clip_ids[match["clip"]] = None
    return list(clip_ids)


def _table_name(classes: Sequence[str], table: LabelTable, root: Path, text: str) -> str | None:
    if table.map is not None and text:
        if text not in table.map:
            outcomes = ", ".join(str(name) for name in dict.fromkeys(table.map.values()))
            raise CorpusError(
                str(root / table.file), str(table.label_column),
                f"`{text}` is not in the card's map, which leads to {outcomes}",
                "add it to label.map of the card",
            )  # fmt: skip
        mapped = table.map[text]
    else:
        mapped = text or None
    return (
        None
        if mapped is None
        else _known_class(classes, mapped, str(root / table.file), str(table.label_column))
    )


def _shares(classes: Sequence[str], table: LabelTable, root: Path) -> npt.NDArray[np.float64]:
    """Return (row, class) shares of sum 1; a row without any share is NaN."""
    columns = list(table.soft_columns.values())
    read = read_number_columns(root, table.file, columns)
    shares = np.zeros((len(read), len(classes)))
    shares[:, [classes.index(name) for name in table.soft_columns]] = read
    empty = np.isnan(read).all(axis=1)
    wrong = ~empty & (~np.isfinite(shares).all(axis=1) | (shares < 0).any(axis=1) | (shares.sum(axis=1) <= 0))
    if wrong.any():
        row = int(wrong.argmax())
        raise CorpusError(
            str(root / table.file), f"{', '.join(columns)}, row {row + 1}",
            f"shares {read[row].tolist()} are no distribution",
            "give every class a share of 0 or more, at least one of them above 0",
        )  # fmt: skip
    shares[empty] = np.nan
    normalised: npt.NDArray[np.float64] = shares / shares.sum(axis=1, keepdims=True)
    return normalised


def _attributes(table: LabelTable, root: Path) -> list[tuple[float | None, float | None, float | None]]:
    named = [name for name in ATTRIBUTES if name in table.attribute_columns]
    read = read_number_columns(root, table.file, [table.attribute_columns[name] for name in named])
    assert table.attribute_range is not None
    low, high = table.attribute_range
    wrong = (read < low) | (read > high)
    if wrong.any():
        row, place = (int(position) for position in np.argwhere(wrong)[0])
        raise CorpusError(
            str(root / table.file), f"{table.attribute_columns[named[place]]}, row {row + 1}",
            f"{named[place]} {read[row, place]:g} is outside {low:g} .. {high:g}",
            "correct the value, or attribute_range in the card",
        )  # fmt: skip
    values: dict[str, list[float | None]] = {}
    for column, name in enumerate(named):
        values[name] = [None if np.isnan(v) else float(v) for v in read[:, column]]
    unknown: list[float | None] = [None] * len(read)
    return list(zip(*(values.get(name, unknown) for name in ATTRIBUTES), strict=True))

"""Every set of labels that a card names: read from names and tables, and as columns of a manifest.

The chosen set stands in columns of plain names, the others as <column>__<set>.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from vavl.corpora.card import CorpusCard
from vavl.corpora.card_sources import GroupValue, LabelTable, NameLabels, TableLabels
from vavl.corpora.discovery import Found
from vavl.corpora.label_rows import ClipLabel, LabelRows, known_class
from vavl.errors import ConfigError, CorpusError

logger = logging.getLogger(__name__)

LABEL_COLUMNS = ClipLabel._fields
_KINDS = (pa.string(), pa.list_(pa.float32()), pa.float32(), pa.float32(), pa.float32())
_PARTS = ("class", "shares", "attributes", "attributes", "attributes")  # for messages

Column = tuple[str, pa.DataType, list[Any]]
Labels = dict[str, ClipLabel]  # clip id -> label; unlabeled clips are absent


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

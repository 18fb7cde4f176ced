"""Where the label sets of a manifest stand: the chosen set in columns of plain names, the others beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from vavl.corpora.label_rows import ClipLabel
from vavl.errors import ConfigError

LABEL_COLUMNS = ("label", "soft_label", "arousal", "valence", "dominance")

Column = tuple[str, pa.DataType, list[Any]]


def column_of_set(column: str, name: str) -> str:
    """Return the name of a label column of a set that is not the chosen one."""
    return f"{column}__{name}"


def columns_of_labels(clip_ids: Sequence[str], sets: Mapping[str, Mapping[str, ClipLabel]]) -> list[Column]:
    """Return the columns of every set, the first being the chosen one; without any set they are all null."""
    columns: list[Column] = []
    for position, (name, known) in enumerate(sets.items() or [("", {})]):
        labels = [known.get(clip_id, ClipLabel()) for clip_id in clip_ids]
        values: dict[str, tuple[pa.DataType, list[Any]]] = {
            "label": (pa.string(), [label.name for label in labels]),
            "soft_label": (pa.list_(pa.float32()), [label.shares for label in labels]),
            "arousal": (pa.float32(), [label.attributes[0] for label in labels]),
            "valence": (pa.float32(), [label.attributes[1] for label in labels]),
            "dominance": (pa.float32(), [label.attributes[2] for label in labels]),
        }
        for column, (kind, of_clips) in values.items():
            columns.append((column_of_set(column, name) if position else column, kind, of_clips))
    return columns


def with_label_set(
    table: pa.Table, metadata: Mapping[str, Any], name: str
) -> tuple[pa.Table, dict[str, Any]]:
    """Return table and metadata in which the label set ``name`` is the chosen one; nothing is copied.

    Raises:
        ConfigError: the manifest holds no such set; the known ones are listed.
    """
    sets, chosen = metadata.get("labels", {}), metadata.get("label_set", "")
    if name not in sets:
        raise ConfigError(
            f"manifest of {metadata['corpus']}", "data.labels", f"there is no set of labels `{name}`",
            f"choose one of {', '.join(sets)}, or null" if sets else "leave data.labels null: there is one set",
        )  # fmt: skip
    if name == chosen:
        return table, dict(metadata)
    new_names = {column: column_of_set(column, chosen) for column in LABEL_COLUMNS}
    new_names |= {column_of_set(column, name): column for column in LABEL_COLUMNS}
    renamed = table.rename_columns([new_names.get(column, column) for column in table.column_names])
    return renamed, {**metadata, "label_set": name, "target": sets[name]["target"]}

"""Labels of one corpus in the classes of a merged store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from vavl.corpora.label_columns import LABEL_COLUMNS
from vavl.errors import ConfigError
from vavl.store.merge_settings import MergeSettings


@dataclass(frozen=True)
class MappedLabels:
    """The label columns of a corpus, in the classes of the merged store.

    Attributes:
        columns: by name, those of ``LABEL_COLUMNS``.
        is_dropped: (clips,), True where the class of the clip was dropped.
    """

    columns: Mapping[str, pa.Array]
    is_dropped: NDArray[np.bool_]


def class_maps(
    classes: Mapping[str, tuple[str, ...]], settings: MergeSettings
) -> dict[str, dict[str, str | None]]:
    """Return by corpus what becomes of each of its classes: one of the merged store, or None if it is dropped.

    A class that ``labels`` does not name is kept if the merged store has one of this name.

    Args:
        classes: of each corpus.
        settings: of the merge.

    Raises:
        ConfigError: a class is neither kept nor mapped nor dropped, ``labels`` names one that is not there,
            or a class of the merged store comes from no corpus; all such classes are listed.
    """
    faults = []
    for corpus, names in classes.items():
        named = settings.labels.get(corpus, {})
        lost = [name for name in names if name not in named and name not in settings.classes]
        if lost:
            faults.append(f"labels.{corpus}: {', '.join(lost)}: neither kept nor mapped nor dropped")
        strange = [name for name in named if name not in names]
        if strange:
            faults.append(
                f"labels.{corpus}: {', '.join(strange)}: no class of this corpus ({', '.join(names)})"
            )
    maps = {
        corpus: {name: settings.labels.get(corpus, {}).get(name, name) for name in names}
        for corpus, names in classes.items()
    }
    fed = {new for one in maps.values() for new in one.values()}
    faults += [f"classes: {name}: comes from no corpus" for name in settings.classes if name not in fed]
    if faults:
        raise ConfigError(
            "merge", "", "\n  - ".join(["labels do not fit", *faults]),
            "map each class of a corpus to one of `classes`, or to null to drop it",
        )  # fmt: skip
    return maps


def mapped_labels(table: pa.Table, names: Mapping[str, str | None], classes: tuple[str, ...]) -> MappedLabels:
    """Return the labels of a corpus in the classes of the merged store.

    Shares of dropped classes are taken out of a soft label and the rest is divided by its sum; a soft label
    whose largest share was dropped, and that of a clip whose class was dropped, is null. Attributes stay.

    Args:
        table: of the corpus' manifest; a label column that is not there is null.
        names: what becomes of every class, in the order of the corpus' classes.
        classes: of the merged store.
    """
    old = pa.array(list(names), pa.string())
    label = _column(table, "label", pa.string())
    places = pc.index_in(label, value_set=old)
    new_label = pa.array(list(names.values()), pa.string()).take(places)
    is_dropped = np.asarray(pc.and_(pc.is_valid(places), pc.is_null(new_label)))
    soft, soft_dropped = _mapped_shares(_column(table, "soft_label", pa.list_(pa.float32())), names, classes)
    is_dropped = is_dropped | (soft_dropped & np.asarray(pc.is_null(label)))
    columns = {
        "label": new_label,
        "soft_label": pc.if_else(pa.array(is_dropped), pa.scalar(None, soft.type), soft),
        **{name: _column(table, name, pa.float32()) for name in LABEL_COLUMNS[2:]},
    }
    return MappedLabels(columns, is_dropped)


def _mapped_shares(
    column: pa.Array, names: Mapping[str, str | None], classes: tuple[str, ...]
) -> tuple[pa.Array, NDArray[np.bool_]]:
    """Return the soft labels in the new classes, and where the largest share was of a dropped class."""
    there = np.asarray(column.is_valid())
    shares = np.asarray(column.drop_null().flatten(), dtype=np.float64).reshape(-1, len(names))
    into = np.zeros((len(names), len(classes)))
    for row, new in enumerate(names.values()):
        if new is not None:
            into[row, classes.index(new)] = 1
    kept = shares @ into
    gone = into.sum(axis=1) == 0
    is_lost = gone[shares.argmax(axis=1)] if len(shares) else np.zeros(0, np.bool_)
    # Nothing is divided where nothing was taken out, so that kept shares stay what they are to the bit.
    rest = np.where((shares[:, gone].sum(axis=1) > 0) & ~is_lost, kept.sum(axis=1), 1)
    flat = np.ascontiguousarray((kept / rest[:, None])[~is_lost], dtype=np.float32)
    known = there.copy()
    known[there] = ~is_lost
    ends = np.concatenate([[0], np.cumsum(known)]) * len(classes)
    lists = pa.ListArray.from_arrays(
        pa.array(ends.astype(np.int32)), pa.array(flat.ravel()), mask=pa.array(~known)
    )
    is_dropped = np.zeros(len(column), np.bool_)
    is_dropped[there] = is_lost
    return lists, is_dropped


def _column(table: pa.Table, name: str, kind: pa.DataType) -> pa.Array:
    if name not in table.column_names:
        return pa.nulls(table.num_rows, kind)
    column = table[name].cast(kind).combine_chunks()
    return column if isinstance(column, pa.Array) else pa.concat_arrays(column.chunks)

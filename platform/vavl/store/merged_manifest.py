"""The manifest of a merged store: the rows of all its corpora under names that no other corpus has."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from vavl.corpora.manifest import Manifest
from vavl.corpora.splits import SPLITS
from vavl.store.merge_labels import mapped_labels
from vavl.store.merge_settings import MergeSettings
from vavl.store.merge_splits import MergedFold, check_speakers_are_apart, protocol_of, validation_of

LABEL_SET = "merged"
# Columns beside labels, splits and groups; a manifest that lacks one has nulls there.
_PLAIN = ("corpus", "sex", "audio_path", "audio_table_key", "video_path", "video_table_key")


def unique_names(corpus: str, names: Any) -> Any:
    """Return names of clips or speakers of a corpus with the corpus before them: ``ravdess/01``.

    Names that are sorted stay so, and all those of a corpus stand together: ``/`` sorts before every
    character that the name of a corpus may have.
    """
    return pc.binary_join_element_wise(pa.scalar(corpus), names, "/")


def merged_manifest(
    manifests: Mapping[str, Manifest],
    class_maps: Mapping[str, Mapping[str, str | None]],
    folds: list[MergedFold],
    settings: MergeSettings,
    card_hash: str,
) -> Manifest:
    """Return the manifest of a merged store.

    Args:
        manifests: by corpus, in alphabetical order, each with the set of labels that is taken.
        class_maps: by corpus, what becomes of its classes.
        folds: of the merged store.
        settings: of the merge.
        card_hash: over everything that the merge was made from.
    """
    groups = sorted(
        {name for one in manifests.values() for name in one.table.column_names if _is_group(name)}
    )
    tables = [
        _table(corpus, manifest, class_maps[corpus], folds, (settings, groups))
        for corpus, manifest in manifests.items()
    ]
    table = pa.concat_tables(tables)
    for fold in folds:
        check_speakers_are_apart(table["speaker"], table[f"split_{fold.number}"], fold.number)
    rule = settings.folds
    target = settings.target or _common_target(manifests)
    metadata = {
        "clips": table.num_rows,
        "corpus": settings.name,
        "corpora": sorted(pc.unique(table["corpus"]).to_pylist()),
        "classes": list(settings.classes),
        "labels": {LABEL_SET: {"target": target, "rescaled_from": {}}},
        "label_set": LABEL_SET,
        "target": target,
        "protocol": protocol_of(rule, manifests),
        "folds": [fold.number for fold in folds],
        "fold_names": {str(fold.number): fold.name for fold in folds},
        "card_hash": card_hash,
        "yardsticks": [],
        "validation": validation_of(rule),
    }
    return Manifest(table.replace_schema_metadata({b"vavl": json.dumps(metadata).encode()}))


def _table(
    corpus: str,
    manifest: Manifest,
    names: Mapping[str, str | None],
    folds: list[MergedFold],
    shared: tuple[MergeSettings, list[str]],
) -> pa.Table:
    """Return the rows of one corpus with the columns that all corpora have."""
    settings, groups = shared
    table = manifest.table
    labels = mapped_labels(table, names, settings.classes)
    is_unused = labels.is_dropped & (settings.dropped_clips == "unused")
    splits = {fold.number: fold.column(corpus, manifest, is_unused) for fold in folds}
    columns: dict[str, Any] = {
        "clip_id": unique_names(corpus, table["clip_id"]),
        "speaker": unique_names(corpus, table["speaker"]),
        **{name: _texts(table, name) for name in _PLAIN},
        **labels.columns,
        "test_fold": _test_fold(splits, len(manifest)),
        **{f"split_{number}": column for number, column in splits.items()},
        **{name: _texts(table, name) for name in groups},
    }
    return pa.table(dict(_in_order(columns)))


def _in_order(columns: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the columns in the order of an ordinary manifest."""
    for name in ("clip_id", "corpus", "speaker", "sex"):
        yield name, columns[name]
    for name, column in columns.items():
        if name not in ("clip_id", "corpus", "speaker", "sex", *_PLAIN) and not name.startswith(
            ("split_", "group_")
        ):
            yield name, column
    for name, column in columns.items():
        if name in _PLAIN[2:] or name.startswith(("split_", "group_")):
            yield name, column


def _texts(table: pa.Table, name: str) -> pa.ChunkedArray | pa.Array:
    return (
        table[name].cast(pa.string()) if name in table.column_names else pa.nulls(table.num_rows, pa.string())
    )


def _test_fold(splits: Mapping[int, pa.Array], clips: int) -> pa.Array:
    """Return the first fold that tests each clip, null for a clip that none does."""
    fold: NDArray[np.float64] = np.full(clips, np.nan)
    for number, column in reversed(list(splits.items())):
        fold[np.asarray(pc.equal(column, SPLITS[2]))] = number
    return pa.array(fold, from_pandas=True).cast(pa.int16())


def _common_target(manifests: Mapping[str, Manifest]) -> str:
    targets = {corpus: manifest.target for corpus, manifest in manifests.items()}
    if len(set(targets.values())) == 1:
        return next(iter(targets.values()))
    return "; ".join(f"{corpus}: {target}" for corpus, target in targets.items())


def _is_group(name: str) -> bool:
    return name.startswith("group_")

"""A store of made-up clips, with its manifest and the facts of its files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from vavl.corpora.manifest import Manifest
from vavl.features import ModalityInfo
from vavl.store.clip_facts import FILE_NAME, SCHEMA
from vavl.store.shards import ClipFeatures, row_batch
from vavl.store.store_writer import StoreWriter

Features = Mapping[str, tuple[ModalityInfo, Sequence[ClipFeatures]]]


def write_made_store(
    folder: Path,
    clips: Sequence[Mapping[str, Any]],
    features: Features,
    metadata: Mapping[str, Any],
    facts: Sequence[Mapping[str, Any]] | None = None,
    **counts: int,
) -> Path:
    """Write a store and return its directory.

    Args:
        clips: rows of the manifest, all with the same columns.
        features: by modality what made them, and those of the clips that have it.
        metadata: of the manifest; ``corpus`` and ``card_hash`` are those of the store, too.
        facts: about the files of the clips; None for a store of a version that kept none.
        counts: what store.json says next to the number of clips.
    """
    known = {"folds": [0], "clips": len(clips), "card_hash": "0" * 16, **metadata}
    corpus = known["corpus"]
    writer = StoreWriter(folder, corpus, known["card_hash"])
    schema = pa.schema([(name, _type_of(name)) for name in clips[0]], metadata={b"vavl": json.dumps(known).encode()})
    Manifest(pa.Table.from_pylist(list(clips), schema=schema)).write(folder)
    if facts is not None:
        with pa.ipc.new_stream(str(folder / FILE_NAME), SCHEMA) as stream:
            stream.write_batch(pa.RecordBatch.from_pylist(list(facts), schema=SCHEMA))
    for modality, (info, rows) in features.items():
        writer.write_modality(modality, info, [row_batch(corpus, info.width, rows)] if rows else [])
    writer.finish({"clips": len(clips), **counts})  # last: store.json names the files of the manifest
    return folder


def _type_of(column: str) -> pa.DataType:
    """Return the type of a column of a manifest, of whatever label set."""
    match column.partition("__")[0]:
        case "soft_label":
            return pa.list_(pa.float32())
        case "arousal" | "valence" | "dominance":
            return pa.float32()
        case _:
            return pa.string()

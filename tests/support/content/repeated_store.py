"""Stores of any number of clips over the shards of a small one, whose rows the index repeats: they cost an index."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from synthetic_store import CLASSES

from vavl.config.files import read_json, sha256_of_file, write_dataset_state, write_json
from vavl.corpora.manifest import MANIFEST_FILE
from vavl.store.arrays import PIECE
from vavl.store.rows import IDS_SCHEMA, ModalityIndex, ids_file, index_file
from vavl.store.store import content_hash

_IDS_PER_BATCH = 2**13
"""As the writer of a store has it."""
_DIGITS = 9  # in three groups of three
_ID = b"clip"
_THREE_DIGITS = np.array([list(b"%03d" % number) for number in range(1000)], np.uint8)
_METADATA = {
    "corpus": "synthetic", "classes": CLASSES, "target": "class of the mean", "protocol": "tenths of speakers",
    "folds": [0], "card_hash": "0" * 16,
}  # fmt: skip


def write_repeated_store(folder: Path, real: Path, clips: int) -> Path:
    """Write a store of ``clips`` clips whose features are those of the store ``real``, again and again.

    Each clip of ``real`` is a speaker; fold 0 has 6, 2 and 2 tenths of them.
    """
    content, ids = read_json(real / "store.json"), folder / "ids"
    folder.mkdir()
    _write(ids, IDS_SCHEMA, ([clip_ids(part)] for part in _parts(clips, _IDS_PER_BATCH)))
    for modality, entry in content["modalities"].items():
        few = entry["clips"]
        if clips % few:
            raise ValueError(f"{clips} clips are no multiple of {few}")
        (folder / modality).mkdir()
        for path in (real / modality).iterdir():
            os.link(path, folder / modality / path.name)
        os.link(real / f"{modality}_sums.arrow", folder / f"{modality}_sums.arrow")
        index = ModalityIndex.read(real / index_file(modality), few, 4 * entry["width"])
        _repeat(index, folder / index_file(modality), few, clips // few)
        os.link(ids, folder / ids_file(modality))
        entry["clips"], entry["frames"] = clips, entry["frames"] * (clips // few)
    _write_manifest(folder / MANIFEST_FILE, few, clips)
    for name, known in content["files"].items():
        if (folder / name).exists():
            known.update(bytes=(folder / name).stat().st_size, sha256=sha256_of_file(folder / name))
    content["files"][MANIFEST_FILE] = {
        "bytes": (folder / MANIFEST_FILE).stat().st_size, "sha256": sha256_of_file(folder / MANIFEST_FILE),
    }  # fmt: skip
    content["store_hash"] = content_hash(content)
    write_json(folder / "store.json", content)
    return folder


def clip_ids(numbers: np.ndarray) -> pa.Array:
    """Return sorted ids of clips by their numbers, without an object for each."""
    text = np.empty((len(numbers), len(_ID) + _DIGITS), np.uint8)
    text[:, : len(_ID)] = np.frombuffer(_ID, np.uint8)
    for place, unit in enumerate((10**6, 10**3, 1)):
        text[:, len(_ID) + 3 * place :][:, :3] = _THREE_DIGITS[numbers // unit % 1000]
    offsets = np.arange(0, text.size + 1, text.shape[1], dtype=np.int32)
    return pa.StringArray.from_buffers(len(numbers), pa.py_buffer(offsets), pa.py_buffer(text))


def _parts(clips: int, size: int) -> Iterator[np.ndarray]:
    for start in range(0, clips, size):
        yield np.arange(start, min(start + size, clips))


def _repeat(index: ModalityIndex, path: Path, few: int, times: int) -> None:
    """Write the arrays of an index one after the other, each repeated; record batches of later rounds begin later."""
    with path.open("wb") as file:
        for name, array in index.arrays.items():
            rounds = max(1, PIECE // len(array))
            for first in range(0, times, rounds):
                repeated = np.tile(array, (min(rounds, times - first), 1))
                if name == "first_row":
                    repeated += few * (first + np.arange(len(repeated)))[:, None]
                file.write(repeated.data)


def _write_manifest(path: Path, speakers: int, clips: int) -> None:
    metadata = {b"vavl": json.dumps(_METADATA | {"clips": clips}).encode()}
    names = ("clip_id", "corpus", "speaker", "label", "split_0")
    schema = pa.schema([(name, pa.string()) for name in names], metadata)
    path.parent.mkdir()
    splits = np.arange(speakers) * 10 // speakers
    values = (
        pa.array(["synthetic"] * speakers),
        pa.array([f"s{number:03d}" for number in range(speakers)]),
        pa.array([CLASSES[number % len(CLASSES)] for number in range(speakers)]),
        pa.array([("train", "validation", "test")[max(0, tenth // 2 - 2)] for tenth in splits]),
    )
    parts = _parts(clips, PIECE)
    _write(
        path, schema, ([clip_ids(part), *(value.take(pa.array(part % speakers)) for value in values)] for part in parts)
    )
    write_dataset_state(path.parent, [path.name])


def _write(path: Path, schema: pa.Schema, batches: Iterator[list[Any]]) -> None:
    with pa.ipc.new_stream(str(path), schema) as writer:
        for columns in batches:
            writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=schema))

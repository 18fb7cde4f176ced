"""Stores that were damaged without a change of size, and stores as earlier versions wrote them."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from vavl.config.files import sha256_of_file, write_json
from vavl.corpora.manifest import FIRST_FORMAT_MANIFEST, MANIFEST_FILE
from vavl.store.rows import ModalityIndex, index_file
from vavl.store.shards import Shard
from vavl.store.store import FIRST_FORMAT, FeatureStore
from vavl.store.store_writer import FIRST_FORMAT_ROWS, StoreWriter, rebatched
from vavl.store.store_writer import as_first_format as rows_of_first_format


def overwrite(path: Path, old: bytes, new: bytes) -> None:
    """Replace the first ``old`` in a file by as many bytes; the inode stays."""
    assert len(old) == len(new)
    place = path.read_bytes().index(old)
    with path.open("r+b") as file:
        file.seek(place)
        file.write(new)


def place_of(folder: Path, modality: str, row: int) -> tuple[Path, int]:
    """Return the shard of a row and the byte at which its values begin."""
    entry = json.loads((folder / "store.json").read_text())["modalities"][modality]
    frame_bytes = entry["width"] * np.dtype(entry.get("dtype", "float32")).itemsize
    place = ModalityIndex.read(folder / index_file(modality), entry["clips"], frame_bytes).place(row)
    return folder / modality / entry["shards"][place.shard]["name"], place.values_at


def set_value(folder: Path, modality: str, row: int, value: float) -> None:
    """Overwrite the first value of a row."""
    path, place = place_of(folder, modality, row)
    entry = json.loads((folder / "store.json").read_text())["modalities"][modality]
    with path.open("r+b") as file:
        file.seek(place)
        file.write(np.array(value, entry.get("dtype", "float32")).tobytes())


def state_anew(folder: Path) -> Path:
    """State hashes and checksums of the features as they are: as if an extractor had written these values."""
    store = FeatureStore.open(folder)
    sums = {name: store.speaker_sums(name) for name in store.info}
    (dtype,) = {store.dtype(name) for name in store.info}
    writer = StoreWriter(folder, store.corpus, store.content["card_hash"], dtype)
    for name, info in store.info.items():
        shards = [Shard(**entry) for entry in store.content["modalities"][name]["shards"]]
        shards = [replace(shard, sha256=sha256_of_file(folder / name / shard.name)) for shard in shards]
        writer.add_shards(name, info, shards, known_sums=sums[name])
    writer.finish(store.content["counts"])
    return folder


def as_first_format(folder: Path) -> Path:
    """Make a store what earlier versions of this project wrote: a file per modality and one of the manifest."""
    store = FeatureStore.open(folder)
    content = dict(store.content, format_version=FIRST_FORMAT, files={})
    for name, entry in content["modalities"].items():
        with pa.ipc.new_stream(str(folder / f"{name}.arrow"), FIRST_FORMAT_ROWS) as writer:
            for batch in rebatched(store.batches(name)):
                writer.write_batch(rows_of_first_format(batch))
        assert sha256_of_file(folder / f"{name}.arrow") == entry["sha256"]
        del entry["shards"]
        shutil.rmtree(folder / name)
        for path in folder.glob(f"{name}_i*"):
            path.unlink()
    if (folder / MANIFEST_FILE).exists():
        path = (folder / MANIFEST_FILE).rename(folder / FIRST_FORMAT_MANIFEST)
        shutil.rmtree(folder / "manifest")
        content["files"][path.name] = {"bytes": path.stat().st_size, "sha256": sha256_of_file(path)}
    write_json(folder / "store.json", content)
    return folder
